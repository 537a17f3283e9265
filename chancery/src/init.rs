//! `chancery init`: everything secret that a cluster needs, made once in one folder, and each process's share of it where that process
//! alone can read it.
//!
//! `private/` holds what was drawn: one file a secret, for nobody but `init`. All other files follow from it, so a second run changes
//! nothing, a run after an upgrade adds what is new, and renewing means drawing anew and running again. Each process reads its folder by a
//! group of its own, so `init` needs no rights of root: the owner of a file may give it to any group that it is in itself.

pub mod certificates;
mod nats;
mod place;
pub mod reader;

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use self::{place::Place, reader::Reader};
use crate::{
    manifest::{Entry, Manifest},
    migrate,
    role::{Consumer, Role},
    token,
};

/// The superuser and the database of the cluster's PostgreSQL, as `compose.yaml` makes them.
const SUPERUSER: &str = "chancery";
const DATABASE: &str = "chancery";
/// Where the database listens in the cluster.
const DATABASE_HOST: &str = "postgres:5432";

/// What can be drawn anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Renew {
    /// The servers' certificate, by the same authority.
    Certificates,
    /// The passwords of the NATS users.
    NatsPasswords,
    /// The passwords of the database roles; not the superuser's.
    DatabasePasswords,
    /// The key pair of access tokens: every token ends.
    TokenKey,
}

impl Renew {
    /// True for a file of `private/` that is part of it.
    fn covers(self, name: &str) -> bool {
        match self {
            Self::Certificates => name.starts_with("server."),
            Self::NatsPasswords => name.starts_with("nats-"),
            Self::DatabasePasswords => name.starts_with("database-"),
            Self::TokenKey => name.starts_with("token."),
        }
    }
}

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The folder, in the cluster a volume.
    #[arg(long)]
    pub out: PathBuf,
    /// Gives each process's files to its group, as in compose.yaml; the caller must be in all of them. Without it all is the caller's own.
    #[arg(long)]
    pub groups: bool,
    /// A folder that a server or role writes into, `<who>=<folder>`; handed to its group.
    #[arg(long = "folder", value_name = "WHO=FOLDER", value_parser = folder)]
    pub folders: Vec<(Reader, PathBuf)>,
    /// How much each nats-server may store at most, as its configuration takes it.
    #[arg(long, default_value = "20GB", env = "CHANCERY_NATS_STORE")]
    pub nats_store: String,
    /// Where the nats-servers' monitoring listens. It has no authentication.
    #[arg(long, default_value = "127.0.0.1", env = "CHANCERY_NATS_MONITOR")]
    pub nats_monitor: std::net::IpAddr,
    /// A file that declares the consumers of other teams.
    #[arg(long, env = "CHANCERY_MANIFEST")]
    pub manifest: Option<PathBuf>,
    /// Draws something anew first; see docs/compose.md for what must be restarted then.
    #[arg(long, value_enum)]
    pub renew: Vec<Renew>,
}

fn folder(text: &str) -> Result<(Reader, PathBuf), String> {
    let (who, path) = text.split_once('=').ok_or("expected WHO=FOLDER")?;
    let reader = Reader::all().find(|reader| reader.name() == who).ok_or_else(|| format!("there is no {who}"))?;
    Ok((reader, path.into()))
}

/// Makes what is missing; tells which files were written, as paths below the folder.
///
/// # Errors
/// The folder cannot be written, or its files cannot be given to their groups.
pub fn run(options: &Options) -> anyhow::Result<Vec<PathBuf>> {
    let mut place = Place::open(&options.out, options.groups)?;
    for what in &options.renew {
        place.forget(|name| what.covers(name))?;
    }
    let drawn = certificates::drawn(&mut place)?;
    place.share(Path::new("ca.pem"), &drawn.authority, None)?;
    let manifest = options.manifest.as_deref().map_or_else(|| Ok(Manifest::built_in()), Manifest::load)?;
    nats::write(&mut place, manifest, &drawn, options)?;
    let superuser = place.secret("postgres", &token::secret)?;
    place.share(Path::new("postgres/password"), &superuser, Some(Reader::Postgres))?;
    administration(&mut place, &superuser)?;
    for role in reader::roles() {
        credentials(&mut place, role)?;
    }
    for entry in manifest.of_teams() {
        of_team(&mut place, entry)?;
    }
    for (reader, folder) in &options.folders {
        place.hand_over(folder, *reader).with_context(|| format!("handing {} to {}", folder.display(), reader.name()))?;
    }
    Ok(place.finish())
}

/// What the one-shots and operators hold.
fn administration(place: &mut Place, superuser: &str) -> anyhow::Result<()> {
    let url = database_url(SUPERUSER, superuser);
    for reader in [Reader::Migrate, Reader::Operator] {
        place.share(&reader.credentials("database-url"), &url, Some(reader))?;
    }
    for name in migrate::ROLES {
        let password = database_password(place, name)?;
        place.share(&Reader::Migrate.credentials(&format!("passwords/{name}")), &password, Some(Reader::Migrate))?;
    }
    for reader in [Reader::Provisioner, Reader::Operator, Reader::System] {
        let password = nats::password(place, reader.name())?;
        place.share(&reader.credentials("nats-password"), &password, Some(reader))?;
    }
    Ok(())
}

/// What a role holds: its own passwords, and the keys that are meant for it.
fn credentials(place: &mut Place, role: Role) -> anyhow::Result<()> {
    let reader = Reader::Role(role);
    let password = database_password(place, role.database_role())?;
    let mut held = vec![("database-url", database_url(role.database_role(), &password)), ("nats-password", nats::password(place, role.name())?)];
    if role == Role::Gateway {
        let (private, public) = token_keys(place)?;
        held.extend([("token.pem", private), ("token.pub.pem", public), ("fingerprint", place.secret("fingerprint", &token::secret)?)]);
    }
    if matches!(role, Role::Gateway | Role::Consumer(Consumer::Notifications)) {
        held.push(("link", place.secret("link", &token::secret)?));
    }
    for (name, text) in held {
        place.share(&reader.credentials(name), &text, Some(reader))?;
    }
    Ok(())
}

/// What another team's program holds. The operator hands it on: where that program runs is not ours to know.
fn of_team(place: &mut Place, entry: &Entry) -> anyhow::Result<()> {
    let mut held = vec![("nats-password", nats::password(place, entry.name)?)];
    if let Some(role) = entry.database_role() {
        let password = database_password(place, &role)?;
        place.share(&Reader::Migrate.credentials(&format!("passwords/{role}")), &password, Some(Reader::Migrate))?;
        held.push(("database-url", database_url(&role, &password)));
    }
    for (name, text) in held {
        place.share(&Reader::Operator.credentials(&format!("teams/{}/{name}", entry.name)), &text, Some(Reader::Operator))?;
    }
    Ok(())
}

fn database_password(place: &mut Place, database_role: &str) -> anyhow::Result<String> {
    place.secret(&format!("database-{database_role}"), &token::secret)
}

fn database_url(user: &str, password: &str) -> String {
    format!("postgres://{user}:{password}@{DATABASE_HOST}/{DATABASE}")
}

/// The key pair of access tokens: private, public. Both or neither: they belong together.
fn token_keys(place: &mut Place) -> anyhow::Result<(String, String)> {
    if let (Some(private), Some(public)) = (place.known("token.pem")?, place.known("token.pub.pem")?) {
        return Ok((private, public));
    }
    let (private, public) = token::keygen()?;
    place.keep("token.pem", &private)?;
    place.keep("token.pub.pem", &public)?;
    Ok((private, public))
}
