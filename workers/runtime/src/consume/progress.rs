//! How the messages of a batch stand with the server.

use std::time::Duration;

use async_nats::jetstream::{AckKind, message::Acker};
use bytes::Bytes;

use super::Event;

/// Events that are handled together, and the right to settle each.
#[derive(Default)]
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    pub(crate) payloads: Vec<Bytes>,
    pub(crate) open: Vec<Unsettled>,
}

impl Batch {
    pub(crate) fn push(&mut self, event: Event, payload: Bytes, open: Unsettled) {
        self.events.push(event);
        self.payloads.push(payload);
        self.open.push(open);
    }

    /// Everything unsettled is worked on.
    pub(crate) async fn extend(&self) {
        for open in &self.open {
            open.extend().await;
        }
    }

    /// Everything unsettled goes back at once, for a replica or the next start.
    pub(crate) async fn give_back(&mut self) {
        for open in self.open.iter_mut().filter(|open| !open.is_settled()) {
            open.later(Duration::ZERO).await;
        }
    }
}

/// The right to settle a message, once.
pub(crate) struct Unsettled(Option<Acker>);

impl Unsettled {
    pub(crate) fn new(acker: Acker) -> Self {
        Self(Some(acker))
    }

    /// Nothing to settle: the event is not from the stream.
    pub(crate) const fn nothing() -> Self {
        Self(None)
    }

    /// Done. Fire and forget: what gets lost comes again, and handlers expect that.
    pub(crate) async fn ack(&mut self) {
        self.settle(AckKind::Ack).await;
    }

    /// To be delivered again after a delay.
    pub(crate) async fn later(&mut self, delay: Duration) {
        self.settle(AckKind::Nak(Some(delay))).await;
    }

    /// Ours still, and worked on: the server waits another ack wait.
    pub(crate) async fn extend(&self) {
        if let Some(acker) = &self.0
            && let Err(error) = acker.ack_with(AckKind::Progress).await
        {
            tracing::debug!(%error, "a message could not be extended");
        }
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.0.is_none()
    }

    async fn settle(&mut self, kind: AckKind) {
        if let Some(acker) = self.0.take()
            && let Err(error) = acker.ack_with(kind).await
        {
            tracing::debug!(%error, "a message could not be settled and comes again");
        }
    }
}
