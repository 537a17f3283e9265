//! What the server refused. It says so beside the request it belongs to, which by itself only sees a timeout: here both come together.

use std::{
    collections::VecDeque,
    fmt::{self, Display},
    pin::pin,
    sync::{LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{Client, ServerError};
use tokio::sync::watch;

use crate::health;

/// Refusals remembered: more than can be under way at once and still be told apart.
const REMEMBERED: usize = 256;
/// So long after the last refusal a role counts itself as having its rights: whatever was refused has been tried again by then.
const QUIET: Duration = Duration::from_secs(10);
/// A refused subscription is tried again by connecting anew, which is what the client does nowhere else.
const AGAIN: Duration = Duration::from_secs(5);
/// What `/readyz` calls the rights at NATS.
const PART: &str = "rights";

static REFUSALS: Mutex<VecDeque<(Instant, Refusal)>> = Mutex::new(VecDeque::new());
static NEWS: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::channel(0).0);

/// A right that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Whose.
    pub user: String,
    /// To do what.
    pub right: Right,
}

/// A right at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Right {
    /// To connect.
    Connect,
    /// To publish to a subject; requests are that, too.
    Publish(String),
    /// To listen to a subject.
    Subscribe(String),
}

impl Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = &self.user;
        match &self.right {
            Right::Connect => write!(f, "NATS does not let user {user} in"),
            Right::Publish(subject) => write!(f, "NATS does not let user {user} publish to {subject}"),
            Right::Subscribe(subject) => write!(f, "NATS does not let user {user} subscribe to {subject}"),
        }
    }
}

impl Right {
    /// What the server's words mean; none for those about something else.
    fn named_by(error: &ServerError) -> Option<Self> {
        let text = match error {
            ServerError::AuthorizationViolation => return Some(Self::Connect),
            ServerError::Other(text) => text,
            ServerError::SlowConsumer(_) => return None,
        };
        let (what, subject) = text.trim_matches('\'').strip_prefix("Permissions Violation for ")?.split_once(" to \"")?;
        // Of a subscription in a group the server names the group, too.
        let subject = subject.split('"').next()?.to_owned();
        match what {
            "Publish" => Some(Self::Publish(subject)),
            "Subscription" => Some(Self::Subscribe(subject)),
            _ => None,
        }
    }
}

/// Notes what the server says, if it is a refusal.
pub(super) fn heard(user: &str, error: &ServerError) {
    if let Some(right) = Right::named_by(error) {
        note(Refusal { user: user.to_owned(), right });
    }
}

/// Notes that the server let nobody in, if that is what the client library says.
pub(super) fn heard_of_client(user: &str, error: &str) {
    if error.contains("authorization violation") || error.contains("authentication") {
        note(Refusal { user: user.to_owned(), right: Right::Connect });
    }
}

fn note(refusal: Refusal) {
    tracing::error!(%refusal, "a right is missing");
    health::set(PART, false, refusal.to_string());
    let mut refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    if refusals.len() == REMEMBERED {
        refusals.pop_front();
    }
    refusals.push_back((Instant::now(), refusal));
    drop(refusals);
    NEWS.send_modify(|count| *count += 1);
}

/// Whether nothing was refused lately. True as long as nothing was refused at all.
pub fn has_rights() -> bool {
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.back().is_none_or(|(at, _)| at.elapsed() > QUIET)
}

/// The last refusal since then, if any: the reason behind a timeout.
pub fn refusal_since(since: Instant) -> Option<Refusal> {
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    refusals.back().filter(|(at, _)| *at >= since).map(|(_, refusal)| refusal.clone())
}

/// An error since then with the refusal behind it, if there was one: a missing right looks like a timeout.
pub fn named(error: String, since: Instant) -> String {
    match refusal_since(since).map(|refusal| refusal.to_string()) {
        Some(refusal) if !error.contains(&refusal) => format!("{refusal}: {error}"),
        _ => error,
    }
}

/// The refusal of a publish to this subject (or to one that begins so, when it ends with a dot) since then.
fn refusal_of(subject: &str, since: Instant) -> Option<Refusal> {
    let is_it = |refused: &str| if subject.ends_with('.') { refused.starts_with(subject) } else { refused == subject };
    let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    let found = refusals.iter().rev().take_while(|(at, _)| *at >= since).find(|(_, refusal)| match &refusal.right {
        Right::Publish(refused) => is_it(refused),
        Right::Connect | Right::Subscribe(_) => false,
    });
    found.map(|(_, refusal)| refusal.clone())
}

