//! Sending commands: stored in COMMANDS first, then the outcome is awaited. Never a success before the outcome.

mod group;
mod publish;
mod waiting;

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use axum::body::Bytes;
use runtime::{Config, trace};
use serde::Serialize;
use serde_json::value::RawValue;
use subjects::{Actor, Authority, CommandId, CommandMessage, Kind, Outcome, TenantId};
use tokio::{sync::mpsc, time::Instant};
use tracing::Span;

pub(crate) use waiting::Waiting;

use self::publish::{Ack, Letter, NotStored, Publisher};
use crate::{
    link::Keyed,
    metrics::SENDING,
    problem::{Code, Problem},
    request::{Meta, Prefer},
};

/// Commands that may wait for the submitter.
const QUEUE: usize = 4_096;
/// How long the table is asked about a repeated command of who does not want to wait.
const GLANCE: Duration = Duration::from_millis(100);
/// Time kept back of the request's own, for the answer.
const RESERVE: Duration = Duration::from_millis(500);

/// A command to be sent.
pub(crate) struct Draft {
    /// Its id, from [`Meta::command_id`].
    pub(crate) id: CommandId,
    /// The tenant that decides.
    pub(crate) tenant: TenantId,
    /// The kind of aggregate.
    pub(crate) kind: Kind,
    /// The command.
    pub(crate) command: &'static str,
    /// The aggregate.
    pub(crate) aggregate: String,
    /// Who acts.
    pub(crate) actor: Actor,
    /// By which right.
    pub(crate) authority: Authority,
    /// The command's own data.
    pub(crate) data: Box<RawValue>,
}

impl Draft {
    /// The command's data as JSON.
    ///
    /// # Errors
    /// A defect: every command can be written.
    pub(crate) fn data(data: &impl Serialize) -> Result<Box<RawValue>, Problem> {
        serde_json::value::to_raw_value(data).map_err(|error| {
            tracing::error!(%error, "a command cannot be written");
            Problem::new(Code::Internal)
        })
    }
}

/// What became of a command while the caller waited.
#[derive(Debug)]
pub(crate) enum Fate {
    /// It was decided.
    Decided(Arc<Outcome>),
    /// It is stored and will be.
    Pending,
}

/// Sends commands and waits for their outcomes.
pub(crate) struct Commands {
    publisher: Arc<Publisher>,
    grouped: Option<mpsc::Sender<group::Job>>,
    waiting: Arc<Waiting>,
    fingerprints: Keyed,
    partitions: u16,
    spans: bool,
    accept_deadline: Duration,
    wait: Duration,
    request_timeout: Duration,
}

impl Commands {
    /// Prepares sending. The tasks that listen and that group run until the process ends or this is dropped.
    pub(crate) fn new(config: &Config, client: Client, waiting: Arc<Waiting>, fingerprints: Keyed) -> Self {
        let publisher = Arc::new(Publisher::new(client, waiting.inbox(), config.publish_timeout));
        let grouped = (config.group_commit > 0).then(|| {
            let (sender, receiver) = mpsc::channel(QUEUE);
            tokio::spawn(group::run(publisher.clone(), receiver, config.group_commit));
            sender
        });
        Self {
            publisher,
            grouped,
            waiting,
            fingerprints,
            partitions: config.partitions,
            spans: config.makes_spans(),
            accept_deadline: config.accept_deadline,
            wait: config.wait,
            request_timeout: config.request_timeout,
        }
    }

    /// Sends a command and waits as long as the caller wants to.
    ///
    /// # Errors
    /// The problem says whether the command may have been stored.
    pub(crate) async fn carry_out(&self, draft: Draft, meta: &Meta, body: &[u8]) -> Result<Fate, Problem> {
        let fate = self.send(draft, meta, body).await;
        match &fate {
            Ok(Fate::Decided(_)) => SENDING.decided.inc(),
            Ok(Fate::Pending) if meta.prefer == Prefer::Async => SENDING.unwaited.inc(),
            Ok(Fate::Pending) => SENDING.pending.inc(),
            Err(_) => {}
        }
        fate
    }

