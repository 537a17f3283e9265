//! The bucket as this consumer has it: it deletes, and never writes a value.

use std::{collections::BTreeSet, future::IntoFuture as _, time::Duration};

use async_nats::{HeaderMap, jetstream};
use futures_util::future::try_join_all;
use runtime::{Config, Failure, StartError, nats, streams};
use subjects::authz::{self, Key};
use tokio::time::timeout;

/// The bucket.
#[derive(Clone)]
pub(crate) struct Bucket {
    context: jetstream::Context,
    limit: Duration,
}

impl Bucket {
    /// Connects.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub(crate) async fn connect(config: &Config) -> Result<Self, StartError> {
        let client = nats::connect(config, "authz-cache bucket", crate::NAME).await?.client;
        Ok(Self { context: jetstream::new(client), limit: config.publish_timeout })
    }

    /// Drops all of it.
    ///
    /// # Errors
    /// The bucket is out of reach: it is waited for.
    pub(crate) async fn drop_all(&self, keys: BTreeSet<Key>) -> Result<(), Failure> {
        let all = try_join_all(keys.into_iter().map(async |key| match key {
            Key::Tenant(tenant) => {
                // First the message that makes every gateway forget the tenant and refuse what was asked before it. Then what is stored,
                // up to that message: what is dropped or put after it must stay, or a stale answer could take the place of a drop.
                let sequence = self.delete(key).await?;
                let stream = streams::get(&self.context, authz::STREAM).await.map_err(Failure::outage)?;
                let purge = stream.purge().filter(authz::below(tenant)).sequence(sequence).into_future();
                nats::ask_api("STREAM.PURGE.KV_authz", purge).await.map(drop).map_err(Failure::outage)
            }
            Key::Member(..) | Key::Beat => self.delete(key).await.map(drop),
        }));
        timeout(self.limit, all).await.map_err(|_| Failure::outage("the bucket does not answer"))?.map(drop)
    }

    /// Puts a deletion over whatever the key has, or has not: a value that was asked for before cannot take its place. Its revision.
    pub(crate) async fn delete(&self, key: Key) -> Result<u64, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        let subject = key.subject();
        let stored = async {
            let sent = self.context.publish_with_headers(subject.clone(), headers, "".into()).await?;
            sent.await.map(|stored| stored.sequence)
        };
        nats::ask(&subject, stored).await.map_err(Failure::outage)
    }

    /// How the durable stands.
    ///
    /// # Errors
    /// In words.
    pub(crate) async fn durable(&self) -> Result<jetstream::consumer::Info, String> {
        use jetstream::consumer::{Consumer, pull};
        let found: Result<Consumer<pull::Config>, _> = self.context.get_consumer_from_stream(crate::NAME, subjects::stream::EVENTS).await;
        found.map(|found| found.cached_info().clone()).map_err(|error| error.to_string())
    }
}
