//! What the event streams of a gateway are fed with: one reader of EVENTS for each tenant that somebody follows here, filtered by the
//! server, fanned out.
//!
//! The reader only has what is published from its beginning on, and may lose something with its connection. That costs nothing: the
//! history of a tenant is dense, and the table has all of it. Whoever sees a hole, falls behind, or is told to [`News::Look`], reads there.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::{
        self, Context, Message,
        consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull},
    },
};
use futures_util::StreamExt as _;
use prometheus::IntGauge;
use runtime::{Config, Stop, streams};
use serde::de::IgnoredAny;
use subjects::{Envelope, EventFilter, Kind, TenantId, stream as names};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch},
    task::AbortHandle,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{
    problem::{Code, Problem},
    shown,
};

/// How often a reader looks whether its connection is still the one it began with: what was on its way is lost with it.
const LOOK: Duration = Duration::from_millis(500);
/// How long a pull request stays at the server, and how often the server shows life meanwhile.
const EXPIRES: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(5));
/// When the server forgets a reader nobody asks for.
const INACTIVE: Duration = Duration::from_secs(40);
/// The first and the longest pause before a reader is made again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// An event as clients are shown it.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Its place in the tenant's history.
    pub(crate) sequence: u64,
    /// Its place in EVENTS; 0 where it was read from the table.
    pub(crate) stream_sequence: u64,
    /// `<topic>.<event>`.
    pub(crate) event_type: String,
    /// What kind of thing it happened to; none where a newer version knows it.
    pub(crate) kind: Option<Kind>,
    /// To which one.
    pub(crate) aggregate: String,
    /// The envelope without what is secret.
    pub(crate) body: String,
}

/// What a reader tells.
#[derive(Debug, Clone)]
pub(crate) enum News {
    /// Something happened.
    Event(Arc<Shown>),
    /// Something may have happened: the table knows.
    Look,
}

struct Feed {
    news: broadcast::Sender<News>,
    life: watch::Receiver<Arc<str>>,
    followers: usize,
    reader: AbortHandle,
}

/// The feeds of a gateway, and who follows them.
pub(crate) struct Feeds {
    client: Client,
    context: Context,
    buffer: usize,
    per_caller: usize,
    per_tenant: usize,
    places: Arc<Semaphore>,
    tenants: Mutex<HashMap<TenantId, Feed>>,
    callers: Mutex<HashMap<String, usize>>,
    open: IntGauge,
    /// Cancelled when the gateway is to end.
    pub(crate) stop: Stop,
}

/// One stream's place at a tenant's feed. Dropped, it is free for another.
pub(crate) struct Following {
    feeds: Arc<Feeds>,
    tenant: TenantId,
    caller: String,
    news: broadcast::Receiver<News>,
    life: watch::Receiver<Arc<str>>,
    _place: OwnedSemaphorePermit,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feeds {
    /// Reads nothing until somebody follows.
    pub(crate) fn new(config: &Config, client: Client, open: IntGauge, stop: Stop) -> Arc<Self> {
        Arc::new(Self {
            context: jetstream::new(client.clone()),
            client,
            buffer: config.stream_buffer,
            per_caller: config.streams_per_caller,
            per_tenant: config.streams_per_tenant,
            places: Arc::new(Semaphore::new(config.streams)),
            tenants: Mutex::default(),
            callers: Mutex::default(),
            open,
            stop,
        })
    }

    /// Follows a tenant: everything published from now on is told, or [`News::Look`] instead.
    ///
    /// # Errors
    /// Too many follow already: all, of this tenant, or of this caller.
    pub(crate) fn follow(self: &Arc<Self>, tenant: TenantId, caller: &str) -> Result<Following, Problem> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Problem::new(Code::Overloaded))?;
        let mut callers = locked(&self.callers);
        let open = callers.entry(caller.to_owned()).or_default();
        if *open >= self.per_caller {
            return Err(Problem::new(Code::RateLimited).detail("too many event streams are open").retry_after(5));
        }
        *open += 1;
        drop(callers);
        let mut tenants = locked(&self.tenants);
        if tenants.get(&tenant).is_some_and(|feed| feed.followers >= self.per_tenant) {
            drop(tenants);
            self.leave(caller);
            return Err(Problem::new(Code::RateLimited).detail("too many event streams of this tenant are open").retry_after(5));
        }
        let feed = tenants.entry(tenant).or_insert_with(|| {
            let (news, life) = (broadcast::Sender::new(self.buffer), watch::Sender::new(Arc::from("0")));
            let heard = life.subscribe();
            let reader = tokio::spawn(read_on(self.client.clone(), self.context.clone(), tenant, news.clone(), life)).abort_handle();
            Feed { news, life: heard, followers: 0, reader }
        });
        feed.followers += 1;
        self.open.inc();
        let (news, life) = (feed.news.subscribe(), feed.life.clone());
        Ok(Following { feeds: self.clone(), tenant, caller: caller.to_owned(), news, life, _place: place })
    }

    /// A caller has one stream less.
    fn leave(&self, caller: &str) {
        let mut callers = locked(&self.callers);
        if let Some(open) = callers.get_mut(caller) {
            *open -= 1;
            if *open == 0 {
                callers.remove(caller);
            }
        }
    }
}

