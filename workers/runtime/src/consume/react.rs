//! Answering events with commands: what reactors have in common.
//!
//! A reactor acts as `system` with the event as its authority. The command's id follows from the event's, so a redelivery repeats nothing:
//! a command is decided once. What was decided already is how far an answer of many commands had come when its process ended.

mod outcomes;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aggregates::Command;
use async_nats::{HeaderMap, jetstream};
use deadpool_postgres::Pool;
use futures_util::{StreamExt, stream};
use outcomes::Outcomes;
use serde_json::value::to_raw_value;
use subjects::{Actor, Authority, CommandId, CommandMessage, Envelope, Outcome, Status, TenantId, derive, header};
use time::OffsetDateTime;
use tokio::{sync::Semaphore, time::timeout};
use tokio_postgres::{Row, types::ToSql};
use tracing::Span;
use uuid::Uuid;

use super::{Event, judge as judge_sql};
use crate::{
    Config, Failure, StartError, Stop, failpoint, nats, store,
    trace::{self, Trace},
};

/// How often a reactor's event is tried. A command has an outcome as soon as a worker is there for it, however long that takes, and what is
/// at fault is refused and put aside at once: there is nothing to give up for.
pub const UNTIL_DECIDED: u32 = u32::MAX;

/// How long a partition where a command was not decided in time is believed to be slow.
const SLOW: Duration = Duration::from_secs(30);
/// How long an outcome is awaited there: the command is stored, its outcome is read at the next delivery, and others wait for this call.
const BRIEFLY: Duration = Duration::from_millis(50);

/// Gives commands and learns how they ended.
pub struct Reactor {
    commands: &'static [&'static str],
    context: jetstream::Context,
    outcomes: Outcomes,
    pool: Pool,
    partitions: u16,
    publish_timeout: Duration,
    makes_spans: bool,
    wait: Duration,
    at_once: usize,
    page: usize,
    permits: Semaphore,
    slow: Mutex<HashMap<u16, Instant>>,
}

/// Commands that were not accepted, or not decided yet. They keep none of the others from being given; in the end the event comes again, or
/// is put aside for somebody.
#[derive(Debug, Default)]
pub struct Refused {
    first: Option<String>,
    more: usize,
    undecided: bool,
}

impl Refused {
    fn add(&mut self, outcome: &Outcome) {
        match judge(outcome) {
            Ok(()) => {}
            Err(error) if self.first.is_none() => self.first = Some(error),
            Err(_) => self.more += 1,
        }
    }

    /// What there is to say to the loop when every command was given.
    ///
    /// # Errors
    /// [`Failure::Retry`] when one is not decided yet, [`Failure::Poison`] when one was refused.
    pub fn end(self) -> Result<(), Failure> {
        match self.first {
            _ if self.undecided => Err(Failure::retry("no outcome in time")),
            None => Ok(()),
            Some(first) if self.more == 0 => Err(Failure::poison(first)),
            Some(first) => Err(Failure::poison(format!("{first}, and {} more", self.more))),
        }
    }
}

