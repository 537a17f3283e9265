//! The three streams, every setting spelled out; created when missing, verified and never silently changed when they exist.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    self,
    context::CreateStreamErrorKind,
    stream::{self, Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType},
};
use subjects::stream as names;

use crate::{Config, error::StartError};

/// Metadata key that fixes the number of partitions for the life of COMMANDS.
const PARTITIONS: &str = "chancery.partitions";
/// The first server version with everything we use (atomic batches and their limits, consumer creation options).
const REQUIRED_VERSION: (i64, i64, i64) = (2, 14, 0);

fn base(config: &Config, name: &str, subjects: &[&str]) -> StreamConfig {
    StreamConfig {
        name: name.to_owned(),
        subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(),
        retention: RetentionPolicy::Limits,
        storage: StorageType::File,
        num_replicas: config.replicas,
        discard: DiscardPolicy::New,
        max_messages: -1,
        max_messages_per_subject: -1,
        max_message_size: 1 << 20,
        max_consumers: -1,
        duplicate_window: Duration::from_secs(120),
        allow_direct: true,
        ..StreamConfig::default()
    }
}

/// The settings of the three streams.
pub fn wanted(config: &Config) -> [StreamConfig; 3] {
    let commands = StreamConfig {
        max_bytes: config.commands_max_bytes,
        // An accepted command may never expire; the janitor purges what is decided.
        max_age: Duration::ZERO,
        deny_delete: false,
        deny_purge: false,
        allow_atomic_publish: true,
        metadata: HashMap::from([(PARTITIONS.to_owned(), config.partitions.to_string())]),
        ..base(config, names::COMMANDS, &names::COMMANDS_SUBJECTS)
    };
    let events = StreamConfig {
        max_bytes: config.events_max_bytes,
        max_age: config.events_max_age,
        deny_delete: true,
        deny_purge: true,
        allow_atomic_publish: true,
        ..base(config, names::EVENTS, &names::EVENTS_SUBJECTS)
    };
    let deadletters = StreamConfig {
        max_bytes: config.deadletters_max_bytes,
        max_age: Duration::ZERO,
        deny_delete: false,
        deny_purge: false,
        ..base(config, names::DEADLETTERS, &names::DEADLETTERS_SUBJECTS)
    };
    [commands, events, deadletters]
}

/// Creates what is missing and verifies what is there. Returns how many streams were created.
///
/// # Errors
/// A server that is too old, a stream with other settings, or another number of partitions.
pub async fn ensure(config: &Config, client: &async_nats::Client) -> Result<usize, StartError> {
    let context = jetstream::new(client.clone());
    let version = client.server_info().version;
    if !client.is_server_compatible(REQUIRED_VERSION.0, REQUIRED_VERSION.1, REQUIRED_VERSION.2) {
        return Err(StartError::Nats(format!("nats-server {version} is too old: 2.14 or newer is needed")));
    }
    let mut created = 0;
    for wanted in wanted(config) {
        match context.get_stream(&wanted.name).await {
            Ok(found) => verify(&wanted, &found.cached_info().config)?,
            Err(error) if is_missing(&error) => match context.create_stream(wanted.clone()).await {
                Ok(_) => created += 1,
                // Another process was faster: then its stream must be ours.
                Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(_)) => {
                    let found =
                        context.get_stream(&wanted.name).await.map_err(|_| StartError::Nats(format!("cannot create {}: {error}", wanted.name)))?;
                    verify(&wanted, &found.cached_info().config)?;
                }
                Err(error) => return Err(StartError::Nats(format!("cannot create {}: {error}", wanted.name))),
            },
            Err(error) => return Err(StartError::Nats(format!("cannot look at {}: {error}", wanted.name))),
        }
    }
    Ok(created)
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), jetstream::context::GetStreamErrorKind::JetStream(error) if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

/// Compares what matters; the server adds metadata and defaults of its own.
fn verify(wanted: &StreamConfig, found: &StreamConfig) -> Result<(), StartError> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, wanted: String, found: String| {
        if wanted != found {
            differences.push(format!("{what} should be {wanted} and is {found}"));
        }
    };
    compare("subjects", format!("{:?}", wanted.subjects), format!("{:?}", found.subjects));
    compare("retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention));
    compare("storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage));
    compare("replicas", wanted.num_replicas.to_string(), found.num_replicas.to_string());
    compare("discard", format!("{:?}", wanted.discard), format!("{:?}", found.discard));
    compare("max_age", format!("{:?}", wanted.max_age), format!("{:?}", found.max_age));
    compare("max_bytes", wanted.max_bytes.to_string(), found.max_bytes.to_string());
    compare("max_messages", wanted.max_messages.to_string(), found.max_messages.to_string());
    compare("deny_delete", wanted.deny_delete.to_string(), found.deny_delete.to_string());
    compare("deny_purge", wanted.deny_purge.to_string(), found.deny_purge.to_string());
    compare("allow_atomic", wanted.allow_atomic_publish.to_string(), found.allow_atomic_publish.to_string());
    compare("allow_direct", wanted.allow_direct.to_string(), found.allow_direct.to_string());
    if let Some(partitions) = wanted.metadata.get(PARTITIONS) {
        compare("partitions", partitions.clone(), found.metadata.get(PARTITIONS).cloned().unwrap_or_default());
    }
    if differences.is_empty() {
        Ok(())
    } else {
        Err(StartError::Settings { name: format!("stream {}", wanted.name), difference: differences.join("; ") })
    }
}

/// What tells one life of a stream from the next: when it was created.
pub fn incarnation(info: &stream::Info) -> String {
    info.created.unix_timestamp_nanos().to_string()
}
