//! A TCP proxy between two parts, for the faults of a network: silence, one way or both, resets, delay, a cut at a chosen byte. It needs no
//! rights that a user does not have.

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// How long the server gets to act on a request before its connection is cut.
const ACT: Duration = Duration::from_millis(300);
/// Bytes that are carried at once; what is held is no more than this and what the system buffers.
const CHUNK: usize = 64 << 10;
/// How long the listener rests after an error (no file descriptor is left).
const REST: Duration = Duration::from_millis(50);

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// From who connects to who listens.
    Requests,
    /// Back.
    Answers,
}

/// What is done to one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Flow {
    hold: bool,
    delay: Duration,
    jitter: Duration,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    cuts: u64,
    refuse: bool,
    requests: Flow,
    answers: Flow,
}

impl State {
    fn flow(&self, way: Way) -> &Flow {
        match way {
            Way::Requests => &self.requests,
            Way::Answers => &self.answers,
        }
    }

    fn flow_mut(&mut self, way: Way) -> &mut Flow {
        match way {
            Way::Requests => &mut self.requests,
            Way::Answers => &mut self.answers,
        }
    }
}

/// What happens to the request that [`Proxy::at`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Then {
    /// The server gets it and acts; the connection is cut before the answer.
    CutAfter,
    /// The connection is cut; the server never gets it.
    CutBefore,
    /// The server gets it; its answers are held until [`Proxy::hold_answers`] lets them go.
    HoldAnswers,
}

/// What waits to happen once.
#[derive(Debug)]
enum Trap {
    Pattern { pattern: Vec<u8>, then: Then },
    Bytes { way: Way, left: u64 },
}

#[derive(Debug)]
struct Shared {
    state: watch::Sender<State>,
    trap: Mutex<Option<Trap>>,
    sprung: AtomicUsize,
    carried: [AtomicU64; 2],
}

impl Shared {
    fn trap(&self) -> std::sync::MutexGuard<'_, Option<Trap>> {
        self.trap.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running proxy; ends when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    /// Listens in front of a server on loopback that may not be there yet. To be called inside an async runtime.
    ///
    /// # Errors
    /// The system has no port left.
    pub async fn start(target: Option<SocketAddr>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(State::default());
        let shared = Arc::new(Shared { state, trap: Mutex::new(None), sprung: AtomicUsize::new(0), carried: Default::default() });
        let target = watch::Sender::new(target);
        let accepting = tokio::spawn(accept(listener, target.subscribe(), shared.clone()));
        Ok(Self { address, target, shared, accepting })
    }

    /// Where to connect instead of to the server.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The port of [`Proxy::address`].
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// Leads new connections to this server from now on.
    pub fn aim(&self, target: SocketAddr) {
        self.target.send_replace(Some(target));
    }

    /// Resets every connection there is (RST, both sides); new ones are let through.
    pub fn cut(&self) {
        self.shared.state.send_modify(|state| state.cuts += 1);
    }

    /// Resets every connection and every new one, until called with false.
    pub fn refuse(&self, refuse: bool) {
        self.shared.state.send_modify(|state| {
            state.cuts += u64::from(refuse && !state.refuse);
            state.refuse = refuse;
        });
    }

    /// Holds what goes one way, until called with false: the connection is half open, as when packets are dropped.
    pub fn hold(&self, way: Way, hold: bool) {
        self.shared.state.send_modify(|state| state.flow_mut(way).hold = hold);
    }

    /// Holds what clients send, until called with false.
    pub fn hold_requests(&self, hold: bool) {
        self.hold(Way::Requests, hold);
    }

    /// Holds what the server answers, until called with false.
    pub fn hold_answers(&self, hold: bool) {
        self.hold(Way::Answers, hold);
    }

    /// Lets every piece that goes one way wait so long, and up to `jitter` more or less; zero ends it. Pieces do not overtake each other.
    pub fn delay(&self, way: Way, delay: Duration, jitter: Duration) {
        self.shared.state.send_modify(|state| {
            let flow = state.flow_mut(way);
            (flow.delay, flow.jitter) = (delay, jitter);
        });
    }

    /// Waits for the next request that contains `pattern` (`COMMIT`, say) and does something to it, once.
    pub fn at(&self, pattern: &[u8], then: Then) {
        *self.shared.trap() = Some(Trap::Pattern { pattern: pattern.to_vec(), then });
    }

    /// Resets the connection that carries the n-th byte from now on that way, after that byte, once.
    pub fn cut_after(&self, way: Way, bytes: u64) {
        *self.shared.trap() = Some(Trap::Bytes { way, left: bytes });
    }

    /// Nothing waits to happen any more. Returns whether something did.
    pub fn disarm(&self) -> bool {
        self.shared.trap().take().is_some()
    }

    /// How often something that waited has happened.
    pub fn caught(&self) -> usize {
        self.shared.sprung.load(Ordering::SeqCst)
    }

    /// Bytes that were carried one way.
    pub fn carried(&self, way: Way) -> u64 {
        self.shared.carried[usize::from(way == Way::Answers)].load(Ordering::SeqCst)
    }

