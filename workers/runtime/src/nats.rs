//! The connection to NATS.

mod refusal;

use std::{path::PathBuf, sync::atomic::Ordering, time::Duration};

use async_nats::{Client, ConnectOptions, Event, HeaderMap, ServerAddr, jetstream::Context};
use bytes::Bytes;
use rand::Rng;
use tokio::sync::watch;

pub use refusal::{Refusal, Right, ask, ask_api, has_rights, named, refusal_since, refused};

use crate::{Config, config::Secret, error::StartError};

/// Chooses the one implementation of TLS's cryptography, for NATS and for mail. To be called once, before the first connection.
pub fn install_crypto() {
    // An error says that one is installed already.
    let _ = async_nats::rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// How often a [`Life`] looks at the count of connections: the event that ends it can be dropped in a flood of others.
const LOOK: Duration = Duration::from_secs(2);

/// A connection that makes itself again when it breaks.
#[derive(Debug, Clone)]
pub struct Connection {
    /// The client.
    pub client: Client,
    breaks: watch::Receiver<u64>,
}

impl Connection {
    /// The present life of the connection. To be taken before the first message is asked for.
    pub fn life(&self) -> Life {
        let mut breaks = self.breaks.clone();
        breaks.mark_unchanged();
        // The first connection is counted a moment after it can be used.
        Life { connects: self.connects().max(1), connection: self.clone(), breaks }
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

/// A connection between two breaks. What the server had sent when it broke is lost; a reader without acknowledgements whose last messages
/// those were sees no gap and must start again.
#[derive(Debug)]
pub struct Life {
    connection: Connection,
    connects: u64,
    breaks: watch::Receiver<u64>,
}

impl Life {
    /// Returns once this life has ended. May be dropped and called again.
    pub async fn over(&mut self) {
        loop {
            tokio::select! {
                _ = self.breaks.changed() => return,
                () = tokio::time::sleep(LOOK) => {
                    if self.connection.connects() > self.connects {
                        return;
                    }
                }
            }
        }
    }
}

/// Where NATS is, and as whom we are there.
#[derive(Debug, Clone)]
pub struct Access {
    /// The servers, with commas between them.
    pub url: Secret,
    /// The user; goes before one in the addresses.
    pub user: Option<String>,
    /// Its password.
    pub password: Option<Secret>,
    /// A file with the certificates that sign the servers'; when set, no connection is made without TLS.
    pub ca_file: Option<PathBuf>,
}

impl Access {
    /// What the configuration says.
    pub fn of(config: &Config) -> Self {
        Self {
            url: config.nats_url.clone(),
            user: config.nats_user.clone(),
            password: config.nats_password.clone(),
            ca_file: config.nats_ca_file.clone(),
        }
    }

    /// What a URL alone says, user and password included.
    pub fn at(url: &str) -> Self {
        Self { url: Secret::new(url), user: None, password: None, ca_file: None }
    }

    /// The addresses, and what every connection to them needs. Only these addresses are used, never those a server tells of others: whoever
    /// is sent through a proxy or a published port stays there, and names fit certificates.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub fn options(&self) -> Result<(ConnectOptions, Vec<ServerAddr>), StartError> {
        let addresses: Vec<ServerAddr> = (self.url.expose().split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>())
            .map_err(|error: std::io::Error| StartError::Nats(error.to_string()))?;
        let mut options = ConnectOptions::new().ignore_discovered_servers().connection_timeout(Duration::from_secs(5));
        // async-nats does not take the credentials of an address by itself.
        let in_address = addresses.iter().find_map(|address| Some((address.username()?.to_owned(), address.password()?.to_owned())));
        let given = self.user.clone().map(|user| (user, self.password.as_ref().map(|password| password.expose().to_owned()).unwrap_or_default()));
        if let Some((user, password)) = given.or(in_address) {
            options = options.user_and_password(user, password);
        }
        if let Some(file) = &self.ca_file {
            options = options.add_root_certificates(file.clone()).require_tls(true);
        }
        Ok((options, addresses))
    }
}

/// Connects, and goes on trying in the background when the server is not there yet. Replies come to the inbox of
/// `user`, which is the role's, whoever it is at the server.
///
/// # Errors
/// An address that cannot be read.
pub async fn connect(config: &Config, name: &str, user: &str) -> Result<Connection, StartError> {
    let unusable = |error: &dyn std::fmt::Display| StartError::Nats(error.to_string());
    let access = Access::of(config);
    let (options, addresses) = access.options()?;
    // As whom the server knows us, which in development may be another than the role's own.
    let whom = access.user.clone().or_else(|| addresses.iter().find_map(|address| address.username().map(str::to_owned)));
    let whom = whom.unwrap_or_else(|| user.to_owned());
    let known = whom.clone();
    let (broken, breaks) = watch::channel(0);
    let client = options
        .name(format!("chancery {name}"))
        .custom_inbox_prefix(subjects::user::inbox(user))
        .retry_on_initial_connect()
        .ping_interval(Duration::from_secs(5))
        .client_capacity(8_192)
        .reconnect_delay_callback(|attempts| {
            let ceiling = 20_u64.saturating_mul(1 << attempts.min(6)).min(1_000);
            Duration::from_millis(rand::rng().random_range(ceiling / 2..=ceiling))
        })
        .event_callback(move |event| {
            if matches!(event, Event::Disconnected) {
                broken.send_modify(|count| *count += 1);
            }
            let known = known.clone();
            async move { said(event, &known) }
        })
        .connect(addresses)
        .await
        .map_err(|error| unusable(&error))?;
    tokio::spawn(refusal::mend(client.clone(), whom));
    Ok(Connection { client, breaks })
}

/// Publishes into a stream and waits until it is stored.
///
/// # Errors
/// In words, with the right that is missing where it is one. What is not refused may be stored all the same.
pub async fn store(context: &Context, subject: String, headers: HeaderMap, body: Bytes) -> Result<(), String> {
    ask(&subject, async {
        let ack = context.publish_with_headers(subject.clone(), headers, body).await?;
        ack.await.map(drop)
    })
    .await
}

/// Remembers a refusal of the server, so that [`named`] knows it. For connections that are not made by [`connect`].
pub fn hear(event: &Event, user: &str) {
    if let Event::ServerError(error) = event {
        refusal::heard(user, error);
    }
}

/// Writes down what the client says beside its answers.
fn said(event: Event, user: &str) {
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        // A refused permission looks like a timeout to the caller; here it has its name.
        Event::ServerError(error) => {
            tracing::error!(%error, "NATS refused something");
            refusal::heard(user, &error);
        }
        Event::ClientError(error) => {
            tracing::warn!(%error, "NATS client error");
            refusal::heard_of_client(user, &error.to_string());
        }
        Event::SlowConsumer(subscription) => tracing::error!(subscription, "NATS dropped messages: slow consumer"),
        other => tracing::info!(event = %other, "NATS connection"),
    }
}
