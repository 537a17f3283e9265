//! What all scenarios of a run stand on.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use runtime::Config;

use crate::{
    migrate,
    servers::{
        find,
        place::{self, ServerUser},
        postgres,
    },
    token,
};

/// The migrated database that every scenario's is copied from.
const TEMPLATE: &str = "template_chancery";

/// What all scenarios of a run share: PostgreSQL, keys, a folder. Everything goes with it.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) postgres: postgres::Postgres,
    /// Where nats-server is.
    pub(super) nats: find::Installed,
    /// This program.
    pub(super) exe: PathBuf,
    /// Private and public.
    pub(super) keys: (String, String),
    /// Of every database role.
    pub(super) password: String,
    databases: u32,
    folder: Folder,
}

#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Base {
    /// Starts PostgreSQL and migrates the template. Blocking: outside of any async runtime.
    ///
    /// # Errors
    /// A server cannot be found or does not start.
    pub(super) fn start(config: &Config) -> anyhow::Result<Self> {
        let user = ServerUser::needed()?;
        let parent = [std::env::temp_dir(), "/var/tmp".into()].into_iter().find(|folder| place::reachable(folder, user));
        let folder =
            Folder(parent.context("no folder can be reached by PostgreSQL's user")?.join(format!("chancery-planted-{}", std::process::id())));
        fs::create_dir_all(&folder.0)?;
        fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o711))?;
        let exe = std::env::current_exe().context("finding this program")?;
        let (named, password) = (find::Named::from_env(), token::secret());
        let options = postgres::Options {
            root: folder.0.join("postgres"),
            log: folder.0.join("postgres.log"),
            port: None,
            password: password.clone(),
            settings: vec!["max_connections=400".into(), "log_min_messages=warning".into()],
            remove: Some(folder.0.join("postgres")),
        };
        let postgres = postgres::Postgres::start(&exe, &find::postgres(&named, &config.data, None)?, options)?;
        postgres.create_database(TEMPLATE)?;
        migrate::run(&postgres.url(TEMPLATE), Some(&password))?;
        let nats = find::nats(&named, &config.data)?;
        Ok(Self { postgres, nats, exe, keys: token::keygen()?, password, databases: 0, folder })
    }

    /// Where everything lies.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.0
    }

    /// A fresh, migrated database; its name. Blocking.
    ///
    /// # Errors
    /// The server refuses.
    pub(super) fn database(&mut self) -> anyhow::Result<String> {
        self.databases += 1;
        let name = format!("d{}", self.databases);
        self.postgres.connect("postgres")?.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"))?;
        Ok(name)
    }
}