    /// Nothing is done to anything any more; connections that were cut stay cut.
    pub fn pass(&self) {
        self.disarm();
        self.shared.state.send_modify(|state| *state = State { cuts: state.cuts, ..State::default() });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

async fn accept(listener: TcpListener, target: watch::Receiver<Option<SocketAddr>>, shared: Arc<Shared>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let server = *target.borrow();
        let server = match server {
            Some(address) if !shared.state.borrow().refuse => TcpStream::connect(address).await.ok(),
            _ => None,
        };
        match server {
            Some(server) => {
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                connect(client, server, &shared);
            }
            // Whoever is not let through, and whose server is not there, sees a reset at once.
            None => drop(client.set_zero_linger()),
        }
    }
}

/// How one connection stands; both of its directions look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    /// Answers go nowhere any more: it is about to be cut.
    Hushed,
    /// One side has ended it in order.
    Over,
    /// Both sides are to be reset.
    Cut,
}

fn connect(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let link = Arc::new(watch::Sender::new(Link::Open));
    tokio::spawn(carry(from_client, to_server, shared.clone(), link.clone(), Way::Requests));
    tokio::spawn(carry(from_server, to_client, shared.clone(), link, Way::Answers));
}

/// Carries one direction of one connection until either ends.
async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>, link: Arc<watch::Sender<Link>>, way: Way) {
    let mut cut = shared.state.subscribe();
    let cuts = cut.borrow().cuts;
    let mut ended = link.subscribe();
    let how = tokio::select! {
        how = pump(&mut from, &mut to, &shared, &link, way) => how,
        _ = cut.wait_for(|state| state.cuts != cuts) => Link::Cut,
        how = async { ended.wait_for(|link| matches!(link, Link::Over | Link::Cut)).await.map_or(Link::Cut, |link| *link) } => how,
    };
    link.send_replace(how);
    if how == Link::Cut {
        let _ = (from.as_ref().set_zero_linger(), to.as_ref().set_zero_linger());
        // Without this the other side would see an end in order first.
        to.forget();
    }
}

async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, shared: &Shared, link: &watch::Sender<Link>, way: Way) -> Link {
    let (mut state, mut open) = (shared.state.subscribe(), link.subscribe());
    let mut buffer = vec![0; CHUNK];
    let mut tail = Vec::new();
    loop {
        let length = match from.read(&mut buffer).await {
            Ok(0) => return Link::Over,
            Ok(length) => length,
            Err(_) => return Link::Cut,
        };
        let sprung = spring(shared, way, &mut tail, &buffer[..length]);
        let carried = match sprung {
            Sprung::Nothing => length,
            Sprung::At(Then::CutBefore) => return Link::Cut,
            Sprung::At(Then::CutAfter) => {
                link.send_replace(Link::Hushed);
                length
            }
            Sprung::At(Then::HoldAnswers) => {
                shared.state.send_modify(|state| state.answers.hold = true);
                length
            }
            Sprung::After(bytes) => bytes,
        };
        if sprung == Sprung::Nothing {
            let _ = state.wait_for(|state| !state.flow(way).hold).await;
            let flow = *state.borrow().flow(way);
            if !flow.delay.is_zero() {
                tokio::time::sleep(around(flow)).await;
            }
            if way == Way::Answers {
                let _ = open.wait_for(|link| *link == Link::Open).await;
            }
        }
        if to.write_all(&buffer[..carried]).await.is_err() {
            return Link::Cut;
        }
        shared.carried[usize::from(way == Way::Answers)].fetch_add(carried as u64, Ordering::SeqCst);
        match sprung {
            Sprung::At(Then::CutAfter) => {
                tokio::time::sleep(ACT).await;
                return Link::Cut;
            }
            Sprung::After(_) => {
                // A reset throws away what the other side has not read yet, and this byte is to arrive.
                tokio::time::sleep(ACT).await;
                return Link::Cut;
            }
            _ => {}
        }
    }
}

fn around(flow: Flow) -> Duration {
    let jitter = flow.jitter.as_secs_f64();
    Duration::from_secs_f64((flow.delay.as_secs_f64() + rand::random_range(-jitter..=jitter)).max(0.0))
}

/// What a piece of bytes has set off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sprung {
    Nothing,
    At(Then),
    /// So many of these bytes are carried, and no more.
    After(usize),
}

/// Springs the trap when these bytes complete its pattern or hold its byte. `tail` is the end of what came before on this connection.
fn spring(shared: &Shared, way: Way, tail: &mut Vec<u8>, bytes: &[u8]) -> Sprung {
    let mut trap = shared.trap();
    let sprung = match trap.as_mut() {
        Some(Trap::Pattern { pattern, then }) if way == Way::Requests => {
            tail.extend_from_slice(bytes);
            let found = tail.windows(pattern.len().max(1)).any(|window| window == pattern.as_slice());
            let keep = tail.len().min(pattern.len().saturating_sub(1));
            tail.drain(..tail.len() - keep);
            if found { Sprung::At(*then) } else { Sprung::Nothing }
        }
        Some(Trap::Bytes { way: of, left }) if *of == way => match usize::try_from(*left) {
            Ok(left) if left <= bytes.len() => Sprung::After(left),
            _ => {
                *left -= bytes.len() as u64;
                Sprung::Nothing
            }
        },
        _ => Sprung::Nothing,
    };
    if sprung != Sprung::Nothing {
        *trap = None;
        tail.clear();
        shared.sprung.fetch_add(1, Ordering::SeqCst);
    }
    sprung
}
