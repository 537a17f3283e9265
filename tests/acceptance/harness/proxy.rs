//! A TCP proxy between a role and a server, for the faults that killing a process cannot make.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
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
};

/// How long the server gets to act on a request before its connection is cut.
const ACT: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, Default)]
struct State {
    cuts: u64,
    refuse: bool,
    hold_requests: bool,
    hold_answers: bool,
}

/// What happens to the request that [`Proxy::at`] waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Then {
    /// The server gets it and acts; the connection is cut before the answer.
    CutAfter,
    /// The connection is cut; the server never gets it.
    CutBefore,
    /// The server gets it; its answers are held until [`Proxy::hold_answers`] lets them go.
    HoldAnswers,
}

struct Shared {
    state: watch::Sender<State>,
    trap: Mutex<Option<(Vec<u8>, Then)>>,
    sprung: AtomicUsize,
}

/// The proxy. Ends with the test's runtime.
pub(crate) struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Starts one in front of a port on loopback.
    pub(crate) async fn start(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { state: watch::Sender::new(State::default()), trap: Mutex::new(None), sprung: AtomicUsize::new(0) });
        let accepting = shared.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !accepting.state.borrow().refuse
                    && let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await
                {
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    connect(client, server, &accepting);
                }
            }
        });
        Self { address, shared }
    }

    /// Where to connect instead of to the server.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Cuts every connection there is; new ones are let through.
    pub(crate) fn cut(&self) {
        self.shared.state.send_modify(|state| state.cuts += 1);
    }

    /// Cuts every connection and refuses new ones, until called with false.
    pub(crate) fn refuse(&self, refuse: bool) {
        self.shared.state.send_modify(|state| {
            state.refuse = refuse;
            state.cuts += u64::from(refuse);
        });
    }

    /// Holds what clients send, until called with false.
    pub(crate) fn hold_requests(&self, hold: bool) {
        self.shared.state.send_modify(|state| state.hold_requests = hold);
    }

    /// Holds what the server answers, until called with false.
    pub(crate) fn hold_answers(&self, hold: bool) {
        self.shared.state.send_modify(|state| state.hold_answers = hold);
    }

    /// Waits for the next request that contains `pattern` (`COMMIT`, say) and does something to it, once.
    pub(crate) fn at(&self, pattern: &[u8], then: Then) {
        *self.shared.trap.lock().unwrap() = Some((pattern.to_vec(), then));
    }

    /// How many requests [`Proxy::at`] has caught.
    pub(crate) fn caught(&self) -> usize {
        self.shared.sprung.load(Ordering::SeqCst)
    }
}

/// How one connection stands; both of its directions look at it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Open,
    /// Answers go nowhere any more: it is about to be cut.
    Hushed,
    Over,
}

fn connect(client: TcpStream, server: TcpStream, shared: &Arc<Shared>) {
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let link = Arc::new(watch::Sender::new(Link::Open));
    tokio::spawn(carry(from_client, to_server, shared.clone(), link.clone(), true));
    tokio::spawn(carry(from_server, to_client, shared.clone(), link, false));
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, shared: Arc<Shared>, link: Arc<watch::Sender<Link>>, requests: bool) {
    let mut state = shared.state.subscribe();
    let mut cut = shared.state.subscribe();
    let cuts = cut.borrow().cuts;
    let (mut ended, mut open) = (link.subscribe(), link.subscribe());
    let work = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => length,
            };
            let then = if requests { spring(&shared, &buffer[..length]) } else { None };
            match then {
                Some(Then::CutBefore) => break,
                Some(Then::CutAfter) => drop(link.send_replace(Link::Hushed)),
                Some(Then::HoldAnswers) => shared.state.send_modify(|state| state.hold_answers = true),
                None if requests => drop(state.wait_for(|state| !state.hold_requests).await),
                None => {
                    drop(state.wait_for(|state| !state.hold_answers).await);
                    drop(open.wait_for(|link| *link == Link::Open).await);
                }
            }
            if to.write_all(&buffer[..length]).await.is_err() {
                break;
            }
            if then == Some(Then::CutAfter) {
                tokio::time::sleep(ACT).await;
                break;
            }
        }
    };
    tokio::select! {
        () = work => {}
        _ = cut.wait_for(|state| state.cuts != cuts) => {}
        _ = ended.wait_for(|link| *link == Link::Over) => {}
    }
    link.send_replace(Link::Over);
}

/// Springs the trap when these bytes hold its pattern.
fn spring(shared: &Shared, bytes: &[u8]) -> Option<Then> {
    let mut trap = shared.trap.lock().unwrap();
    let hit = trap.as_ref().is_some_and(|(pattern, _)| bytes.windows(pattern.len()).any(|window| window == pattern.as_slice()));
    if !hit {
        return None;
    }
    shared.sprung.fetch_add(1, Ordering::SeqCst);
    trap.take().map(|(_, then)| then)
}
