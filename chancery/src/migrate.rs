//! `chancery migrate`: every owner's SQL, each with a history table of its own, under one lock; then the login roles.
//!
//! After an owner's files it writes the version its tables have, and the oldest that programs must know ([`crate::schema`]).

use std::{path::Path, time::Duration};

use anyhow::{Context as _, anyhow, bail};
use postgres::{Client, NoTls, error::SqlState};
use refinery::{Migration, Runner, error::Kind};

use crate::{
    connect::database_session,
    manifest::{Entry, Manifest},
    schema::Versions,
};

mod list {
    include!(concat!(env!("OUT_DIR"), "/migrations.rs"));
}

/// The database roles of the processes: one for each, with only the rights that its migrations grant.
pub const ROLES: [&str; 9] = [
    "chancery_gateway",
    "chancery_worker",
    "chancery_logging",
    "chancery_audit",
    "chancery_notifications",
    "chancery_onboarding",
    "chancery_guests",
    "chancery_withdrawals",
    "chancery_authz_cache",
];

/// The key of the advisory lock that lets one migration run at a time in a database.
const LOCK: i64 = 0x6368_616e_6365_7279;
/// Roles belong to the whole cluster: migrations of several databases may collide there and are repeated.
const ATTEMPTS: u32 = 20;

/// What a migration has done.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Report {
    /// Migrations applied now, `owner/V1__what`.
    pub applied: Vec<String>,
}

/// The passwords that the roles are to have.
#[derive(Clone, PartialEq, Eq)]
pub enum Passwords {
    /// As they are; a fresh role cannot log in.
    None,
    /// The same for all: development and tests.
    One(String),
    /// One for each role, as (role, password).
    Each(Vec<(String, String)>),
}

impl Passwords {
    /// Reads a file for each role from a folder; for the roles of teams, too.
    ///
    /// # Errors
    /// A role has no file, or it is empty.
    pub fn from_folder(folder: &Path, manifest: &Manifest) -> anyhow::Result<Self> {
        let password = |role: String| {
            let path = folder.join(&role);
            let text = std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            if text.trim().is_empty() { Err(anyhow!("{} is empty", path.display())) } else { Ok((role, text.trim().to_owned())) }
        };
        let of_teams = manifest.of_teams().filter_map(Entry::database_role);
        Ok(Self::Each(ROLES.into_iter().map(str::to_owned).chain(of_teams).map(password).collect::<anyhow::Result<_>>()?))
    }

    pub(crate) fn of(&self, role: &str) -> Option<&str> {
        match self {
            Self::None => None,
            Self::One(password) => Some(password),
            Self::Each(passwords) => passwords.iter().find(|(name, _)| *name == role).map(|(_, password)| password.as_str()),
        }
    }
}

/// Brings the database at `url` up to date and lets the roles log in with `password` when there is one. Blocking: call it before an
/// async runtime starts, or outside of it.
///
/// # Errors
/// See [`with_passwords`].
pub fn run(url: &str, password: Option<&str>) -> anyhow::Result<Report> {
    with_passwords(url, &password.map_or(Passwords::None, |password| Passwords::One(password.to_owned())))
}

/// The same with passwords of any kind.
///
/// # Errors
/// The database cannot be reached, or a migration fails; the text names it.
pub fn with_passwords(url: &str, passwords: &Passwords) -> anyhow::Result<Report> {
    let mut attempt = 1;
    let mut report = Report::default();
    loop {
        match once(url, passwords, &mut report) {
            Err(error) if attempt < ATTEMPTS && is_collision(&error) => {
                std::thread::sleep(Duration::from_millis(u64::from(20 * attempt + rand::random_range(0..50))));
                attempt += 1;
            }
            result => return result.map(|()| report),
        }
    }
}

/// One attempt; what it applied before it failed is in the report, too, because it stays applied.
fn once(url: &str, passwords: &Passwords, report: &mut Report) -> anyhow::Result<()> {
    let mut client = connect(&database_session(url, "chancery-migrate")?)?;
    client.batch_execute("SET lock_timeout = '60s'")?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).context("waiting for another migration")?;
    create_roles(&mut client)?;
    for (owner, files) in ordered() {
        let migrations = files.iter().map(|(file, sql)| migration(owner, file, sql)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut runner = Runner::new(&migrations);
        runner.set_migration_table_name(format!("refinery_{owner}"));
        let done = runner.run(&mut client).map_err(|error| {
            let newer = matches!(error.kind(), Kind::MissingVersion(_));
            let error = anyhow!(error).context(format!("migrations/{owner}"));
            if newer { error.context("a newer release has migrated this database, only it can do more") } else { error }
        })?;
        report.applied.extend(done.applied_migrations().iter().map(|one| format!("{owner}/{one}")));
        write_versions(&mut client, owner, versions(owner, files)?)?;
    }
    for role in ROLES {
        if let Some(password) = passwords.of(role) {
            client.batch_execute(&format!("ALTER ROLE {role} LOGIN PASSWORD {}", quoted(password))).with_context(|| format!("role {role}"))?;
        }
    }
    Ok(())
}

