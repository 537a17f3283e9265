//! The watch of the bucket `authz`, and the putting of answers into it.

use std::{pin::pin, sync::Arc, time::Duration};

use async_nats::jetstream::{self, kv};
use futures_util::StreamExt as _;
use runtime::nats::{self, Connection};
use subjects::{
    Role, TenantId, UserId,
    authz::{self, Key},
};
use tokio::time::{sleep, timeout};

use super::{Standings, memory::Asked};

/// A watch that hears nothing for so long is made again: beats come many times a second.
const SILENCE: Duration = Duration::from_secs(5);
/// Between two watches.
const PAUSE: Duration = Duration::from_millis(250);
/// How long an answer may take to be put.
const PUT: Duration = Duration::from_secs(2);

/// Watches for as long as the process lives. Whenever the connection breaks, nothing that was remembered counts, and it begins again.
pub(crate) async fn watch(standings: Arc<Standings>, connection: Connection) {
    let mut told = false;
    standings.memory.begin();
    loop {
        let ended = follow(&standings, &connection).await;
        let worked = standings.memory.is_believed();
        standings.memory.begin();
        match ended {
            Ended::Broken => tracing::info!("the connection broke: what members may is asked of PostgreSQL until the watch goes on"),
            Ended::Silent => tracing::debug!("the bucket of what members may is silent: PostgreSQL is asked"),
            Ended::Failed(error) if !told => tracing::warn!(error, "the bucket of what members may cannot be watched: PostgreSQL is asked"),
            Ended::Failed(error) => tracing::debug!(error, "the bucket of what members may cannot be watched"),
        }
        told = !worked;
        sleep(PAUSE).await;
    }
}

/// Why a watch ended.
enum Ended {
    Broken,
    Silent,
    Failed(String),
}

async fn follow(standings: &Standings, connection: &Connection) -> Ended {
    let context = jetstream::new(connection.client.clone());
    let bucket = match timeout(SILENCE, nats::ask_api("STREAM.INFO.KV_authz", context.get_key_value(authz::BUCKET))).await {
        Ok(Ok(bucket)) => bucket,
        Ok(Err(error)) => return Ended::Failed(error),
        Err(_) => return Ended::Failed("no answer in time".into()),
    };
    // From here on: the server has answered, and nothing is heard yet.
    let mut life = connection.life();
    let mut over = pin!(life.over());
    let mut watch = tokio::select! {
        () = &mut over => return Ended::Broken,
        opened = timeout(SILENCE, nats::ask_api("CONSUMER.CREATE.KV_authz", bucket.watch_with_history(">"))) => match opened {
            Ok(Ok(watch)) => watch,
            Ok(Err(error)) => return Ended::Failed(error),
            Err(_) => return Ended::Failed("no answer in time".into()),
        },
    };
    standings.put_into(Some(bucket));
    let ended = loop {
        let next = tokio::select! {
            () = &mut over => break Ended::Broken,
            next = timeout(SILENCE, watch.next()) => next,
        };
        match next {
            Ok(Some(Ok(message))) => standings.heard(&message),
            Ok(Some(Err(error))) => break Ended::Failed(error.to_string()),
            Ok(None) => break Ended::Failed("the watch ended".into()),
            Err(_) => break Ended::Silent,
        }
    };
    standings.put_into(None);
    ended
}

impl Standings {
    /// Applies one message of the bucket.
    fn heard(&self, message: &kv::Entry) {
        let Some(key) = Key::parse(&message.key) else {
            tracing::warn!("the bucket of what members may has a key that is none of ours");
            return;
        };
        let value = (message.operation == kv::Operation::Put).then_some(&message.value[..]);
        if let Err(error) = self.memory.apply(key, message.revision, value) {
            tracing::warn!(%error, "what is remembered of a member cannot be read");
        }
        match key {
            Key::Member(tenant, user) if value.is_none() => self.forget_answer(tenant, user),
            Key::Tenant(tenant) => self.forget_tenant(tenant),
            Key::Member(..) | Key::Beat => {}
        }
    }

    /// Puts an answer of PostgreSQL over the revision that was known before it was asked, in the background. When there is more to put
    /// than places, it is not put: it will be asked for again.
    pub(super) fn put(&self, tenant: TenantId, user: UserId, asked: Asked, role: Role) {
        let Some(bucket) = self.bucket() else { return };
        let Ok(place) = self.puts.clone().try_acquire_owned() else { return };
        let Ok(entry) = serde_json::to_vec(&asked.entry(role)) else { return };
        tokio::spawn(async move {
            let _place = place;
            let put = bucket.update(Key::Member(tenant, user).to_string(), entry.into(), asked.revision);
            match timeout(PUT, put).await {
                Ok(Ok(_)) => {}
                // Another gateway was faster, or it was dropped since.
                Ok(Err(error)) => tracing::debug!(%error, "an answer was not put"),
                Err(_) => tracing::debug!("an answer was not put in time"),
            }
        });
    }
}
