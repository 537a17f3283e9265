//! The servers below a test: a nats-server each, and one PostgreSQL that all share, with a database each.

use std::{
    path::{Path, PathBuf},
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use chancery::{
    manifest::Manifest,
    migrate,
    servers::{
        find::{self, Named},
        nats::{self, Nats},
        place::{self, ServerUser},
        postgres::{self, Postgres},
    },
};

/// The password of everything in a test.
pub(crate) const PASSWORD: &str = "test";
/// The migrated database that every test's database is copied from.
const TEMPLATE: &str = "template_chancery";

/// The program under test.
pub(crate) fn exe() -> PathBuf {
    env!("CARGO_BIN_EXE_chancery").into()
}

/// Where fetched servers lie when the user's cache cannot be written.
fn data() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("servers")
}

/// A fresh folder that the server's user can reach.
pub(crate) fn fresh_folder(what: &str) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let user = ServerUser::needed().unwrap();
    let parent = [std::env::temp_dir(), "/var/tmp".into()].into_iter().find(|folder| place::reachable(folder, user)).unwrap();
    let folder = parent.join(format!("chancery-test-{}-{}-{what}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// A PostgreSQL with the migrated template in it.
pub(crate) fn start_postgres() -> Postgres {
    let installed = find::postgres(&Named::from_env(), &data(), None).unwrap();
    let folder = fresh_folder("postgres");
    let options = postgres::Options {
        root: folder.join("server"),
        log: folder.join("postgres.log"),
        port: None,
        password: PASSWORD.into(),
        // Tests kill processes, not machines; the system keeps what it was given.
        settings: vec!["fsync=off".into(), "max_connections=400".into(), "log_min_messages=warning".into()],
        remove: Some(folder),
    };
    let server = Postgres::start(&exe(), &installed, options).unwrap();
    server.create_database(TEMPLATE).unwrap();
    migrate::run(&server.url(TEMPLATE), Some(PASSWORD)).unwrap();
    server
}

/// Started by the first test that needs it; ends with the test process, because its guard sees the pipe close.
static SHARED: LazyLock<Postgres> = LazyLock::new(start_postgres);

/// The server that all tests share.
pub(crate) fn shared_postgres() -> &'static Postgres {
    &SHARED
}

/// A fresh, migrated database; its name.
pub(crate) fn fresh_database(server: &Postgres) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let name = format!("t{}", COUNT.fetch_add(1, Ordering::Relaxed));
    server.connect("postgres").unwrap().batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}")).unwrap();
    name
}

/// A nats-server on a fresh folder and port.
pub(crate) fn start_nats(sync: nats::Sync, manifest: &'static Manifest) -> Nats {
    let installed = find::nats(&Named::from_env(), &data()).unwrap();
    let folder = fresh_folder("nats");
    let options = nats::Options {
        root: folder.join("server"),
        log: folder.join("nats.log"),
        port: None,
        monitor_port: None,
        password: PASSWORD.into(),
        sync,
        manifest,
        node: None,
        remove: Some(folder),
    };
    Nats::start(&exe(), &installed, options).unwrap()
}
