//! The four streams, and the one behind the bucket `authz`, every setting spelled out; made by the provisioner alone, verified and never silently
//! changed when they exist, but for subjects that another version did not store yet.

mod behind;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_nats::jetstream::{
    self,
    consumer::{Consumer, pull},
    context::CreateStreamErrorKind,
    stream::{self, Config as StreamConfig, DiscardPolicy, RetentionPolicy, StorageType},
};
use subjects::{authz, stream as names};

pub use behind::after_of;

use crate::{Config, Stop, error::StartError, health, nats};

/// Metadata key that fixes the number of partitions for the life of COMMANDS.
const PARTITIONS: &str = "chancery.partitions";
/// The first server version with everything we use (atomic batches and their limits, consumer creation options).
const REQUIRED_VERSION: (i64, i64, i64) = (2, 14, 0);

/// The first and the longest pause between two looks for what the provisioner makes.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

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

/// The settings of the streams.
pub fn wanted(config: &Config) -> [StreamConfig; 5] {
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
    // The server cannot wait for room, and what is old has alarmed: the oldest go.
    let advisories = StreamConfig {
        max_bytes: config.advisories_max_bytes,
        max_age: config.advisories_max_age,
        discard: DiscardPolicy::Old,
        deny_delete: false,
        deny_purge: false,
        duplicate_window: config.advisories_max_age.min(Duration::from_secs(120)),
        ..base(config, names::ADVISORIES, &names::ADVISORIES_SUBJECTS)
    };
    [commands, events, deadletters, authz_bucket(config), advisories]
}

/// The stream behind the bucket of what members may: the last message of each key, as key-value buckets are. On file, because a restart
/// must not forget what was dropped. Full, it refuses: then nothing can be dropped either, the beat stops, and gateways ask PostgreSQL.
fn authz_bucket(config: &Config) -> StreamConfig {
    StreamConfig {
        max_bytes: config.authz_max_bytes,
        max_age: config.authz_age,
        max_messages_per_subject: 1,
        max_message_size: 1 << 10,
        duplicate_window: config.authz_age.min(Duration::from_secs(120)),
        allow_rollup: true,
        deny_delete: true,
        deny_purge: false,
        ..base(config, authz::STREAM, &authz::SUBJECTS)
    }
}

/// What was made of the streams.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ensured {
    /// Those that were missing.
    pub created: usize,
    /// Those that stored fewer subjects than this version uses.
    pub widened: usize,
}

/// Creates what is missing and verifies what is there.
///
/// # Errors
/// A server that is too old, a stream with other settings, or another number of partitions.
pub async fn ensure(config: &Config, client: &async_nats::Client) -> Result<Ensured, StartError> {
    let context = jetstream::new(client.clone());
    let version = client.server_info().version;
    if !client.is_server_compatible(REQUIRED_VERSION.0, REQUIRED_VERSION.1, REQUIRED_VERSION.2) {
        return Err(StartError::Nats(format!("nats-server {version} is too old: 2.14 or newer is needed")));
    }
    let mut ensured = Ensured::default();
    for wanted in wanted(config) {
        match ensure_one(&context, wanted).await? {
            One::Found => {}
            One::Created => ensured.created += 1,
            One::Widened => ensured.widened += 1,
        }
    }
    Ok(ensured)
}

/// How a stream stands to what is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// As it should be.
    AsWanted,
    /// It does not exist.
    Missing,
    /// It does not store these subjects yet, which provisioning changes.
    Narrower(Vec<String>),
    /// It has other settings, which nothing changes: how they differ.
    Differs(String),
}

/// Compares every stream with what is wanted; changes nothing.
///
/// # Errors
/// A stream cannot be looked at.
pub async fn standing(config: &Config, client: &async_nats::Client) -> Result<Vec<(String, Standing)>, StartError> {
    let context = jetstream::new(client.clone());
    let mut all = Vec::new();
    for wanted in wanted(config) {
        let found = look_at(&context, &wanted.name).await.map_err(|error| StartError::Nats(format!("cannot look at {}: {error}", wanted.name)))?;
        let standing = match &found {
            None => Standing::Missing,
            Some(found) => match verify(&wanted, &found.cached_info().config) {
                Ok(()) => match further(&wanted, &found.cached_info().config) {
                    new if new.is_empty() => Standing::AsWanted,
                    new => Standing::Narrower(new),
                },
                Err(StartError::Settings { difference, .. }) => Standing::Differs(difference),
                Err(other) => return Err(other),
            },
        };
        all.push((wanted.name, standing));
    }
    Ok(all)
}

/// What was made of one.
enum One {
    Found,
    Created,
    Widened,
}