impl Reactor {
    /// Connects as the consumer of this name, which gives only these commands, and listens for outcomes until `stop`.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub async fn connect(config: &Config, name: &str, commands: &'static [&'static str], stop: &Stop) -> Result<Self, StartError> {
        let client = nats::connect(config, &format!("{name} reactor"), name).await?.client;
        let pool = store::pool(config, &format!("chancery {name}"))?;
        let outcomes = Outcomes::listen(&client, pool.clone(), stop).await?;
        Ok(Self {
            commands,
            context: jetstream::new(client),
            outcomes,
            pool,
            partitions: config.partitions,
            publish_timeout: config.publish_timeout,
            makes_spans: config.makes_spans(),
            wait: config.wait,
            at_once: config.reactions_at_once,
            page: config.reaction_page,
            permits: Semaphore::new(config.reactions_at_once),
            slow: Mutex::default(),
        })
    }

    /// Reads rows with the rights of the consumer's role.
    ///
    /// # Errors
    /// The database is away, or refuses.
    pub async fn rows(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, Failure> {
        let client = self.pool.get().await.map_err(Failure::outage)?;
        let statement = client.prepare_cached(sql).await.map_err(|error| judge_sql(&error))?;
        client.query(&statement, parameters).await.map_err(|error| judge_sql(&error))
    }

    /// Rows to read at once for commands that are given together.
    pub fn page(&self) -> i64 {
        i64::try_from(self.page).unwrap_or(i64::MAX)
    }

    /// Answers these events with a function, several at once.
    ///
    /// # Errors
    /// The worst of what happened: something is away, an outcome is not known in time, a command was refused.
    pub async fn each<F>(&self, events: &[Event], answer: F) -> Result<(), Failure>
    where
        F: AsyncFn(&Event) -> Result<(), Failure>,
    {
        let answers: Vec<_> = events.iter().map(|event| answer(event)).collect();
        worst(stream::iter(answers).buffer_unordered(self.at_once).collect().await)
    }

    /// Gives commands because of an event, several at once, and waits until all are decided. Those that were refused, or whose outcome is not
    /// known in time, are added to `refused`: a tenant whose partition rests keeps no other tenant from being told.
    ///
    /// # Errors
    /// Something is away. The same commands again are harmless.
    pub async fn give(&self, cause: &Event, commands: &[CommandMessage], refused: &mut Refused) -> Result<(), Failure> {
        let mut known = HashMap::new();
        let redrives = cause.redrives();
        // On a later delivery they may have been decided long ago.
        if (cause.delivered > 1 || redrives > 0) && !commands.is_empty() {
            let ids: Vec<_> = commands.iter().flat_map(|command| tries(command.id, redrives)).collect();
            known = self.outcomes.stored_of(&ids).await.map_err(Failure::outage)?;
        }
        let mut giving = Vec::new();
        for command in commands {
            match next_try(command.id, redrives, &known) {
                Try::Decided(outcome) => refused.add(outcome),
                Try::Give(id) if id == command.id => giving.push(Cow::Borrowed(command)),
                Try::Give(id) => giving.push(Cow::Owned(CommandMessage { id, ..command.clone() })),
            }
        }
        let giving: Vec<_> = giving.iter().map(|command| self.give_one(cause, command)).collect();
        let given: Vec<Result<Outcome, Failure>> = stream::iter(giving).buffer_unordered(self.at_once).collect().await;
        let added = |outcome: Result<Outcome, Failure>| match outcome {
            Ok(outcome) => {
                refused.add(&outcome);
                Ok(())
            }
            Err(Failure::Retry(_)) => {
                refused.undecided = true;
                Ok(())
            }
            Err(failure) => Err(failure),
        };
        worst(given.into_iter().map(added).collect())
    }

    async fn give_one(&self, cause: &Event, command: &CommandMessage) -> Result<Outcome, Failure> {
        let _permit = self.permits.acquire().await.map_err(Failure::outage)?;
        let answer = self.outcomes.expect(command.id);
        if let Err(failure) = self.publish(cause, command).await {
            self.outcomes.forget(command.id);
            return Err(failure);
        }
        let partition = subjects::partition(&command.tenant_id.to_string(), self.partitions);
        let wait = if self.is_slow(partition) { BRIEFLY } else { self.wait };
        let outcome = self.outcomes.await_outcome(command.id, answer, wait).await;
        self.note_pace(partition, outcome.is_some());
        let outcome = outcome.ok_or_else(|| Failure::retry("no outcome in time"))?;
        failpoint::hit("reaction_decided");
        Ok(outcome)
    }

    /// Whether a command of this partition was not decided in time a moment ago: its worker is gone, or waits for a newer one.
    fn is_slow(&self, partition: u16) -> bool {
        let slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        slow.get(&partition).is_some_and(|until| Instant::now() < *until)
    }

    fn note_pace(&self, partition: u16, decided: bool) {
        let mut slow = self.slow.lock().unwrap_or_else(PoisonError::into_inner);
        if decided {
            slow.remove(&partition);
        } else {
            // Not prolonged by those that wait briefly: now and then one waits long again.
            let now = Instant::now();
            let until = slow.entry(partition).or_insert(now);
            if *until <= now {
                *until = now + SLOW;
            }
        }
    }

    async fn publish(&self, cause: &Event, command: &CommandMessage) -> Result<(), Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(header::MESSAGE_ID, command.id.to_string());
        headers.insert(header::REPLY, self.outcomes.inbox());
        headers.insert(header::CONTENT_TYPE, header::JSON);
        if !self.commands.contains(&command.command_type.as_str()) {
            return Err(Failure::poison(format!("{} is none of the commands that this consumer gives", command.command_type)));
        }
        let known = Command::parse(&command.command_type, command.data.get()).map_err(Failure::poison)?;
        let partition = subjects::partition(&command.tenant_id.to_string(), self.partitions);
        let subject = subjects::command(partition, command.tenant_id, known.kind(), known.name());
        let body = serde_json::to_vec(command).map_err(Failure::poison)?;
        // What happens to the command goes on below the handling of its cause.
        let came = cause.trace();
        let span = match &came {
            Some(trace) if self.makes_spans && trace.is_kept() => trace::giving(command, partition, body.len(), trace),
            _ => Span::none(),
        };
        if let Some(trace) = Trace::of(&span).or(came) {
            trace.write(&mut headers);
        }
        let published = timeout(self.publish_timeout, nats::store(&self.context, subject, headers, body.into()));
        let published = published.await.map_err(|_| Failure::outage("no PubAck in time")).and_then(|stored| stored.map_err(Failure::outage));
        if published.is_err() {
            trace::failed(&span, "unknown");
        }
        published
    }
}

