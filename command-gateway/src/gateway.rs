//! What every handler shares.

use std::{
    ops::Deref,
    sync::{Arc, LazyLock},
};

use runtime::{Config, config::Secret};
use tokio::sync::Semaphore;

use crate::{
    access::Standings,
    auth::Tokens,
    feed::Feeds,
    health::Health,
    limits::Limits,
    link::Keyed,
    metrics::{Metrics, SENDING},
    store::Store,
    submit::{Commands, Waiting},
    telemetry::Telemetry,
};

/// Histories that are followed at once; more wait for their turn.
const HISTORIES: usize = 8;

/// Requests about dead letters that are worked on at once; each has a connection to the database of its own.
const OPERATIONS: usize = 4;

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A setting it cannot do without is missing.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// A setting cannot be used. The text never holds a secret.
    #[error("{0} cannot be used: {1}")]
    Unusable(&'static str, String),
}

/// Everything the handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Gateway(Arc<Parts>);

/// The shared parts.
pub(crate) struct Parts {
    /// The settings.
    pub(crate) config: Config,
    /// Reads and mints access tokens.
    pub(crate) tokens: Tokens,
    /// What members may.
    pub(crate) standings: Arc<Standings>,
    /// The database.
    pub(crate) store: Store,
    /// Sends commands.
    pub(crate) commands: Commands,
    /// Who waits for outcomes.
    pub(crate) waiting: Arc<Waiting>,
    /// What event streams are fed with.
    pub(crate) feeds: Arc<Feeds>,
    /// JetStream, for what is looked up in its streams.
    pub(crate) jetstream: async_nats::jetstream::Context,
    /// Derives the tokens of mailed links.
    pub(crate) links: Keyed,
    /// How often who may ask.
    pub(crate) limits: Limits,
    /// Histories that may be followed at once.
    pub(crate) histories: Semaphore,
    /// Requests about dead letters that may be worked on at once.
    pub(crate) operations: Semaphore,
    /// Requests that may be worked on at once.
    pub(crate) in_flight: Semaphore,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// How the parts are.
    pub(crate) health: Health,
    /// Whether requests get spans.
    pub(crate) telemetry: Telemetry,
}

impl Deref for Gateway {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Gateway {
    /// Builds the shared parts around a connection to NATS.
    ///
    /// # Errors
    /// A setting that is missing or cannot be used.
    pub(crate) fn new(config: Config, client: async_nats::Client, stop: runtime::Stop) -> Result<Self, StartError> {
        fn needed<'a>(secret: &'a Option<Secret>, name: &'static str) -> Result<&'a Secret, StartError> {
            secret.as_ref().ok_or(StartError::Missing(name))
        }
        let keyed =
            |secret: &Option<Secret>, name| Keyed::new(needed(secret, name)?.expose()).map_err(|error| StartError::Unusable(name, error.to_string()));
        let public = needed(&config.token_public_key, "CHANCERY_TOKEN_PUBLIC_KEY")?;
        let tokens = Tokens::new(public, config.token_private_key.as_ref())
            .map_err(|error| StartError::Unusable("CHANCERY_TOKEN_PUBLIC_KEY or CHANCERY_TOKEN_PRIVATE_KEY", error.to_string()))?;
        let links = keyed(&config.link_key, "CHANCERY_LINK_KEY")?;
        let fingerprints = keyed(&config.fingerprint_key, "CHANCERY_FINGERPRINT_KEY")?;
        let store = Store::new(&config).map_err(|error| StartError::Unusable("DATABASE_URL", error.to_string()))?;
        let waiting = Waiting::new();
        // Shown before the first command.
        LazyLock::force(&SENDING);
        let metrics = Metrics::new().map_err(|error| StartError::Unusable("metrics", error.to_string()))?;
        Ok(Self(Arc::new(Parts {
            tokens,
            standings: Arc::new(Standings::new(store.clone(), &config, metrics.lookups.clone())),
            jetstream: async_nats::jetstream::new(client.clone()),
            feeds: Feeds::new(&config, client.clone(), metrics.streams.clone(), stop.clone()),
            commands: Commands::new(&config, client, waiting.clone(), fingerprints),
            store,
            waiting,
            links,
            limits: Limits::new(&config),
            histories: Semaphore::new(HISTORIES),
            operations: Semaphore::new(OPERATIONS),
            in_flight: Semaphore::new(config.in_flight),
            metrics,
            health: Health::new(stop),
            telemetry: Telemetry { spans: config.makes_spans() },
            config,
        })))
    }
}