    async fn send(&self, draft: Draft, meta: &Meta, body: &[u8]) -> Result<Fate, Problem> {
        let begun = Instant::from_std(meta.begun);
        let end = begun + self.request_timeout.saturating_sub(RESERVE);
        let id = draft.id;
        let fingerprint = self.fingerprint(meta, body);
        let (letter, span) = self.letter(draft, meta, fingerprint.clone())?;
        let mut waiter = self.waiting.register(id);
        let deadline = (begun + self.accept_deadline).min(end);
        let sent = std::time::Instant::now();
        let stored = tokio::select! {
            biased;
            outcome = waiter.outcome(), if meta.prefer != Prefer::Async => {
                // What is decided is stored, whoever says so first.
                SENDING.accept.lap(sent);
                return decided(outcome, fingerprint.as_deref(), id);
            }
            stored = self.store(letter, deadline) => stored,
        };
        if let Err(not_stored) = &stored {
            trace::failed(&span, not_stored.name());
        }
        drop(span);
        let ack = stored.map_err(|not_stored| refused_to_store(not_stored, id))?;
        let stored = SENDING.accept.lap(sent);
        if ack.duplicate {
            self.waiting.ask_now(id);
        }
        let until = match meta.prefer {
            // Who does not want to wait is told at once, but not that another request's command is theirs.
            Prefer::Async if !ack.duplicate => return Ok(Fate::Pending),
            Prefer::Async => Instant::now() + GLANCE,
            Prefer::Wait(wait) => begun + wait,
            Prefer::Silent => begun + self.wait,
        };
        match tokio::time::timeout_at(until.min(end), waiter.outcome()).await {
            Ok(outcome) => {
                SENDING.outcome.lap(stored);
                match decided(outcome, fingerprint.as_deref(), id)? {
                    Fate::Decided(_) if meta.prefer == Prefer::Async => Ok(Fate::Pending),
                    fate => Ok(fate),
                }
            }
            Err(_) => Ok(Fate::Pending),
        }
    }

    /// What tells a request under a key from another. Only a key can bring the same id with another request; a fresh id needs none.
    pub(crate) fn fingerprint(&self, meta: &Meta, body: &[u8]) -> Option<String> {
        let key = meta.key.as_ref();
        key.map(|_| self.fingerprints.fingerprint(meta.policy.method.name(), &meta.path, meta.if_match.as_deref().unwrap_or_default(), body))
    }

    /// The message, and the span of its publishing where its trace is kept: what happens to the command goes on below that.
    fn letter(&self, draft: Draft, meta: &Meta, fingerprint: Option<String>) -> Result<(Letter, Span), Problem> {
        let Draft { id, tenant, kind, command, aggregate, actor, authority, data } = draft;
        let partition = subjects::partition(&tenant.to_string(), self.partitions);
        let message = CommandMessage {
            id,
            command_type: format!("{kind}.{command}"),
            tenant_id: tenant,
            aggregate_id: aggregate,
            actor,
            authority,
            timestamp: Meta::now(),
            correlation_id: id.to_string(),
            causation_id: None,
            if_match: meta.version,
            fingerprint,
            keyed: meta.key.is_some(),
            ip_address: Some(meta.address.to_string()),
            user_agent: meta.user_agent.clone(),
            data,
        };
        let body = serde_json::to_vec(&message).map_err(|error| {
            tracing::error!(%error, "a command cannot be written");
            Problem::new(Code::Internal)
        })?;
        let span = match &meta.trace {
            Some(trace) if self.spans && trace.is_kept() => trace::giving(&message, partition, body.len(), trace),
            _ => Span::none(),
        };
        let letter = Letter {
            id: message.correlation_id,
            subject: subjects::command(partition, tenant, kind, command),
            body: Bytes::from(body),
            trace: trace::Trace::of(&span).or_else(|| meta.trace.clone()),
        };
        Ok((letter, span))
    }