/// The command that answers an event, to an aggregate of any tenant. `role` names the reactor, and tells the commands apart that answer one
/// event: the same event and role are the same command.
///
/// # Errors
/// Data without JSON.
pub fn command(cause: &Envelope, role: &str, tenant: TenantId, target: Uuid, command: impl Into<Command>) -> Result<CommandMessage, Failure> {
    let command = command.into();
    Ok(CommandMessage {
        id: derive(cause.id.uuid(), role),
        command_type: command.command_type(),
        tenant_id: tenant,
        aggregate_id: command.kind().id(target),
        actor: Actor::System,
        authority: Authority::System,
        timestamp: OffsetDateTime::now_utc(),
        correlation_id: cause.correlation_id.clone(),
        causation_id: Some(cause.id),
        if_match: None,
        fingerprint: None,
        keyed: false,
        ip_address: None,
        user_agent: None,
        data: to_raw_value(&command).map_err(Failure::poison)?,
    })
}

/// Earlier tries that are looked at, at most, where an event is tried anew again and again.
const TRIES: u32 = 16;

/// What is to be done about a command of an event.
enum Try<'a> {
    /// Nothing more.
    Decided(&'a Outcome),
    /// It is given under this id.
    Give(CommandId),
}

/// The ids under which a command was given for an event, the last one last. A command has one outcome: what was refused is another command
/// when an operator lets the event be tried anew.
fn tries(id: CommandId, redrives: u32) -> impl DoubleEndedIterator<Item = CommandId> {
    let again = move |number: u32| derive(id.uuid(), &format!("redrive {number}"));
    std::iter::once(id).chain((redrives.saturating_sub(TRIES) + 1..=redrives).map(again))
}

/// What succeeded in any try is done; else it is the last one that counts.
fn next_try(id: CommandId, redrives: u32, known: &HashMap<CommandId, Outcome>) -> Try<'_> {
    let succeeded = tries(id, redrives).filter_map(|id| known.get(&id)).find(|outcome| outcome.status == Status::Succeeded);
    let last = tries(id, redrives).next_back().unwrap_or(id);
    match succeeded.or_else(|| known.get(&last)) {
        Some(outcome) => Try::Decided(outcome),
        None => Try::Give(last),
    }
}

