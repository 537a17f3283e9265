//! What a container's own packet filter is told. Ports say who speaks to whom: addresses change when containers are started again.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context as _, bail};

use crate::chaos::{fault::Server, proxy::Way};

/// Where a node listens for other nodes.
const ROUTES: u16 = 6222;
/// Where a node listens for clients.
const CLIENTS: u16 = 4222;
/// Where PostgreSQL listens.
const POSTGRES: u16 = 5432;
/// Where a gateway listens.
const GATEWAY: u16 = 8080;

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chain {
    /// That arrive.
    Input,
    /// That leave.
    Output,
}

impl Chain {
    const fn name(self) -> &'static str {
        match self {
            Self::Input => "INPUT",
            Self::Output => "OUTPUT",
        }
    }
}

/// Packets that are thrown away, silently, so that neither side learns of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    chain: Chain,
    /// The port that is listened at is theirs that get the packets; otherwise theirs that send them.
    to: bool,
    port: u16,
    /// Who is spared: this machine, where the checkers are.
    spared: Option<String>,
}

impl Rule {
    const fn new(chain: Chain, to: bool, port: u16) -> Self {
        Self { chain, to, port, spared: None }
    }

    /// What iptables is told after `-I` or `-D`; the fault's number makes it a rule of its own.
    pub(super) fn arguments(&self, fault: usize) -> Vec<String> {
        let (interface, side) = match self.chain {
            Chain::Input => ("-i", "-s"),
            Chain::Output => ("-o", "-d"),
        };
        let port = self.port.to_string();
        let mut words = vec![self.chain.name(), "!", interface, "lo", "-p", "tcp", if self.to { "--dport" } else { "--sport" }, &port];
        words.extend(self.spared.iter().flat_map(|address| ["!", side, address]));
        let comment = format!("chaos-{fault}");
        words.extend(["-m", "comment", "--comment", &comment, "-j", "DROP"]);
        words.into_iter().map(str::to_owned).collect()
    }
}

/// In a role: its packets to a server are lost, or the server's to it, or both. What acknowledges the other way's bytes is lost with them.
pub(super) fn cut_off(server: Server, way: Option<Way>) -> Vec<Rule> {
    let port = match server {
        Server::Nats => CLIENTS,
        Server::Postgres => POSTGRES,
    };
    let mut rules = Vec::new();
    rules.extend((way != Some(Way::Answers)).then(|| Rule::new(Chain::Output, true, port)));
    rules.extend((way != Some(Way::Requests)).then(|| Rule::new(Chain::Input, false, port)));
    rules
}

/// In a node: what it says to other nodes is lost, or what they say to it; of its clients, too, when they are to be cut off, all but those
/// of this machine.
pub(super) fn isolate(mute: bool, deaf: bool, clients: bool, machine: Option<&str>) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (chain, on) in [(Chain::Output, mute), (Chain::Input, deaf)] {
        if !on {
            continue;
        }
        rules.extend([true, false].map(|to| Rule::new(chain, to, ROUTES)));
        if clients {
            rules.push(Rule { spared: machine.map(str::to_owned), ..Rule::new(chain, chain == Chain::Input, CLIENTS) });
        }
    }
    rules
}

/// In a gateway: nobody outside reaches it, and nobody is told.
pub(super) fn cut_off_gateway() -> Vec<Rule> {
    vec![Rule::new(Chain::Input, true, GATEWAY), Rule::new(Chain::Output, false, GATEWAY)]
}

/// A rule where it is.
#[derive(Debug, Clone)]
struct Applied {
    fault: usize,
    part: String,
    /// The container's first process, whose network it is.
    pid: u32,
    rule: Rule,
}

/// All rules that are on. They go with a container's network when the container ends. Everything here blocks for some milliseconds.
#[derive(Debug, Default)]
pub(super) struct Rules(Mutex<Vec<Applied>>);

impl Rules {
    fn all(&self) -> MutexGuard<'_, Vec<Applied>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts rules into a container's network.
    ///
    /// # Errors
    /// The container has ended, or its packet filter refuses.
    pub(super) fn apply(&self, fault: usize, part: &str, pid: u32, rules: Vec<Rule>) -> anyhow::Result<()> {
        for rule in rules {
            let mut all = self.all();
            filter(pid, "-I", &rule.arguments(fault))?;
            all.push(Applied { fault, part: part.to_owned(), pid, rule });
        }
        Ok(())
    }

