//! The floor on the stand: its own database and streams on the same servers, the same number of processes.

use std::net::SocketAddr;

use hyper::{Method, Uri};
use runtime::{Config, Stop};

use super::{
    Options,
    contender::Contender,
    floor::{self, Part},
    stand::Stand,
};
use crate::servers::port;

/// What the names of the floor's processes begin with.
const PREFIX: &str = "floor ";
/// Event ids without an audit row.
const MISSING: &str = "SELECT u.id FROM unnest($1::uuid[]) u (id) WHERE NOT EXISTS (SELECT FROM audit a WHERE a.id = u.id OFFSET 0)";

/// Makes tables and streams and starts the processes. Blocking.
///
/// # Errors
/// A part cannot be started.
pub(super) fn start(config: &Config, options: &Options, stand: &mut Stand, stop: &Stop) -> anyhow::Result<SocketAddr> {
    stand.postgres.create_database(floor::DATABASE)?;
    let database_url = stand.postgres.url(floor::DATABASE);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(floor::provision(&stand.nats.url(), &database_url, config.partitions))?;
    let listen = SocketAddr::from(([127, 0, 0, 1], port::free(None)?));
    let environment = [
        ("DATABASE_URL", database_url),
        ("CHANCERY_LISTEN", listen.to_string()),
        ("CHANCERY_GROUP_COMMIT", options.group_commit().to_string()),
        ("CHANCERY_PARTITIONS", config.partitions.to_string()),
    ];
    for part in Part::ALL {
        let ready = (part == Part::Gateway).then_some(listen);
        stand.spawn(&format!("{PREFIX}{}", part.name()), &["floor", part.name()], &environment, ready, stop)?;
    }
    Ok(listen)
}

/// The contender with its aggregates, which need no creating: a state is made by its first command.
///
/// # Errors
/// The database does not answer.
pub(super) async fn contender(listen: SocketAddr, options: &Options, stand: &Stand) -> anyhow::Result<Contender> {
    let door = (listen, Method::POST, None);
    let mut contender = Contender::connect("floor", PREFIX, door, &stand.postgres.url(floor::DATABASE), MISSING).await?;
    let path = |number: usize| Uri::try_from(format!("/{}/{number}", number % options.tenants));
    contender.body = options.floor_body;
    contender.paths = (0..options.aggregates).map(path).collect::<Result<_, _>>()?;
    Ok(contender)
}