async fn ensure_one(context: &jetstream::Context, wanted: StreamConfig) -> Result<One, StartError> {
    match context.get_stream(&wanted.name).await {
        Ok(found) => widen(context, &wanted, &found.cached_info().config).await,
        Err(error) if is_missing(&error) => match context.create_stream(wanted.clone()).await {
            Ok(_) => Ok(One::Created),
            // Another process was faster: then its stream must be ours.
            Err(error) if matches!(error.kind(), CreateStreamErrorKind::JetStream(_)) => {
                let found =
                    context.get_stream(&wanted.name).await.map_err(|_| StartError::Nats(format!("cannot create {}: {error}", wanted.name)))?;
                widen(context, &wanted, &found.cached_info().config).await
            }
            Err(error) => Err(StartError::Nats(format!("cannot create {}: {error}", wanted.name))),
        },
        Err(error) => Err(StartError::Nats(format!("cannot look at {}: {error}", wanted.name))),
    }
}

/// Lets a stream that is there store the subjects that another version did not have, and changes nothing else about it.
async fn widen(context: &jetstream::Context, wanted: &StreamConfig, found: &StreamConfig) -> Result<One, StartError> {
    verify(wanted, found)?;
    let new = further(wanted, found);
    if new.is_empty() {
        return Ok(One::Found);
    }
    tracing::info!(stream = found.name, subjects = ?new, "the stream of another version is widened");
    let subjects = found.subjects.iter().cloned().chain(new).collect();
    let wider = StreamConfig { subjects, ..found.clone() };
    let widened = nats::ask_api(&format!("STREAM.UPDATE.{}", found.name), context.update_stream(wider)).await;
    widened.map(|_| One::Widened).map_err(|error| StartError::Nats(format!("cannot widen {}: {error}", found.name)))
}

/// The subjects that a stream should store and does not.
fn further(wanted: &StreamConfig, found: &StreamConfig) -> Vec<String> {
    let stored = |subject: &String| found.subjects.iter().any(|stored| stored == subject || subjects::matches(stored, subject));
    wanted.subjects.iter().filter(|subject| !stored(subject)).cloned().collect()
}

fn is_missing(error: &jetstream::context::GetStreamError) -> bool {
    matches!(error.kind(), jetstream::context::GetStreamErrorKind::JetStream(error) if error.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}

/// Compares what matters, but for subjects; the server adds metadata and defaults of its own.
fn verify(wanted: &StreamConfig, found: &StreamConfig) -> Result<(), StartError> {
    let mut differences = Vec::new();
    let mut compare = |what: &str, wanted: String, found: String| {
        if wanted != found {
            differences.push(format!("{what} should be {wanted} and is {found}"));
        }
    };
    // What it stores and nobody here knows, a newer version uses: it has no business in a stream of an older one, unless it is one of ours.
    let strange = found.subjects.iter().any(|stored| wanted.subjects.iter().any(|ours| stored != ours && subjects::matches(stored, ours)));
    if strange {
        compare("subjects", format!("{:?}", wanted.subjects), format!("{:?}", found.subjects));
    }
    compare("retention", format!("{:?}", wanted.retention), format!("{:?}", found.retention));
    compare("storage", format!("{:?}", wanted.storage), format!("{:?}", found.storage));
    compare("replicas", wanted.num_replicas.to_string(), found.num_replicas.to_string());
    compare("discard", format!("{:?}", wanted.discard), format!("{:?}", found.discard));
    compare("max_age", format!("{:?}", wanted.max_age), format!("{:?}", found.max_age));
    compare("max_bytes", wanted.max_bytes.to_string(), found.max_bytes.to_string());
    compare("max_messages", wanted.max_messages.to_string(), found.max_messages.to_string());
    compare("max_messages_per_subject", wanted.max_messages_per_subject.to_string(), found.max_messages_per_subject.to_string());
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

/// A name for a reader that somebody makes for itself. Without one, its filter would not be part of the subject that creates it, and a
/// permission could not limit what it reads.
fn reader_name() -> String {
    uuid::Uuid::now_v7().simple().to_string()
}

/// Looks at a stream.
///
/// # Errors
/// In words, with the right that is missing where it is one.
pub async fn get(context: &jetstream::Context, name: &str) -> Result<stream::Stream, String> {
    nats::ask_api(&format!("STREAM.INFO.{name}"), context.get_stream(name)).await
}

/// The same, where it may be missing.
///
/// # Errors
/// As text; a refused permission by its name.
pub async fn look_at(context: &jetstream::Context, name: &str) -> Result<Option<stream::Stream>, String> {
    let asked = async {
        match context.get_stream(name).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        }
    };
    nats::ask_api(&format!("STREAM.INFO.{name}"), asked).await
}

/// Makes a reader of one's own; see [`reader_name`].
///
/// # Errors
/// In words, with the right that is missing where it is one.
pub async fn reader(stream: &stream::Stream, wanted: pull::Config) -> Result<Consumer<pull::Config>, String> {
    let name = &stream.cached_info().config.name;
    let wanted = pull::Config { name: Some(reader_name()), ..wanted };
    let subject = format!("CONSUMER.CREATE.{name}.{}", wanted.name.as_deref().unwrap_or_default());
    // With a filter it is part of the subject.
    let subject = if wanted.filter_subject.is_empty() { subject } else { format!("{subject}.{}", wanted.filter_subject) };
    nats::ask_api(&subject, stream.create_consumer(wanted)).await
}

/// How long a role has been waiting for what the provisioner makes. Only a role that has just started gives up: then somebody has forgotten
/// to provision. What is deleted later may come again.
#[derive(Debug)]
pub(crate) struct Provisioning {
    limit: Duration,
    missing_since: Option<Instant>,
    done: bool,
}

impl Provisioning {
    pub(crate) fn new(config: &Config) -> Self {
        Self { limit: config.provision_wait, missing_since: None, done: false }
    }

    pub(crate) fn is_done(&mut self) {
        self.done = true;
    }

    /// Whether this is what is waited for, for too long.
    pub(crate) fn is_overdue(&mut self, error: &StartError) -> bool {
        let missing = matches!(error, StartError::NotProvisioned { .. });
        missing && !self.done && self.missing_since.get_or_insert_with(Instant::now).elapsed() > self.limit
    }
}

/// Waits until the streams are there, and in the case of COMMANDS with as many partitions as the configuration says. `part` is how the wait
/// is called where a role says how it is.
///
/// # Errors
/// [`StartError::NotProvisioned`] when one is missing for too long, [`StartError::Settings`] for another number of partitions. Whatever
/// may pass is waited for.
pub async fn wait(config: &Config, context: &jetstream::Context, streams: &[&str], part: &'static str, stop: &Stop) -> Result<(), StartError> {
    let mut provisioning = Provisioning::new(config);
    let mut pause = PAUSE.0;
    loop {
        let begun = Instant::now();
        let Err(error) = look(config, context, streams).await else { return Ok(()) };
        if matches!(error, StartError::Settings { .. }) || provisioning.is_overdue(&error) {
            return Err(error);
        }
        let error = nats::named(error.to_string(), begun);
        tracing::warn!(error, "waiting for the streams");
        health::set(part, false, error);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
        }
    }
}

