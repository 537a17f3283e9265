//! Several nats-servers that are one: each a process of its own on loopback, connected by routes.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    privilege::nats::User,
    servers::{
        find::Installed,
        nats::{Nats, Node, Options},
        port,
    },
};

/// How long the nodes may take to elect the leader that makes streams.
const ELECTION_LIMIT: Duration = Duration::from_secs(60);
/// How often other ports are tried when somebody was faster.
const ATTEMPTS: usize = 3;
/// How long a node may take to end in order.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// The running nodes; one that stands alone is a cluster of one.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Nats>,
}

impl Cluster {
    /// Starts a node for each of `options` (whose `node` is set here) and waits until they have a leader. `route` is asked which port leads
    /// from a node to another that listens on a port: that port itself, or a proxy's.
    ///
    /// # Errors
    /// A node does not start, or they do not agree on a leader in time.
    pub fn start(exe: &Path, installed: &Installed, options: Vec<Options>, route: &dyn Fn(Route) -> anyhow::Result<u16>) -> anyhow::Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::start_once(exe, installed, place(options.clone(), route)?) {
                Err(error) if attempt < ATTEMPTS && port::was_taken(&error) => attempt += 1,
                result => return result,
            }
        }
    }

    fn start_once(exe: &Path, installed: &Installed, options: Vec<Options>) -> anyhow::Result<Self> {
        let nodes = std::thread::scope(|scope| {
            let starting: Vec<_> = options.into_iter().map(|options| scope.spawn(move || Nats::start(exe, installed, options))).collect();
            let started = starting.into_iter().map(|thread| thread.join().unwrap_or_else(|_| bail!("the thread that starts nats-server panicked")));
            started.collect::<anyhow::Result<Vec<_>>>()
        })?;
        let cluster = Self { nodes };
        let deadline = Instant::now() + ELECTION_LIMIT;
        while cluster.nodes.len() > 1 && !cluster.whole() {
            if Instant::now() > deadline {
                bail!("{} nodes of nats-server have no leader that knows all of them after {} s", cluster.nodes.len(), ELECTION_LIMIT.as_secs());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(cluster)
    }

    /// How the operator reaches it: every node, separated by commas, with user and password.
    pub fn url(&self) -> String {
        self.url_as(User::Operator)
    }

    /// How a user reaches it.
    pub fn url_as(&self, user: User) -> String {
        self.nodes.iter().map(|node| node.url_as(user)).collect::<Vec<_>>().join(",")
    }

    /// A user's password.
    pub fn password(&self, user: User) -> String {
        self.nodes.first().map(|node| node.password(user)).unwrap_or_default()
    }

    /// The same without user and password.
    pub fn servers(&self) -> String {
        self.nodes.iter().map(|node| format!("nats://127.0.0.1:{}", node.port())).collect::<Vec<_>>().join(",")
    }

    /// The nodes, in the order of their numbers.
    pub fn nodes(&self) -> &[Nats] {
        &self.nodes
    }

    /// The same, for what changes them.
    pub fn nodes_mut(&mut self) -> &mut [Nats] {
        &mut self.nodes
    }

    /// Takes it apart, for who watches every node by itself.
    pub fn into_nodes(self) -> Vec<Nats> {
        self.nodes
    }

    /// The place among the nodes of the one that leads them all, once a majority says so.
    pub fn leader(&self) -> Option<usize> {
        let names: Vec<Option<String>> = self.nodes.iter().map(|node| meta_leader(node.monitor())).collect();
        (0..self.nodes.len()).find(|index| {
            let name = self.nodes[*index].name();
            names.iter().filter(|said| said.as_deref() == Some(name.as_str())).count() * 2 > self.nodes.len()
        })
    }

    /// True when there is a leader and every other node follows it: only then can a stream have a replica on each.
    pub fn whole(&self) -> bool {
        let followers = self.leader().and_then(|index| {
            let answer = meta(self.nodes[index].monitor())?;
            let replicas = answer.get("replicas")?.as_array()?.clone();
            let follows = |replica: &&Value| replica.get("current") == Some(&true.into()) && replica.get("offline") != Some(&true.into());
            Some(replicas.iter().filter(follows).count())
        });
        followers == Some(self.nodes.len() - 1)
    }

    /// Stops all nodes in order, together: the last ones could not serve alone. True when every one ended cleanly.
    pub fn stop(&mut self) -> bool {
        for node in &mut self.nodes {
            node.child().signal(Signal::SIGTERM);
        }
        let deadline = Instant::now() + STOP_LIMIT;
        self.nodes.iter_mut().fold(true, |clean, node| {
            let ended = node.child().wait(deadline.saturating_duration_since(Instant::now()));
            clean & ended.map_or_else(|| node.stop(), |status| status.success())
        })
    }
}

/// A connection between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    /// The number of the node that connects.
    pub from: usize,
    /// The number of the node that is connected to.
    pub to: usize,
    /// Where that node listens for others.
    pub port: u16,
}

/// Gives every node its ports. One that stands alone is no node.
fn place(mut options: Vec<Options>, route: &dyn Fn(Route) -> anyhow::Result<u16>) -> anyhow::Result<Vec<Options>> {
    if options.len() < 2 {
        return Ok(options);
    }
    let ports = options.iter().map(|_| port::free(None)).collect::<std::io::Result<Vec<_>>>().context("looking for free ports")?;
    for (index, options) in options.iter_mut().enumerate() {
        let lower = ports[..index].iter().enumerate().map(|(to, port)| route(Route { from: index + 1, to: to + 1, port: *port }));
        options.node = Some(Node { number: index + 1, port: ports[index], routes: lower.collect::<anyhow::Result<_>>()? });
    }
    Ok(options)
}

/// The name of the node that leads all, as the one behind this monitoring knows it.
pub fn meta_leader(monitor: SocketAddr) -> Option<String> {
    meta(monitor)?.get("leader")?.as_str().filter(|name| !name.is_empty()).map(str::to_owned)
}

/// What a node says of the group that makes streams.
fn meta(monitor: SocketAddr) -> Option<Value> {
    let (_, text) = port::get(monitor, "/jsz", Duration::from_secs(2)).ok()?;
    serde_json::from_str::<Value>(&text).ok()?.get("meta_cluster").cloned()
}
