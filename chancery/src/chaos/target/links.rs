//! The proxies between the parts, by who connects to whom, and what the faults under way do to them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::chaos::proxy::{Proxy, Way};

/// Who connects to whom: `worker-1` to `nats-2`, `nats-3` to `nats-1`, `load` to `gateway-1`.
pub(super) type Link = (String, String);

/// What a fault does to a direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing gets through, and nobody is told.
    Hold(Way),
    /// Everything waits so long, more or less.
    Delay(Duration, Duration),
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Links {
    proxies: BTreeMap<Link, Proxy>,
    effects: Mutex<BTreeMap<usize, Vec<(Link, Effect)>>>,
}

impl Links {
    /// Puts a proxy on a link; what connects uses its address.
    ///
    /// # Errors
    /// No port is left.
    pub(super) async fn add(&mut self, from: &str, to: &str, target: SocketAddr) -> std::io::Result<SocketAddr> {
        let proxy = Proxy::start(Some(target)).await?;
        let address = proxy.address();
        self.proxies.insert((from.to_owned(), to.to_owned()), proxy);
        Ok(address)
    }

    /// The links that are wanted, by who connects and who listens.
    pub(super) fn select(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<Link> {
        self.proxies.keys().filter(|(from, to)| wanted(from, to)).cloned().collect()
    }

    /// Every link of a part, whichever side it is on.
    pub(super) fn of(&self, part: &str) -> Vec<Link> {
        self.select(|from, to| from == part || to == part)
    }

    pub(super) fn proxy(&self, link: &Link) -> Option<&Proxy> {
        self.proxies.get(link)
    }

    /// Resets the connections of these links.
    pub(super) fn cut(&self, links: &[Link]) {
        links.iter().filter_map(|link| self.proxy(link)).for_each(Proxy::cut);
    }

    /// Does something to links until the fault is lifted; what other faults do stays done.
    pub(super) fn apply(&self, fault: usize, effects: Vec<(Link, Effect)>) {
        let mut all = self.effects();
        all.entry(fault).or_default().extend(effects);
        self.set(&all);
    }

    /// Takes away what a fault does.
    pub(super) fn lift(&self, fault: usize) {
        let mut all = self.effects();
        if all.remove(&fault).is_some() {
            self.set(&all);
        }
    }

    /// Takes everything away.
    pub(super) fn lift_all(&self) {
        self.effects().clear();
        self.proxies.values().for_each(Proxy::pass);
    }

    fn effects(&self) -> MutexGuard<'_, BTreeMap<usize, Vec<(Link, Effect)>>> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets every proxy to what all faults together do.
    fn set(&self, all: &BTreeMap<usize, Vec<(Link, Effect)>>) {
        for (link, proxy) in &self.proxies {
            let effects = || all.values().flatten().filter(|(of, _)| of == link).map(|(_, effect)| *effect);
            for way in [Way::Requests, Way::Answers] {
                proxy.hold(way, effects().any(|effect| effect == Effect::Hold(way)));
                let longest = effects()
                    .filter_map(|effect| match effect {
                        Effect::Delay(delay, jitter) => Some((delay, jitter)),
                        Effect::Hold(_) => None,
                    })
                    .max();
                let (delay, jitter) = longest.unwrap_or_default();
                proxy.delay(way, delay, jitter);
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;

    /// Whether a byte comes back through the link, within a moment or for sure.
    pub(in crate::chaos::target) async fn passes(address: SocketAddr) -> bool {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"x").await.unwrap();
        matches!(timeout(Duration::from_millis(500), client.read_u8()).await, Ok(Ok(b'x')))
    }

    /// A server that sends back one byte of each connection.
    pub(in crate::chaos::target) async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let byte = stream.read_u8().await.unwrap_or_default();
                    stream.write_all(&[byte]).await.unwrap_or_default();
                });
            }
        });
        address
    }

    #[tokio::test]
    async fn a_link_stays_cut_until_the_last_fault_on_it_is_lifted() {
        let target = echo().await;
        let mut links = Links::default();
        let address = links.add("worker-1", "nats-1", target).await.unwrap();
        let other = links.add("worker-2", "nats-1", target).await.unwrap();
        let link = || links.select(|from, _| from == "worker-1").remove(0);
        links.apply(1, vec![(link(), Effect::Hold(Way::Requests))]);
        links.apply(2, vec![(link(), Effect::Hold(Way::Requests)), (link(), Effect::Hold(Way::Answers))]);
        assert!(!passes(address).await && passes(other).await, "only the link that was meant");
        links.lift(2);
        assert!(!passes(address).await, "the first fault still holds it");
        links.lift(1);
        assert!(passes(address).await);
        links.apply(3, vec![(link(), Effect::Hold(Way::Answers))]);
        assert!(!passes(address).await);
        links.lift_all();
        assert!(passes(address).await);
    }
}