async fn look(config: &Config, context: &jetstream::Context, streams: &[&str]) -> Result<(), StartError> {
    for name in streams {
        let Some(found) = look_at(context, name).await.map_err(|error| StartError::Nats(format!("cannot look at {name}: {error}")))? else {
            return Err(StartError::NotProvisioned { name: format!("stream {name}"), what: "does not exist".into() });
        };
        let partitions = found.cached_info().config.metadata.get(PARTITIONS);
        if *name == names::COMMANDS && partitions.is_none_or(|partitions| *partitions != config.partitions.to_string()) {
            let difference = format!("partitions should be {} and are {}", config.partitions, partitions.map_or("unknown", String::as_str));
            return Err(StartError::Settings { name: format!("stream {name}"), difference });
        }
    }
    Ok(())
}

/// What tells one life of a stream from the next: when it was created, in nanoseconds since 1970. Never 0.
pub fn life(info: &stream::Info) -> i64 {
    i64::try_from(info.created.unix_timestamp_nanos()).unwrap_or(i64::MAX)
}

/// The same as text, as it stands in tables and in the ids of event streams.
pub fn incarnation(info: &stream::Info) -> String {
    life(info).to_string()
}

/// Whether a stream has forgotten messages, by age or otherwise. One that was built anew may begin at a higher number than 1.
pub fn has_forgotten(info: &stream::Info) -> bool {
    info.state.first_sequence > info.config.first_sequence.unwrap_or(1).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn storing(subjects: &[&str]) -> StreamConfig {
        StreamConfig { subjects: subjects.iter().map(|subject| (*subject).to_owned()).collect(), ..StreamConfig::default() }
    }

    #[test]
    fn a_stream_of_another_version_lacks_what_it_does_not_store_and_may_store_more() {
        let wanted = storing(&["evt.>", "fence.*", "redrive.>"]);
        assert_eq!(further(&wanted, &storing(&["evt.>", "fence.*"])), ["redrive.>"]);
        assert_eq!(further(&wanted, &storing(&["redrive.>", "later.>", "fence.*", "evt.>"])), [""; 0]);
        assert!(verify(&wanted, &storing(&["evt.>", "later.>"])).is_ok());
        assert!(verify(&wanted, &storing(&["evt.>", "fence.*", ">"])).is_err(), "it stores what is none of ours");
    }
}