impl Following {
    /// What comes next; who is too far behind is told to look.
    pub(crate) async fn next(&mut self) -> News {
        // The sender lives as long as somebody follows, so that only those who lag miss something.
        self.news.recv().await.unwrap_or(News::Look)
    }

    /// The life of EVENTS that is read at present; `0` before it is known.
    pub(crate) fn life(&self) -> Arc<str> {
        self.life.borrow().clone()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.feeds.open.dec();
        self.feeds.leave(&self.caller);
        let mut tenants = locked(&self.feeds.tenants);
        if let Some(feed) = tenants.get_mut(&self.tenant) {
            feed.followers -= 1;
            if feed.followers == 0 {
                feed.reader.abort();
                tenants.remove(&self.tenant);
            }
        }
    }
}

/// Reads until nobody follows any more.
async fn read_on(client: Client, context: Context, tenant: TenantId, news: broadcast::Sender<News>, life: watch::Sender<Arc<str>>) {
    let mut pause = PAUSE.0;
    loop {
        let before = life.borrow().clone();
        let Err(error) = read(&client, &context, tenant, &news, &life).await;
        tracing::debug!(tenant.id = %tenant, error, "an event feed begins again");
        pause = if *life.borrow() == before { (pause * 2).min(PAUSE.1) } else { PAUSE.0 };
        sleep(pause.mul_f64(rand::random_range(0.5..=1.0))).await;
    }
}

/// A reader's consumer, which the server is told to forget when the reader ends, however it ends: each one costs every publish.
struct Gone {
    context: Context,
    name: String,
}

impl Drop for Gone {
    fn drop(&mut self) {
        let (context, name) = (self.context.clone(), std::mem::take(&mut self.name));
        // Without the server's answer it goes by itself, after a while.
        tokio::spawn(async move { context.delete_consumer_from_stream(name, names::EVENTS).await });
    }
}

/// Reads through one ephemeral consumer until it breaks.
async fn read(
    client: &Client,
    context: &Context,
    tenant: TenantId,
    news: &broadcast::Sender<News>,
    life: &watch::Sender<Arc<str>>,
) -> Result<Infallible, String> {
    let statistics = client.statistics();
    let connects = statistics.connects.load(Ordering::Relaxed);
    let stream = streams::get(context, names::EVENTS).await?;
    let wanted = pull::Config {
        description: Some("chancery event stream".into()),
        deliver_policy: DeliverPolicy::New,
        ack_policy: AckPolicy::None,
        filter_subject: EventFilter { tenant: Some(tenant), ..EventFilter::default() }.subject(),
        replay_policy: ReplayPolicy::Instant,
        inactive_threshold: INACTIVE,
        num_replicas: 1,
        memory_storage: true,
        ..pull::Config::default()
    };
    let consumer = streams::reader(&stream, wanted).await?;
    let _gone = Gone { context: context.clone(), name: consumer.cached_info().name.clone() };
    let reading = consumer.stream().max_messages_per_batch(256).expires(EXPIRES.0).heartbeat(EXPIRES.1).messages();
    let mut messages = reading.await.map_err(|error| error.to_string())?;
    life.send_replace(streams::incarnation(stream.cached_info()).into());
    // What was published before is in the table. Nobody there to hear it is no fault.
    let _ = news.send(News::Look);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut expected = 1;
    loop {
        let message = tokio::select! {
            message = messages.next() => message.ok_or("the subscription ended")?.map_err(|error| error.to_string())?,
            _ = look.tick() => {
                if statistics.connects.load(Ordering::Relaxed) != connects {
                    return Err("the connection broke".into());
                }
                continue;
            }
        };
        let info = message.info().map_err(|error| error.to_string())?;
        if info.consumer_sequence != expected {
            return Err(format!("a gap in the reader's sequence: {expected} expected, {} found", info.consumer_sequence));
        }
        expected += 1;
        let stream_sequence = info.stream_sequence;
        let told = shown_message(tenant, &message, stream_sequence).map_or(News::Look, |event| News::Event(Arc::new(event)));
        let _ = news.send(told);
    }
}

/// An event of the tenant from its message; nothing for what cannot be read here.
fn shown_message(tenant: TenantId, message: &Message, stream_sequence: u64) -> Option<Shown> {
    let text = std::str::from_utf8(&message.payload).ok()?;
    let envelope: Envelope<IgnoredAny> = serde_json::from_str(text).ok()?;
    if envelope.tenant_id != tenant {
        return None;
    }
    Some(Shown {
        sequence: envelope.sequence,
        stream_sequence,
        event_type: envelope.event_type,
        kind: Some(envelope.aggregate),
        aggregate: envelope.aggregate_id,
        body: shown::body(text).ok()?,
    })
}