/// Connects, and makes the database first if there is none yet: a server that was killed while it made its data may not have got so far.
fn connect(config: &postgres::Config) -> anyhow::Result<Client> {
    let missing = |error: &postgres::Error| error.code() == Some(&SqlState::UNDEFINED_DATABASE);
    let again = match config.connect(NoTls) {
        Err(error) if missing(&error) => {
            let name = config.get_dbname().context("DATABASE_URL names no database")?.replace('"', "\"\"");
            let mut server = config.clone().dbname("postgres").connect(NoTls).context("connecting to the server")?;
            match server.batch_execute(&format!("CREATE DATABASE \"{name}\"")) {
                Err(error) if error.code() != Some(&SqlState::DUPLICATE_DATABASE) => return Err(error).context("making the database"),
                _ => config.connect(NoTls),
            }
        }
        result => result,
    };
    again.context("connecting to the database")
}

/// Core first, because the others may refer to it; then by name.
fn ordered() -> Vec<&'static (&'static str, &'static [(&'static str, &'static str)])> {
    let mut owners: Vec<_> = list::OWNERS.iter().collect();
    owners.sort_by_key(|(name, _)| (*name != "core", *name));
    owners
}

/// The owners of tables, core first.
pub(crate) fn owner_names() -> impl Iterator<Item = &'static str> {
    ordered().into_iter().map(|(name, _)| *name)
}

/// `0001_what.sql` → 1 and `what`.
fn parts<'a>(owner: &str, file: &'a str) -> anyhow::Result<(i32, &'a str)> {
    let parts = file.strip_suffix(".sql").and_then(|stem| stem.split_once('_'));
    let parts = parts.and_then(|(number, what)| Some((number.parse().ok()?, what)));
    parts.with_context(|| format!("migrations/{owner}/{file} is not named NNNN_what.sql"))
}

/// `0001_what.sql` → `V1__what`, the name that refinery wants.
fn migration(owner: &str, file: &str, sql: &str) -> anyhow::Result<Migration> {
    let (number, what) = parts(owner, file)?;
    Migration::unapplied(&format!("V{number}__{what}"), sql).with_context(|| format!("migrations/{owner}/{file}"))
}

/// The versions of an owner's tables that this program was built with; none for who owns no tables.
pub(crate) fn known(owner: &str) -> anyhow::Result<Option<Versions>> {
    list::OWNERS.iter().find(|(name, _)| *name == owner).map(|(_, files)| versions(owner, files)).transpose()
}

/// What an owner's files come to: the highest number, and the highest that a contracting one demands.
fn versions(owner: &str, files: &[(&str, &str)]) -> anyhow::Result<Versions> {
    let mut versions = Versions { version: 0, oldest: 0 };
    for (file, sql) in files {
        let (number, _) = parts(owner, file)?;
        versions.version = versions.version.max(number);
        for line in sql.lines() {
            let oldest = contract(line, number).with_context(|| format!("migrations/{owner}/{file}: {line}"))?;
            versions.oldest = versions.oldest.max(oldest.unwrap_or_default());
        }
    }
    Ok(versions)
}

/// What a line `-- contract: NNNN` of a migration demands: it takes away what programs that do not know NNNN still use. None for any other
/// line.
fn contract(line: &str, number: i32) -> anyhow::Result<Option<i32>> {
    let comment = line.trim_start().strip_prefix("--").unwrap_or_default().trim_start();
    let word = comment.split(|letter: char| !letter.is_alphanumeric()).next();
    if !word.is_some_and(|word| word.eq_ignore_ascii_case("contract")) {
        return Ok(None);
    }
    let digits = line.strip_prefix("-- contract: ").filter(|text| text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit()));
    // A slip here would let programs work on tables that they do not know any more.
    let oldest: i32 = digits.context("a contracting migration says `-- contract: NNNN` on a line of its own")?.parse()?;
    if !(1..=number).contains(&oldest) {
        bail!("no program can know {oldest:04} by then: 0001 to {number:04} are possible");
    }
    Ok(Some(oldest))
}

