//! `chancery stand`: the servers that a consumer's test needs, in any language: fresh, provisioned, and gone with whoever has started it.

use std::{collections::BTreeMap, io::Write as _, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, anyhow};
use clap::Args;
use runtime::{
    Config, Stop,
    config::Secret,
    store::{self, history},
};
use serde_json::json;

use crate::{
    manifest::{Entry, Manifest},
    migrate::{self, Passwords},
    privilege::nats::User,
    provision,
    servers::{
        find::{self, Named},
        nats::{self, Nats},
        place::{self, ServerUser},
        postgres::{self, Postgres},
    },
    token,
};

/// The database.
const DATABASE: &str = "chancery";

/// What is asked for.
#[derive(Debug, Args)]
pub struct Options {
    /// The manifest whose consumers are made (docs/manifest.md); CHANCERY_MANIFEST, or the examples, unless named.
    #[arg(long)]
    manifest: Option<PathBuf>,
}

/// Starts a nats-server and a PostgreSQL of its own, migrates and provisions them, prints one line of JSON that says how they are reached, and keeps
/// them until standard input or the process ends. Nothing else runs on them: events are published by the test.
///
/// # Errors
/// A server cannot be found or does not start, or the manifest is refused.
pub fn run(config: &Config, options: &Options) -> anyhow::Result<ExitCode> {
    let manifest = match options.manifest.as_deref().or(config.manifest.as_deref()) {
        Some(path) => Manifest::load(path)?,
        None => Manifest::with_examples(),
    };
    let (nats, postgres) = start(config, manifest)?;
    let passwords = token::secret();
    migrate::run(&postgres.url(DATABASE), Some(&passwords))?;
    let of =
        |url: String, database: String| Config { nats_url: Secret::new(url), database_url: Secret::new(database), replicas: 1, ..config.clone() };
    let superuser = of(nats.url(), postgres.url(DATABASE));
    provision::teams(&superuser, manifest, &Passwords::One(passwords.clone()))?;
    provision::with(&of(nats.url_as(User::Provisioner), String::new()), manifest)?;
    let consumers: BTreeMap<&str, BTreeMap<&str, String>> = manifest
        .of_teams()
        .map(|entry| {
            let database = entry.database_role().map(|role| postgres.url_as(&role, &passwords, DATABASE));
            (entry.name, variables(entry, nats.url_as(User::Team(entry.name)), database).into_iter().collect())
        })
        .collect();
    let about = json!({ "natsUrl": nats.url(), "databaseUrl": postgres.url(DATABASE), "consumers": consumers });
    chancery_kit::process::runtime_on(Some(1))?.block_on(async {
        // No worker is here to compare them; both are empty.
        let client = store::connect(&superuser, "chancery stand", "").await.map_err(|error| anyhow!(error))?;
        history::note_checked(&client).await.context("noting that EVENTS agrees with the database")?;
        drop(client);
        let mut out = std::io::stdout().lock();
        writeln!(out, "{about}").and_then(|()| out.flush()).context("saying where the servers are")?;
        drop(out);
        let stop = Stop::new();
        crate::signals::watch_signals(&stop)?;
        let mut gone = chancery_kit::process::parent_gone();
        tokio::select! { () = stop.cancelled() => {}, _ = gone.recv() => {} }
        anyhow::Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What another team's program is started with: for any client of NATS, and for one that is made with the kit.
pub(crate) fn variables(entry: &Entry, nats_url: String, database_url: Option<String>) -> Vec<(&'static str, String)> {
    let mut pairs = vec![("NATS_URL", nats_url.clone()), ("NATS_USER", entry.name.to_owned()), ("CHANCERY_NATS_URL", nats_url)];
    pairs.extend(database_url.map(|url| ("DATABASE_URL", url)));
    pairs
}

/// Both servers, on data of their own.
fn start(config: &Config, manifest: &'static Manifest) -> anyhow::Result<(Nats, Postgres)> {
    let exe = std::env::current_exe().context("finding this program")?;
    let named = Named::from_env();
    let folder = folder("nats")?;
    let options = nats::Options {
        root: folder.join("server"),
        log: folder.join("log"),
        port: None,
        monitor_port: None,
        password: token::secret(),
        // A test kills processes, not machines: the system keeps what it was given.
        sync: nats::Sync::Default,
        manifest,
        node: None,
        remove: Some(folder),
    };
    let nats = Nats::start(&exe, &find::nats(&named, &config.data)?, options)?;
    let folder = self::folder("postgres")?;
    let options = postgres::Options {
        root: folder.join("server"),
        log: folder.join("log"),
        port: None,
        password: token::secret(),
        settings: vec!["fsync=off".into(), "max_connections=100".into(), "log_min_messages=warning".into()],
        remove: Some(folder),
    };
    let postgres = Postgres::start(&exe, &find::postgres(&named, &config.data, None)?, options)?;
    postgres.create_database(DATABASE)?;
    Ok((nats, postgres))
}

/// A fresh folder that the server's user can reach; its guard removes it.
fn folder(what: &str) -> anyhow::Result<PathBuf> {
    let user = ServerUser::needed()?;
    let temporary = [std::env::temp_dir(), "/var/tmp".into()];
    let parent = temporary.iter().find(|folder| place::reachable(folder, user)).context("the server's user can reach no temporary folder")?;
    let folder = parent.join(format!("chancery-stand-{}-{what}", std::process::id()));
    std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
    Ok(folder)
}
