//! The literal that is a durable consumer, and its counterpart in JetStream.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{
    Context, ErrorCode,
    consumer::{AckPolicy, Config as Found, Consumer, DeliverPolicy, ReplayPolicy, pull},
    stream::{self, ConsumerErrorKind},
};
use rand::Rng;
use time::{OffsetDateTime, UtcOffset};

use crate::{Config, StartError, nats, planted};

/// Pull requests that may wait at the server, over all replicas of a consumer.
const MAX_WAITING: i64 = 512;

/// Which order a consumer asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// None: replicas share the events.
    None,
    /// The events of each aggregate in order: one active owner, the others stand by.
    Aggregate,
}

/// Where a consumer that is new begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the first event the stream has.
    All,
    /// With the first event after its creation.
    New,
    /// With the first event of this time or later; for a consumer without order.
    At(OffsetDateTime),
}

/// A durable consumer. Nothing is defaulted: these settings are its behaviour.
#[derive(Debug, Clone, Copy)]
pub struct Durable {
    /// Its name: in JetStream, in dead letters, in metrics, in the tables of leases and positions.
    pub name: &'static str,
    /// The stream it reads.
    pub stream: &'static str,
    /// The subjects it wants.
    pub filters: &'static [&'static str],
    /// Whether order matters.
    pub order: Order,
    /// Where it begins when it is new.
    pub start: Start,
    /// How long the server waits for an answer before it delivers again. The loop extends it while the function works.
    pub ack_wait: Duration,
    /// How often an event is tried before it becomes a dead letter.
    pub max_deliver: u32,
    /// Events that may be unanswered at once, over all replicas. With `Order::Aggregate`: events read ahead.
    pub max_ack_pending: u32,
    /// Events in one call (or one transaction) at most.
    pub batch: usize,
    /// Delays before the second, third … try; the last one repeats. Each is drawn from its upper half.
    pub backoff: &'static [Duration],
}

/// What the provisioner did about a durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioned {
    /// It was there.
    Found,
    /// It was missing.
    Created,
    /// It took less than is wanted.
    Widened,
    /// It had other limits.
    Changed,
}

/// How a durable in JetStream stands to what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// It does not exist; then there is nothing else to say.
    pub is_missing: bool,
    /// What provisioning changes without losing its place: limits, and filters that are wanted besides.
    pub changes: Vec<String>,
    /// What cannot be changed.
    pub fixed: Vec<String>,
    /// Subjects it takes that are not wanted (any more). They stay: a replica of the version that wants them may be running.
    pub besides: Vec<String>,
    /// Whether it takes less than is wanted.
    takes_less: bool,
    /// Everything that it takes or should.
    filters: BTreeSet<String>,
}

impl Standing {
    /// Whether there is nothing to do.
    pub fn is_as_wanted(&self) -> bool {
        !self.is_missing && self.changes.is_empty() && self.fixed.is_empty()
    }
}