/// Never lower than what is there, so that whatever an older program does here takes nothing back.
fn write_versions(client: &mut Client, owner: &str, Versions { version, oldest }: Versions) -> anyhow::Result<()> {
    let write = "INSERT INTO schema_versions AS kept (owner, version, oldest) VALUES ($1, $2, $3)
        ON CONFLICT (owner) DO UPDATE SET version = greatest(kept.version, excluded.version), oldest = greatest(kept.oldest, excluded.oldest)";
    client.execute(write, &[&owner, &version, &oldest]).with_context(|| format!("noting the version of {owner}"))?;
    Ok(())
}

fn create_roles(client: &mut Client) -> anyhow::Result<()> {
    for role in ROLES {
        if client.query_opt("SELECT 1 FROM pg_roles WHERE rolname = $1", &[&role])?.is_none() {
            client.batch_execute(&format!("CREATE ROLE {role} NOLOGIN NOSUPERUSER NOBYPASSRLS")).with_context(|| format!("role {role}"))?;
        }
    }
    Ok(())
}

/// A literal that is safe inside a statement which takes no parameters.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\0', "").replace('\'', "''"))
}

/// True for an error that may be over in a moment: the server is not there, or starts, or ends.
pub fn may_pass(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let from_server = cause.downcast_ref::<postgres::Error>();
        let states = [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::TOO_MANY_CONNECTIONS];
        let passing = from_server.is_some_and(|error| error.is_closed() || error.code().is_some_and(|code| states.contains(code)));
        passing || cause.is::<std::io::Error>()
    })
}

/// True for errors that only mean "another database of this cluster changed the same role at the same moment".
fn is_collision(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let code = cause.downcast_ref::<postgres::Error>().and_then(postgres::Error::as_db_error);
        code.is_some_and(|db| {
            let same_row = *db.code() == SqlState::INTERNAL_ERROR && db.message().contains("concurrently");
            let same_role = [SqlState::UNIQUE_VIOLATION, SqlState::DUPLICATE_OBJECT].contains(db.code()) && db.message().contains("authid");
            same_row || same_role || [SqlState::T_R_DEADLOCK_DETECTED, SqlState::T_R_SERIALIZATION_FAILURE].contains(db.code())
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_has_a_name_that_refinery_understands() -> anyhow::Result<()> {
        for (owner, files) in ordered() {
            for (file, sql) in *files {
                migration(owner, file, sql)?;
            }
        }
        assert!(migration("core", "first.sql", "").is_err());
        assert_eq!(migration("core", "0001_first.sql", "")?.to_string(), "V1__first");
        Ok(())
    }

    #[test]
    fn the_versions_of_an_owner_are_its_highest_number_and_its_highest_demand() -> anyhow::Result<()> {
        let files = [
            ("0001_first.sql", "CREATE TABLE a ();"),
            ("0009_more.sql", "-- Takes away\n-- contract: 0007\nDROP TABLE a;"),
            ("0010_less.sql", "-- contract: 0004\n"),
        ];
        assert_eq!(versions("core", &files)?, Versions { version: 10, oldest: 7 });
        assert_eq!(versions("core", &files[..1])?, Versions { version: 1, oldest: 0 });
        for (owner, files) in ordered() {
            assert!(versions(owner, files)?.version > 0, "{owner}");
        }
        assert_eq!(known("nobody")?, None);
        Ok(())
    }

    #[test]
    fn a_demand_that_is_not_understood_is_an_error() -> anyhow::Result<()> {
        assert_eq!(contract("-- contract: 0009", 9)?, Some(9));
        for other in ["", "SELECT 1;", "-- The contract: says nothing", "DROP TABLE contract;", "-- Contracting is dear"] {
            assert_eq!(contract(other, 9)?, None, "{other}");
        }
        for wrong in ["-- contract: 9", "--contract: 0009", "-- Contract: 0009", "-- contract 0009", "-- contract: 0009 or so", " -- contract: 0009"]
        {
            assert!(contract(wrong, 9).is_err(), "{wrong}");
        }
        assert!(contract("-- contract: 0010", 9).is_err(), "nobody knows what comes later");
        assert!(contract("-- contract: 0000", 9).is_err());
        Ok(())
    }

    #[test]
    fn a_password_cannot_leave_its_literal() {
        assert_eq!(quoted("a'; DROP ROLE x; --"), "'a''; DROP ROLE x; --'");
    }
}