    async fn store(&self, letter: Letter, deadline: Instant) -> Result<Ack, NotStored> {
        match &self.grouped {
            None => self.publisher.store(&letter, deadline, false).await,
            Some(queue) => {
                let (job, answer) = group::Job::new(letter, deadline);
                // A full queue is waited for, but not longer than the command may take.
                match tokio::time::timeout_at(deadline, queue.send(job)).await {
                    Ok(Ok(())) => answer.await.unwrap_or(Err(NotStored::Unknown)),
                    Ok(Err(_)) | Err(_) => Err(NotStored::Surely),
                }
            }
        }
    }

    /// Whether COMMANDS can be written to: asks with a message that the stream must refuse.
    pub(crate) async fn stream_answers(&self) -> bool {
        self.publisher.stream_answers().await
    }

    /// Whether there is a connection to NATS.
    pub(crate) fn connected(&self) -> bool {
        self.publisher.connected()
    }

    /// Sends what is left.
    pub(crate) async fn flush(&self) {
        self.publisher.flush().await;
    }
}

fn decided(outcome: Arc<Outcome>, fingerprint: Option<&str>, id: CommandId) -> Result<Fate, Problem> {
    match (outcome.fingerprint.as_deref(), fingerprint) {
        (Some(theirs), Some(ours)) if theirs != ours => Err(Problem::new(Code::IdempotencyKeyReused).about(id)),
        _ => Ok(Fate::Decided(outcome)),
    }
}

fn refused_to_store(not_stored: NotStored, id: CommandId) -> Problem {
    match not_stored {
        NotStored::Full => &SENDING.full,
        NotStored::Surely => &SENDING.not_accepted,
        NotStored::Unknown => &SENDING.unknown,
    }
    .inc();
    match not_stored {
        NotStored::Full => Problem::new(Code::NotAccepted).detail("too many commands are waiting to be decided").about(id).retry_after(5),
        NotStored::Surely => Problem::new(Code::NotAccepted).about(id),
        NotStored::Unknown => {
            Problem::new(Code::OutcomeUnknown).about(id).retry_after(1).header(axum::http::header::LOCATION, format!("/v1/commands/{id}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(fingerprint: Option<&str>) -> Arc<Outcome> {
        let text = serde_json::json!({
            "commandId": "cmd_01890a5d-ac96-774b-bcce-b302099a8057", "command": "tenant.create", "tenantId": "tenant_01890a5d-ac96-774b-bcce-b302099a8057",
            "aggregateId": "tenant_01890a5d-ac96-774b-bcce-b302099a8057", "status": "succeeded", "events": [], "fingerprint": fingerprint, "actor": "system",
        });
        Arc::new(serde_json::from_value(text).unwrap())
    }

    #[test]
    fn another_request_under_a_key_is_not_told_the_first_ones_outcome() {
        let id: CommandId = "cmd_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert!(matches!(decided(outcome(Some("a")), Some("a"), id), Ok(Fate::Decided(_))));
        assert!(matches!(decided(outcome(None), None, id), Ok(Fate::Decided(_))));
        assert_eq!(decided(outcome(Some("a")), Some("b"), id).map(|_| ()).unwrap_err().code(), Code::IdempotencyKeyReused);
    }

    #[test]
    fn only_what_is_surely_not_stored_is_called_not_accepted() {
        let id: CommandId = "cmd_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(refused_to_store(NotStored::Surely, id).code(), Code::NotAccepted);
        assert_eq!(refused_to_store(NotStored::Full, id).code(), Code::NotAccepted);
        let unknown = refused_to_store(NotStored::Unknown, id);
        assert_eq!((unknown.code(), unknown.body().command_id), (Code::OutcomeUnknown, Some(id)));
        let response = axum::response::IntoResponse::into_response(unknown);
        assert_eq!(response.headers()["location"].to_str().unwrap(), format!("/v1/commands/{id}"));
    }
}
