//! What faults are done to: the same cluster, as processes of this machine or as containers.

mod backend;
pub mod compose;
mod disk;
mod links;
mod part;
pub mod processes;
mod stand;

use std::{collections::BTreeMap, future::Future, net::SocketAddr, time::Duration};

use runtime::nats::Access;

use super::{
    fault::{Action, Node},
    kind::Kind,
    plan::Shape,
    reach::Reach,
};

/// What a target is asked by faults and probes beyond what load and checkers ask ([`Reach`]). None of it leads through a proxy.
#[derive(Debug, Clone)]
pub struct Doors {
    /// NATS with the operator's rights: stream and consumer leaders, reading what is stored.
    pub operator: Access,
    /// NATS with a worker's rights: what somebody with its credentials could publish.
    pub worker: Access,
    /// NATS with the gateway's rights, for COMMANDS.
    pub gateway: Access,
    /// NATS with the system account's rights: the leader of all nodes. None where there is none; then that fault is skipped.
    pub system: Option<Access>,
    /// The monitoring of every node, by the part's name (`nats-1`).
    pub monitors: BTreeMap<String, SocketAddr>,
    /// Every gateway by its part's name, past the load's proxies.
    pub gateways: BTreeMap<String, SocketAddr>,
}

/// A fault that a target is asked to do.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// Its number in the run: what [`Target::lift`] is told.
    pub fault: usize,
    /// What to do. Nodes that are named by what they lead are named already ([`super::fault::Node::Named`]); step-downs, repeats and
    /// poison never come here, they go through the [`Doors`].
    pub action: &'a Action,
    /// How long it lasts: for what is done several times over it.
    pub length: Duration,
}

/// Something that faults are done to.
///
/// Several faults may be under way at once, on the same part, too: each is undone by its number, and what another still does stays done.
/// A part that dies is started again by the target as a supervisor does; nothing else is mended by itself.
pub trait Target: Send + Sync + 'static {
    /// Its parts by name.
    fn shape(&self) -> &Shape;

    /// Where load and checkers reach it.
    fn reach(&self) -> &Reach;

    /// Where faults and probes reach it.
    fn doors(&self) -> &Doors;

    /// Whether it can do this kind here.
    ///
    /// # Errors
    /// Why not, as a sentence for the report.
    fn able(&self, kind: Kind) -> Result<(), String>;

    /// Begins a fault; returns once it is on (what ends by itself, like a restart one by one, has ended then). [`Target::lift`] is called
    /// whatever this returns.
    fn begin(&self, order: Order<'_>) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Ends a fault; returns once its parts run again. Harmless for one that is over or never was.
    fn lift(&self, fault: usize) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Ends every fault at once, whoever began it.
    fn lift_all(&self) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Whether a part serves: a role's `/readyz`, a node's JetStream, PostgreSQL's answer.
    fn serves(&self, part: &str) -> impl Future<Output = bool> + Send;
}

/// The name of a node; those named by what they lead are named before.
fn named(node: &Node) -> anyhow::Result<&str> {
    match node {
        Node::Named(name) => Ok(name),
        other => anyhow::bail!("nobody has said who the {other} is"),
    }
}

/// Doors that lead nowhere, for tests that never go through them.
#[cfg(test)]
pub(super) fn nowhere() -> (Reach, Doors) {
    use runtime::config::Secret;

    use super::reach::{NatsReach, Parts};

    let access = Access::at("nats://127.0.0.1:1");
    let (monitors, gateways) = (BTreeMap::new(), BTreeMap::new());
    let doors = Doors { operator: access.clone(), worker: access.clone(), gateway: access, system: None, monitors, gateways };
    let nats = NatsReach { urls: Secret::new(""), user: None, password: None, ca: None, monitors: Vec::new() };
    let (database_url, token_private_key) = (Secret::new(""), Secret::new(""));
    let reach = Reach { gateways: Vec::new(), database_url, nats, token_private_key, mail: None, parts: Parts::new(Vec::new) };
    (reach, doors)
}