impl Durable {
    /// The delay after the given number of tries.
    pub fn delay(&self, tries: u32) -> Duration {
        let index = usize::try_from(tries.saturating_sub(1)).unwrap_or(usize::MAX).min(self.backoff.len().saturating_sub(1));
        let delay = self.backoff.get(index).copied().unwrap_or(Duration::from_secs(1));
        delay.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Whether it takes every event, so that it sees the dense sequence of each tenant.
    pub(crate) fn takes_everything(&self) -> bool {
        self.filters.contains(&subjects::stream::ALL_EVENTS)
    }

    /// Refuses settings that contradict each other.
    pub(crate) fn check(&self, order: Order) -> Result<(), StartError> {
        let wrong = |what: &str| Err(StartError::Setup(format!("consumer {}: {what}", self.name)));
        match self {
            _ if self.order != order => wrong("its order and its loop differ"),
            _ if self.filters.is_empty() => wrong("it has no filter"),
            Self { order: Order::Aggregate, start: Start::At(_), .. } => wrong("in order it begins with everything, or with what is new"),
            _ if self.batch == 0 || self.max_ack_pending == 0 || self.max_deliver == 0 => wrong("a limit is zero"),
            _ if self.ack_wait < Duration::from_secs(1) => wrong("its ack wait is shorter than a second"),
            _ => Ok(()),
        }
    }

    fn wanted(&self, config: &Config) -> pull::Config {
        // Of EVENTS also what it gave up on and is to have again.
        let again = (self.stream == subjects::stream::EVENTS).then(|| subjects::redrives(self.name));
        let (one, several) = one_or_several(self.filters.iter().map(|filter| (*filter).to_owned()).chain(again).collect());
        pull::Config {
            durable_name: Some(self.name.to_owned()),
            name: Some(self.name.to_owned()),
            description: Some(format!("chancery consumer {}", self.name)),
            deliver_policy: match self.start {
                Start::All => DeliverPolicy::All,
                Start::New => DeliverPolicy::New,
                // As the server tells it.
                Start::At(start_time) => DeliverPolicy::ByStartTime { start_time: start_time.to_offset(UtcOffset::UTC) },
            },
            ack_policy: if planted!(AckAll) { AckPolicy::All } else { AckPolicy::Explicit },
            ack_wait: self.ack_wait,
            // After its last delivery the server drops a message without a trace. The loop counts and dead-letters instead.
            max_deliver: -1,
            filter_subject: one,
            filter_subjects: several,
            replay_policy: ReplayPolicy::Instant,
            max_waiting: MAX_WAITING,
            max_ack_pending: i64::from(self.max_ack_pending),
            num_replicas: config.replicas,
            memory_storage: false,
            // Of the server's own: none. Delays are given with each refusal, because a plain one comes back within a millisecond.
            backoff: Vec::new(),
            inactive_threshold: Duration::ZERO,
            ..pull::Config::default()
        }
    }

    /// Makes the durable in JetStream when it is missing, and verifies it when it exists. Limits are changed to what is wanted. Other filters are
    /// what another version has: they are widened and never narrowed, as a replica of that version may be running. The position stays. For the
    /// provisioner.
    ///
    /// # Errors
    /// [`StartError::Settings`] when it exists with others that cannot be changed, [`StartError::Nats`] for whatever may pass.
    pub async fn provision(&self, context: &Context, config: &Config) -> Result<Provisioned, StartError> {
        let nats = |error: &dyn std::fmt::Display| StartError::Nats(format!("consumer {}: {error}", self.name));
        let wanted = self.wanted(config);
        let mut standing = self.standing(context, config).await?;
        if standing.is_missing {
            let first = match context.create_consumer_strict_on_stream(wanted.clone(), self.stream).await {
                Ok(_) => return Ok(Provisioned::Created),
                Err(error) => error,
            };
            // Another provisioner may have been faster.
            standing = self.standing(context, config).await?;
            if standing.is_missing {
                return Err(nats(&first));
            }
        }
        if !standing.fixed.is_empty() {
            return Err(StartError::Settings { name: format!("consumer {}", self.name), difference: standing.fixed.join("; ") });
        }
        if standing.is_as_wanted() {
            return Ok(Provisioned::Found);
        }
        tracing::info!(consumer = self.name, changes = ?standing.changes, "the durable of another version is changed");
        let made = if standing.takes_less { Provisioned::Widened } else { Provisioned::Changed };
        let (filter_subject, filter_subjects) = one_or_several(standing.filters.into_iter().collect());
        let wanted = pull::Config { filter_subject, filter_subjects, ..wanted };
        context.update_consumer_on_stream(wanted, self.stream).await.map(|_| made).map_err(|error| nats(&error))
    }

    /// Compares what there is with what is wanted; changes nothing.
    ///
    /// # Errors
    /// [`StartError::Nats`]: it cannot be seen.
    pub async fn standing(&self, context: &Context, config: &Config) -> Result<Standing, StartError> {
        match context.get_consumer_from_stream::<pull::Config, _, _>(self.name, self.stream).await {
            Ok(consumer) => Ok(self.compared(&self.wanted(config), &consumer)),
            Err(error) if is_missing(&error) => Ok(Standing { is_missing: true, ..Standing::default() }),
            Err(error) => Err(StartError::Nats(format!("consumer {}: {error}", self.name))),
        }
    }

    /// The durable in JetStream, which the provisioner has made, verified.
    ///
    /// # Errors
    /// [`StartError::NotProvisioned`] when it is missing or takes less than wanted, [`StartError::Settings`] when it exists with others,
    /// [`StartError::Nats`] for whatever may pass.
    pub(crate) async fn find(&self, context: &Context, config: &Config) -> Result<Consumer<pull::Config>, StartError> {
        let not_provisioned =
            |what: &str| StartError::NotProvisioned { name: format!("consumer {} of {}", self.name, self.stream), what: what.into() };
        let subject = format!("CONSUMER.INFO.{}.{}", self.stream, self.name);
        let asked = nats::ask_api(&subject, async {
            match context.get_consumer_from_stream::<pull::Config, _, _>(self.name, self.stream).await {
                Ok(consumer) => Ok(Some(consumer)),
                Err(error) if is_missing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        });
        let found = asked.await.map_err(|error| StartError::Nats(format!("consumer {}: {error}", self.name)))?;
        let Some(consumer) = found else { return Err(not_provisioned("does not exist")) };
        let Standing { mut changes, fixed, takes_less, .. } = self.compared(&self.wanted(config), &consumer);
        if takes_less {
            return Err(not_provisioned("is that of another version and takes less than this one wants"));
        }
        changes.extend(fixed);
        if changes.is_empty() {
            Ok(consumer)
        } else {
            Err(StartError::Settings { name: format!("consumer {}", self.name), difference: changes.join("; ") })
        }
    }

    /// Compares with what is there.
    fn compared(&self, wanted: &pull::Config, consumer: &Consumer<pull::Config>) -> Standing {
        let found = &consumer.cached_info().config;
        let (mut changes, fixed) = differences(wanted, found);
        let found = filters(&found.filter_subject, &found.filter_subjects);
        let ours = filters(&wanted.filter_subject, &wanted.filter_subjects);
        let filters = widened(&ours, &found);
        let added: Vec<&str> = filters.difference(&found).map(String::as_str).collect();
        let takes_less = !added.is_empty();
        if takes_less {
            changes.push(format!("it does not take {} yet", added.join(", ")));
        }
        let besides = filters.difference(&ours).cloned().collect();
        Standing { is_missing: false, changes, fixed, besides, takes_less, filters }
    }

    /// An ephemeral reader without acknowledgements, for a position that is kept elsewhere.
    pub(crate) fn reader(&self, after: u64) -> pull::Config {
        let (one, several) = one_or_several(self.filters.iter().map(|filter| (*filter).to_owned()).collect());
        pull::Config {
            description: Some(format!("chancery consumer {}", self.name)),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
            ack_policy: AckPolicy::None,
            filter_subject: one,
            filter_subjects: several,
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: Duration::from_secs(60),
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        }
    }
}

/// The consumer is missing, or its stream is.
fn is_missing(error: &stream::ConsumerError) -> bool {
    let missing = [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND];
    matches!(error.kind(), ConsumerErrorKind::JetStream(error) if missing.contains(&error.error_code()))
}

/// As JetStream takes them: one filter has a place of its own.
fn one_or_several(mut filters: Vec<String>) -> (String, Vec<String>) {
    if filters.len() == 1 { (filters.pop().unwrap_or_default(), filters) } else { (String::new(), filters) }
}

/// All filters of a durable, however they are told.
pub fn filters(one: &str, several: &[String]) -> BTreeSet<String> {
    several.iter().cloned().chain((!one.is_empty()).then(|| one.to_owned())).collect()
}

/// Everything that either takes, none of it twice: the server refuses filters that overlap.
fn widened(ours: &BTreeSet<String>, theirs: &BTreeSet<String>) -> BTreeSet<String> {
    let all: BTreeSet<&String> = ours.union(theirs).collect();
    let is_covered = |one: &String| all.iter().any(|other| *other != one && subjects::matches(other, one));
    all.iter().filter(|one| !is_covered(one)).map(|one| (*one).clone()).collect()
}

/// Compares what matters; the server adds metadata and defaults of its own. First what may be changed, then what may not.
fn differences(wanted: &pull::Config, found: &Found) -> (Vec<String>, Vec<String>) {
    let compare = |what: &str, wanted: String, found: String| (wanted != found).then(|| format!("{what} should be {wanted} and is {found}"));
    let limits = [
        compare("ack wait", format!("{:?}", wanted.ack_wait), format!("{:?}", found.ack_wait)),
        compare("max ack pending", wanted.max_ack_pending.to_string(), found.max_ack_pending.to_string()),
    ];
    let fixed = [
        compare("start", format!("{:?}", wanted.deliver_policy), format!("{:?}", found.deliver_policy)),
        compare("ack policy", format!("{:?}", wanted.ack_policy), format!("{:?}", found.ack_policy)),
        compare("max deliver", wanted.max_deliver.to_string(), found.max_deliver.to_string()),
        compare("replicas", wanted.num_replicas.to_string(), found.num_replicas.to_string()),
        compare("backoff", format!("{:?}", wanted.backoff), format!("{:?}", found.backoff)),
    ];
    (limits.into_iter().flatten().collect(), fixed.into_iter().flatten().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURABLE: Durable = Durable {
        name: "test",
        stream: "EVENTS",
        filters: &["evt.>"],
        order: Order::None,
        start: Start::All,
        ack_wait: Duration::from_secs(10),
        max_deliver: 8,
        max_ack_pending: 1_024,
        batch: 256,
        backoff: &[Duration::from_secs(1), Duration::from_secs(8)],
    };

    #[test]
    fn delays_grow_are_jittered_and_the_last_one_repeats() {
        for _ in 0..100 {
            assert!((Duration::from_millis(500)..=Duration::from_secs(1)).contains(&DURABLE.delay(1)));
            assert!((Duration::from_secs(4)..=Duration::from_secs(8)).contains(&DURABLE.delay(2)));
            assert!((Duration::from_secs(4)..=Duration::from_secs(8)).contains(&DURABLE.delay(u32::MAX)));
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused() {
        assert!(DURABLE.check(Order::None).is_ok());
        assert!(DURABLE.check(Order::Aggregate).is_err());
        assert!(Durable { filters: &[], ..DURABLE }.check(Order::None).is_err());
        assert!(Durable { batch: 0, ..DURABLE }.check(Order::None).is_err());
    }

    #[test]
    fn filters_are_widened_and_never_narrowed() {
        let set = |filters: &[&str]| filters.iter().map(|filter| (*filter).to_owned()).collect::<BTreeSet<_>>();
        let wide = |ours: &[&str], theirs: &[&str]| widened(&set(ours), &set(theirs));
        assert_eq!(wide(&["evt.*.user.>"], &["evt.*.team.created"]), set(&["evt.*.team.created", "evt.*.user.>"]));
        assert_eq!(wide(&["evt.*.tenant.created"], &["evt.*.tenant.>"]), set(&["evt.*.tenant.>"]));
        assert_eq!(wide(&["evt.>"], &["evt.*.tenant.>", "evt.*.user.created"]), set(&["evt.>"]));
    }

    #[test]
    fn a_durable_of_events_also_takes_what_it_is_to_have_again() {
        let config = Config::from_lookup(&|_| None).unwrap();
        let filters = |durable: Durable| (durable.wanted(&config).filter_subject, durable.wanted(&config).filter_subjects);
        assert_eq!(filters(DURABLE), (String::new(), vec!["evt.>".to_owned(), "redrive.test.>".to_owned()]));
        assert_eq!(filters(Durable { stream: "OTHER", ..DURABLE }), ("evt.>".to_owned(), Vec::new()));
    }

    #[test]
    fn a_durable_with_other_settings_is_told_apart_by_what_differs() {
        let found = Found { ack_wait: Duration::from_secs(30), filter_subject: "evt.>".into(), max_deliver: -1, ..Found::default() };
        let wanted = pull::Config { ack_wait: Duration::from_secs(10), filter_subject: "evt.>".into(), max_deliver: -1, ..pull::Config::default() };
        let (limits, fixed) = differences(&wanted, &found);
        assert_eq!((limits, fixed.is_empty()), (vec!["ack wait should be 10s and is 30s".to_owned()], true));
        let (limits, fixed) = differences(&wanted, &Found { ack_wait: Duration::from_secs(10), max_deliver: 5, ..found });
        assert_eq!((limits.is_empty(), fixed), (true, vec!["max deliver should be -1 and is 5".to_owned()]));
    }
}