/// What an outcome means. "So already" is a success of the command; whatever is refused needs somebody.
fn judge(outcome: &Outcome) -> Result<(), String> {
    let code = outcome.code.as_deref().unwrap_or("no code");
    match outcome.status {
        Status::Succeeded => Ok(()),
        Status::Refused => Err(format!("{} was refused: {code}", outcome.command)),
        Status::Failed => Err(format!("{} could not be processed", outcome.command)),
    }
}

/// What is to be waited for comes before what is to be tried again, and that before what is lost: nothing is given up for its neighbour.
fn worst(results: Vec<Result<(), Failure>>) -> Result<(), Failure> {
    let rank = |failure: &Failure| match failure {
        Failure::Outage(_) => 0,
        Failure::Retry(_) => 1,
        Failure::Poison(_) => 2,
    };
    results.into_iter().filter_map(Result::err).min_by_key(rank).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: Status, code: Option<&str>) -> Outcome {
        Outcome {
            command_id: CommandId::new(Uuid::from_u128(1)),
            command: "invitation.send".into(),
            tenant_id: TenantId::new(Uuid::from_u128(2)),
            aggregate_id: "inv".into(),
            status,
            code: code.map(str::to_owned),
            version: None,
            sequence: None,
            events: Vec::new(),
            fingerprint: None,
            actor: Actor::System,
            accepted_at: None,
        }
    }

    #[test]
    fn a_refusal_needs_somebody() {
        let mut refused = Refused::default();
        refused.add(&outcome(Status::Succeeded, None));
        assert!(refused.end().is_ok());
        let mut refused = Refused::default();
        refused.add(&outcome(Status::Refused, Some("tenant_not_active")));
        refused.add(&outcome(Status::Succeeded, None));
        refused.add(&outcome(Status::Failed, None));
        let error = refused.end().map_err(|failure| (matches!(failure, Failure::Poison(_)), failure.to_string()));
        assert_eq!(error, Err((true, "invitation.send was refused: tenant_not_active, and 1 more".into())));
    }

    #[test]
    fn what_is_not_decided_yet_comes_again_whatever_else_was_refused() {
        let mut refused = Refused { undecided: true, ..Refused::default() };
        refused.add(&outcome(Status::Refused, Some("tenant_not_active")));
        assert!(matches!(refused.end(), Err(Failure::Retry(_))));
    }

    #[test]
    fn what_was_refused_is_given_anew_with_each_redrive_and_what_succeeded_never() {
        let id = CommandId::new(Uuid::from_u128(1));
        let ids: Vec<CommandId> = tries(id, 2).collect();
        let given = |redrives, known: &[(usize, Status)]| {
            let known = known.iter().map(|(place, status)| (ids[*place], outcome(*status, None))).collect();
            match next_try(id, redrives, &known) {
                Try::Give(id) => ids.iter().position(|known| *known == id),
                Try::Decided(_) => None,
            }
        };
        assert_eq!(given(0, &[]), Some(0));
        assert_eq!(given(0, &[(0, Status::Refused)]), None);
        assert_eq!(given(1, &[(0, Status::Refused)]), Some(1));
        assert_eq!(given(1, &[(0, Status::Refused), (1, Status::Refused)]), None);
        assert_eq!(given(2, &[(0, Status::Refused), (1, Status::Refused)]), Some(2));
        assert_eq!(given(2, &[(0, Status::Refused), (1, Status::Succeeded)]), None);
        assert_eq!(tries(id, 1_000).count(), 17);
    }

    #[test]
    fn what_may_pass_comes_before_what_is_lost() {
        let failures = || vec![Err(Failure::poison("a")), Ok(()), Err(Failure::retry("b")), Err(Failure::outage("c"))];
        assert_eq!(worst(failures()).map_err(|failure| failure.to_string()), Err("c".into()));
        assert_eq!(worst(vec![Err(Failure::poison("a")), Err(Failure::retry("b"))]).map_err(|failure| failure.to_string()), Err("b".into()));
    }
}
