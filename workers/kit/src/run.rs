//! A consumer as a program.

use std::process::ExitCode;

use anyhow::Context as _;
use runtime::{
    Config, Failure, Stop,
    consume::{Durable, Event, Order, Transaction, consume, consume_in_order},
    failpoint, nats, store,
};

use crate::{
    Schema, admin, once,
    outside::{self, Effect, Outside},
    process, telemetry,
};

/// Runs a consumer whose effects are in PostgreSQL, until SIGTERM. What `handler` does through its transaction happens once for each event. To be
/// all that `main` does.
///
/// An error of the database has to be returned: what went on after one is a dead letter. A panic is a failure to be tried again. A call may take 60 s (300 s without order), and may not leave its transaction idle for longer than `CHANCERY_LEASE_MS`: it does not wait for the outside.
pub fn run<H>(durable: Durable, schema: Schema, handler: H) -> ExitCode
where
    H: AsyncFn(&Transaction<'_>, &[Event]) -> Result<(), Failure>,
{
    drive(durable, async |config: &Config, stop: Stop| {
        ready(durable, schema, config, &stop).await?;
        follow(durable, schema, config, stop, &handler).await
    })
}

/// The same, with effects outside: what `handler` wrote down with [`Schema::intend`] is given to `send` after the commit, of each aggregate in the
/// order in which it was written down. It is sent once; where a crash or a call that took too long leaves in doubt whether it was, once more at most
/// (and not at all if both tries died before they sent it).
pub fn run_with_outside<H, S>(durable: Durable, schema: Schema, handler: H, outside: Outside, send: S) -> ExitCode
where
    H: AsyncFn(&Transaction<'_>, &[Event]) -> Result<(), Failure>,
    S: AsyncFn(&Effect) -> Result<(), Failure>,
{
    drive(durable, async |config: &Config, stop: Stop| {
        outside.check(config.drain)?;
        ready(durable, schema, config, &stop).await?;
        let over = Stop::new();
        let sending = async {
            let result = outside::send_all(durable, schema, outside, config, &over, &send).await;
            if result.is_err() {
                // Nobody would send what is written down from here on.
                stop.cancel();
            }
            result
        };
        let following = async {
            let result = follow(durable, schema, config, stop.clone(), &handler).await;
            over.cancel();
            result
        };
        let (followed, sent) = tokio::join!(following, sending);
        followed.and(sent)
    })
}

/// Runs a consumer that keeps nothing in PostgreSQL, until SIGTERM. Each event reaches `handler` at least once: what it does must be harmless when
/// it is repeated. Without order: which events were handled is known by the server's acknowledgements alone.
pub fn run_at_least_once<H>(durable: Durable, handler: H) -> ExitCode
where
    H: AsyncFnMut(&[Event]) -> Result<(), Failure>,
{
    drive(durable, async move |config: &Config, stop: Stop| Ok(consume(durable, config, stop, handler).await?))
}

/// Makes the tables before anybody needs them.
async fn ready(durable: Durable, schema: Schema, config: &Config, stop: &Stop) -> anyhow::Result<()> {
    schema.check()?;
    // An address that cannot be read is nothing to wait for.
    store::session(config, durable.name, "")?;
    schema.prepare(config, stop).await
}

/// Follows the durable in the order that it asks for.
async fn follow<H>(durable: Durable, schema: Schema, config: &Config, stop: Stop, handler: &H) -> anyhow::Result<()>
where
    H: AsyncFn(&Transaction<'_>, &[Event]) -> Result<(), Failure>,
{
    let pool = store::pool(config, &format!("chancery {}", durable.name))?;
    match durable.order {
        Order::None => consume(durable, config, stop, async |events: &[Event]| once::apply(&pool, schema, events, handler).await).await?,
        Order::Aggregate => {
            let one = async |transaction: &Transaction<'_>, event: &Event| handler(transaction, std::slice::from_ref(event)).await;
            consume_in_order(durable, config, stop, one).await?;
        }
    }
    Ok(())
}

/// What is around every consumer: settings, logs, a runtime, signals and `/readyz`.
fn drive(durable: Durable, work: impl AsyncFnOnce(&Config, Stop) -> anyhow::Result<()>) -> ExitCode {
    match attempt(durable, work) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", durable.name);
            ExitCode::FAILURE
        }
    }
}

fn attempt(durable: Durable, work: impl AsyncFnOnce(&Config, Stop) -> anyhow::Result<()>) -> anyhow::Result<()> {
    nats::install_crypto();
    let config = Config::from_env()?;
    let telemetry = telemetry::start(&config, durable.name)?;
    let metrics = telemetry::metrics::start(&config, durable.name)?;
    failpoint::arm(config.failpoint.as_deref());
    let runtime = process::runtime_on(config.threads.or(Some(1)))?;
    let result = runtime.block_on(async {
        let stop = Stop::new();
        process::drain_on_signals(stop.clone(), config.drain).context("listening to signals")?;
        if config.guarded {
            process::drain_with_parent(stop.clone());
        }
        // Served until the end, so that a draining consumer can still be asked.
        let ended = Stop::new();
        let admin = config.admin_listen.map(|address| tokio::spawn(admin::serve(address, durable.name, stop.clone(), ended.clone())));
        tracing::info!(consumer.name = durable.name, pid = std::process::id(), "consumer starts");
        let work = work(&config, stop);
        let result = match admin {
            None => work.await,
            Some(admin) => tokio::select! {
                result = work => result,
                served = admin => Err(anyhow::anyhow!("CHANCERY_ADMIN_LISTEN: {}", match served {
                    Ok(Err(error)) => error.to_string(),
                    _ => "the listener ended".into(),
                })),
            },
        };
        ended.cancel();
        result
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    metrics.finish();
    telemetry.finish();
    if result.is_ok() {
        eprintln!("{}: drained", durable.name);
    }
    result
}
