//! Metrics over OTLP: what `/metrics` says, sent to the collector now and then, from a thread of its own.
//!
//! There is one registry, Prometheus'. What it gathers is written as OTLP under the same names, so that a dashboard and an alarm mean the same
//! wherever they read. Everything is cumulative: what a collector missed is in the next message.

mod message;

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use prost::Message as _;
use reqwest::blocking::Client;
use runtime::Config;

/// How long a collector may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Sends until it is told to finish.
#[derive(Debug)]
pub struct Metrics(Option<Sending>);

#[derive(Debug)]
struct Sending {
    finish: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

/// Begins to send a role's metrics, when there is a collector and they are wanted.
///
/// # Errors
/// The system gives no thread, or no client can be made.
pub fn start(config: &Config, role: &str) -> anyhow::Result<Metrics> {
    let Some(endpoint) = config.otlp_endpoint.as_deref().filter(|_| !config.otlp_metrics_every.is_zero()) else { return Ok(Metrics(None)) };
    let sender = Sender {
        // The variable names the collector; the path is ours to add, as the specification says.
        url: format!("{}/v1/metrics", endpoint.trim_end_matches('/')),
        client: Client::builder().timeout(LIMIT).build().context("making a client for the collector")?,
        about: message::Process::new(role),
        is_away: false,
    };
    let (finish, finished) = mpsc::channel();
    let every = config.otlp_metrics_every;
    let thread = std::thread::Builder::new().name("otlp-metrics".into()).spawn(move || sender.run(every, &finished)).context("starting a thread")?;
    Ok(Metrics(Some(Sending { finish, thread })))
}

impl Metrics {
    /// Sends once more, and ends.
    pub fn finish(self) {
        if let Some(Sending { finish, thread }) = self.0 {
            drop(finish);
            // It takes no longer than two answers of the collector may.
            let _ = thread.join();
        }
    }
}

struct Sender {
    url: String,
    client: Client,
    about: message::Process,
    /// Whether the last message did not arrive: that is told once.
    is_away: bool,
}

impl Sender {
    fn run(mut self, every: Duration, finished: &mpsc::Receiver<()>) {
        while finished.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
            self.send();
        }
        self.send();
    }

    fn send(&mut self) {
        let body = message::of(&prometheus::gather(), &self.about, SystemTime::now()).encode_to_vec();
        let request = self.client.post(&self.url).header("content-type", "application/x-protobuf").body(body);
        match request.send().and_then(reqwest::blocking::Response::error_for_status) {
            Ok(_) if self.is_away => {
                self.is_away = false;
                tracing::info!("the collector takes metrics again");
            }
            Ok(_) => {}
            Err(_) if self.is_away => {}
            Err(error) => {
                self.is_away = true;
                // The address may hold a password.
                tracing::warn!(error = %error.without_url(), "the collector does not take metrics: they are sent again later");
            }
        }
    }
}