    /// Takes away what a fault has put anywhere; a network that is gone has taken it along.
    ///
    /// # Errors
    /// A packet filter that is still there refuses.
    pub(super) fn lift(&self, fault: usize) -> anyhow::Result<()> {
        let mut all = self.all();
        let (mine, others) = std::mem::take(&mut *all).into_iter().partition(|applied| applied.fault == fault);
        *all = others;
        let mut trouble = None;
        for Applied { pid, rule, .. } in Vec::from_iter::<Vec<Applied>>(mine) {
            if let Err(error) = filter(pid, "-D", &rule.arguments(fault))
                && runs(pid)
            {
                trouble = Some(error);
            }
        }
        trouble.map_or(Ok(()), Err)
    }

    /// Puts into a container that was started again what is still to be on it.
    pub(super) fn restore(&self, part: &str, pid: u32) {
        for applied in self.all().iter_mut().filter(|applied| applied.part == part && applied.pid != pid) {
            match filter(pid, "-I", &applied.rule.arguments(applied.fault)) {
                Ok(()) => applied.pid = pid,
                Err(error) => tracing::warn!(part, %error, "a rule is lost"),
            }
        }
    }

    /// Empties every packet filter that may hold a rule of ours. The container's names are resolved by another table.
    pub(super) fn lift_all(&self, pids: &[u32]) {
        self.all().clear();
        for pid in pids.iter().filter(|pid| runs(**pid)) {
            for chain in [Chain::Input, Chain::Output] {
                if let Err(error) = filter(*pid, "-F", &[chain.name().to_owned()]) {
                    tracing::warn!(pid, %error, "flushing a container's packet filter");
                }
            }
        }
    }
}

fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// `iptables` in the network of a process.
fn filter(pid: u32, what: &str, arguments: &[String]) -> anyhow::Result<()> {
    let mut words = vec!["iptables", "-w", "5", what];
    words.extend(arguments.iter().map(String::as_str));
    inside(pid, &words).map(drop)
}

/// Runs a program of this machine in the network of a process; what it prints.
///
/// # Errors
/// It fails; the text is its last line.
pub(super) fn inside(pid: u32, words: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("nsenter").args(["-t", &pid.to_string(), "-n"]).args(words).stdin(Stdio::null()).output().context("running nsenter")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    bail!("{}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(rules: &[Rule]) -> Vec<String> {
        rules.iter().map(|rule| rule.arguments(7).join(" ")).collect()
    }

    fn line(chain: &str, interface: &str, port: &str) -> String {
        format!("{chain} ! {interface} lo -p tcp {port} -m comment --comment chaos-7 -j DROP")
    }

    #[test]
    fn a_role_that_is_cut_off_one_way_still_hears_or_is_heard() {
        let (requests, answers) = (line("OUTPUT", "-o", "--dport 4222"), line("INPUT", "-i", "--sport 4222"));
        assert_eq!(lines(&cut_off(Server::Nats, Some(Way::Requests))), std::slice::from_ref(&requests));
        assert_eq!(lines(&cut_off(Server::Nats, Some(Way::Answers))), std::slice::from_ref(&answers));
        assert_eq!(lines(&cut_off(Server::Nats, None)), [requests, answers]);
        assert_eq!(lines(&cut_off(Server::Postgres, Some(Way::Requests))), [line("OUTPUT", "-o", "--dport 5432")]);
    }

    #[test]
    fn a_mute_node_is_not_heard_on_connections_of_either_side_and_hears() {
        assert_eq!(lines(&isolate(true, false, false, None)), [line("OUTPUT", "-o", "--dport 6222"), line("OUTPUT", "-o", "--sport 6222")]);
        assert_eq!(lines(&isolate(false, true, false, None)), [line("INPUT", "-i", "--dport 6222"), line("INPUT", "-i", "--sport 6222")]);
        assert_eq!(isolate(true, true, false, None).len(), 4);
    }

    #[test]
    fn a_nodes_clients_are_cut_off_but_for_this_machine() {
        let rules = lines(&isolate(true, true, true, Some("172.18.0.1")));
        assert_eq!(rules.len(), 6);
        assert_eq!(rules[2], line("OUTPUT", "-o", "--sport 4222 ! -d 172.18.0.1"));
        assert_eq!(rules[5], line("INPUT", "-i", "--dport 4222 ! -s 172.18.0.1"));
    }

    #[test]
    fn a_rule_is_its_faults_own() {
        let rule = &cut_off_gateway()[0];
        assert_ne!(rule.arguments(1), rule.arguments(2));
        assert_eq!(lines(&cut_off_gateway()), [line("INPUT", "-i", "--dport 8080"), line("OUTPUT", "-o", "--sport 8080")]);
    }
}