/// Returns once a publish to this subject (or to one that begins so, when it ends with a dot) is refused.
pub async fn refused(subject: &str) -> Refusal {
    let since = Instant::now();
    let mut news = NEWS.subscribe();
    loop {
        if let Some(refusal) = refusal_of(subject, since) {
            return refusal;
        }
        // The sender is never dropped.
        let _ = news.changed().await;
    }
}

/// A request, which ends at once when the server refuses it, and not when its time is over. `subject` is where it goes to, or what that
/// begins with up to a dot.
///
/// # Errors
/// The refusal, or the request's own error.
pub async fn ask<T, E: Display>(subject: &str, request: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    let begun = Instant::now();
    let mut request = pin!(request);
    tokio::select! {
        biased;
        answer = &mut request => answer.map_err(|error| named(error.to_string(), begun)),
        refusal = refused(subject) => Err(refusal.to_string()),
    }
}

/// The same for a request to JetStream's API: `STREAM.INFO.EVENTS`.
///
/// # Errors
/// See [`ask`].
pub async fn ask_api<T, E: Display>(verb: &str, request: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    ask(&format!("$JS.API.{verb}"), request).await
}

/// Keeps the part `rights` of `/readyz` up to date, and tries refused subscriptions again. Ends with the connection's last owner.
pub(super) async fn mend(client: Client, user: String) {
    let mut news = NEWS.subscribe();
    loop {
        if news.changed().await.is_err() {
            return;
        }
        loop {
            let begun = Instant::now();
            tokio::time::sleep(AGAIN).await;
            let subscription = {
                let refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
                let ours = refusals.iter().rev().find(|(_, refusal)| refusal.user == user && matches!(refusal.right, Right::Subscribe(_)));
                ours.is_some_and(|(at, _)| begun.duration_since(*at) < AGAIN)
            };
            if subscription && client.force_reconnect().await.is_err() {
                return;
            }
            if has_rights() {
                health::set(PART, true, "nothing was refused lately");
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other(text: &str) -> ServerError {
        ServerError::Other(text.into())
    }

    #[test]
    fn the_servers_words_name_the_right() {
        let publish = Right::named_by(&other("Permissions Violation for Publish to \"$JS.API.STREAM.INFO.EVENTS\""));
        assert_eq!(publish, Some(Right::Publish("$JS.API.STREAM.INFO.EVENTS".into())));
        let subscribe = Right::named_by(&other("Permissions Violation for Subscription to \"evt.>\" using queue \"q\""));
        assert_eq!(subscribe, Some(Right::Subscribe("evt.>".into())));
        assert_eq!(Right::named_by(&ServerError::AuthorizationViolation), Some(Right::Connect));
        assert_eq!(Right::named_by(&other("maximum payload exceeded")), None);
    }

    #[tokio::test]
    async fn a_request_that_is_refused_ends_with_the_name_of_what_is_missing() {
        let asking = tokio::spawn(async { ask("$JS.API.CONSUMER.CREATE.COMMANDS.", std::future::pending::<Result<(), String>>()).await });
        // Another one's refusal is none of ours.
        let refusing = async {
            while !asking.is_finished() {
                heard("worker", &other("Permissions Violation for Publish to \"evt.t.user.created\""));
                heard("worker", &other("Permissions Violation for Publish to \"$JS.API.CONSUMER.CREATE.COMMANDS.abc.cmd.7.>\""));
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), refusing).await.expect("the refusal is not heard");
        let error = asking.await.unwrap().unwrap_err();
        assert_eq!(error, "NATS does not let user worker publish to $JS.API.CONSUMER.CREATE.COMMANDS.abc.cmd.7.>");
    }

    #[tokio::test]
    async fn a_request_that_is_answered_or_fails_by_itself_is_left_alone() {
        assert_eq!(ask("a", async { Ok::<_, String>(7) }).await, Ok(7));
        assert_eq!(ask("nobody.was.refused", async { Err::<(), _>("no") }).await.map_err(|error| error.ends_with("no")), Err(true));
    }
}
