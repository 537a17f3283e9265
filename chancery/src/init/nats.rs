//! The configuration of the three nats-servers.

use std::path::PathBuf;

use super::{Options, Reader, certificates::Drawn, place::Place};
use crate::{
    manifest::Manifest,
    privilege::{self, nats::User},
    token,
};

/// The servers of the cluster.
const NODES: [&str; 3] = ["nats-1", "nats-2", "nats-3"];
/// Where the servers find their files.
const MOUNTED: &str = "/run/chancery/nats";

/// Writes certificates and a configuration for each server.
pub(super) fn write(place: &mut Place, manifest: &Manifest, drawn: &Drawn, options: &Options) -> anyhow::Result<()> {
    let path = |name: &str| PathBuf::from("nats").join(name);
    place.share(&path("ca.pem"), &drawn.authority, Some(Reader::Nats))?;
    place.share(&path("server.pem"), &drawn.server, Some(Reader::Nats))?;
    place.share(&path("server.key"), &drawn.server_key, Some(Reader::Nats))?;
    let accounts = accounts(place, manifest)?;
    for node in NODES {
        place.share(&path(&format!("{node}.conf")), &configuration(node, options, &accounts), Some(Reader::Nats))?;
    }
    Ok(())
}

/// The password of a NATS user, drawn when it is missing.
pub(super) fn password(place: &mut Place, user: &str) -> anyhow::Result<String> {
    place.secret(&format!("nats-{user}"), &token::secret)
}

/// The accounts with their users and what each may do.
fn accounts(place: &mut Place, manifest: &Manifest) -> anyhow::Result<String> {
    let passwords: Vec<(User, String)> =
        User::all(manifest).into_iter().map(|user| Ok((user, password(place, user.name())?))).collect::<anyhow::Result<_>>()?;
    let of = |user: User| passwords.iter().find(|(one, _)| *one == user).map(|(_, password)| password.clone()).unwrap_or_default();
    Ok(privilege::nats::accounts(manifest, &of))
}

/// What one server is told. Limits are for a cluster whose clients are our own processes and those of a few teams.
fn configuration(node: &str, options: &Options, accounts: &str) -> String {
    let routes: Vec<String> = NODES.iter().map(|node| format!("\"tls://{node}:6222\"")).collect();
    format!(
        r#"# Written by `chancery init`, which will overwrite changes.
server_name: "{node}"
listen: "0.0.0.0:4222"
# Without authentication; in the container only, for its health check, unless somebody has chosen otherwise.
http: "{monitor}:8222"

max_connections: 2000
max_subscriptions: 5000
max_payload: 1MB
max_pending: 32MB
max_control_line: 4KB
write_deadline: "10s"
ping_interval: "20s"
ping_max: 3
# SIGUSR2, which `stop` sends: leaders move away first, then clients are sent to the other servers a few at a time.
lame_duck_duration: "30s"
lame_duck_grace_period: "2s"

tls {{
  cert_file: "{MOUNTED}/server.pem"
  key_file: "{MOUNTED}/server.key"
  ca_file: "{MOUNTED}/ca.pem"
  timeout: 5
}}

cluster {{
  name: "chancery"
  listen: "0.0.0.0:6222"
  # Clients list all servers themselves; the addresses that servers know of each other are in no certificate.
  no_advertise: true
  tls {{
    cert_file: "{MOUNTED}/server.pem"
    key_file: "{MOUNTED}/server.key"
    ca_file: "{MOUNTED}/ca.pem"
    verify: true
    timeout: 5
  }}
  routes: [ {routes} ]
}}

jetstream {{
  store_dir: "/data"
  # What is acknowledged is on disk.
  sync_interval: always
  max_file_store: {store}
  max_memory_store: 256MB
}}

{accounts}"#,
        monitor = options.nats_monitor,
        store = options.nats_store,
        routes = routes.join(", "),
    )
}
