//! Running one role in this process: runtime, signals, drain.

use std::{process::ExitCode, time::Duration};

use anyhow::anyhow;
use chancery_kit::{admin, process, telemetry};
use runtime::{Config, Stop, consume::Durable};
use tokio::{sync::oneshot, time::timeout};

use crate::schema;

/// How long a gateway that may not begin yet stays silent, which is longer than one look at a database that is ready takes.
const SILENCE: Duration = Duration::from_secs(1);

/// A role of its own process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// HTTP in, JetStream out.
    Gateway,
    /// Decides commands.
    Worker,
    /// A durable consumer.
    Consumer(Consumer),
}

/// The durable consumers of this repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Consumer {
    /// Writes every event to the log.
    Logging,
    /// Writes every event to the audit chain.
    Audit,
    /// Sends mail.
    Notifications,
    /// Sends a created invitation when asked.
    Onboarding,
    /// Repeats a user's suspension, reactivation and deletion where they are a guest.
    Guests,
    /// Ends pending invitations of cancelled tenants and to deleted users.
    Withdrawals,
    /// Drops what gateways remember of rights that changed.
    AuthzCache,
}

impl Consumer {
    /// All of them, in the order in which they are shown.
    pub const ALL: [Self; 7] = [Self::Logging, Self::Audit, Self::Notifications, Self::Onboarding, Self::Guests, Self::Withdrawals, Self::AuthzCache];

    /// Its name on the command line and in subjects.
    pub fn name(self) -> &'static str {
        match self {
            Self::Logging => logging::NAME,
            Self::Audit => audit::NAME,
            Self::Notifications => notifications::NAME,
            Self::Onboarding => onboarding::NAME,
            Self::Guests => guests::NAME,
            Self::Withdrawals => withdrawals::NAME,
            Self::AuthzCache => authz_cache::NAME,
        }
    }

    /// The subjects it wants.
    pub fn filters(self) -> &'static [&'static str] {
        match self {
            Self::Logging => logging::FILTERS,
            Self::Audit => audit::FILTERS,
            Self::Notifications => notifications::FILTERS,
            Self::Onboarding => onboarding::FILTERS,
            Self::Guests => guests::FILTERS,
            Self::Withdrawals => withdrawals::FILTERS,
            Self::AuthzCache => authz_cache::FILTERS,
        }
    }
}

impl Consumer {
    /// Its durable.
    pub fn durable(self, config: &Config) -> Durable {
        match self {
            Self::Logging => logging::durable(config),
            Self::Audit => audit::durable(config),
            Self::Notifications => notifications::durable(config),
            Self::Onboarding => onboarding::durable(config),
            Self::Guests => guests::durable(config),
            Self::Withdrawals => withdrawals::durable(config),
            Self::AuthzCache => authz_cache::durable(config),
        }
    }

    /// The commands it gives, `<aggregate>.<command>`.
    pub fn commands(self) -> &'static [&'static str] {
        match self {
            Self::Onboarding => onboarding::COMMANDS,
            Self::Guests => guests::COMMANDS,
            Self::Withdrawals => withdrawals::COMMANDS,
            Self::Logging | Self::Audit | Self::Notifications | Self::AuthzCache => &[],
        }
    }
}

impl Role {
    /// Its name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Worker => "worker",
            Self::Consumer(consumer) => consumer.name(),
        }
    }

    /// The database role it logs in as.
    pub fn database_role(self) -> &'static str {
        match self {
            Self::Gateway => "chancery_gateway",
            Self::Worker => "chancery_worker",
            Self::Consumer(Consumer::Logging) => "chancery_logging",
            Self::Consumer(Consumer::Audit) => "chancery_audit",
            Self::Consumer(Consumer::Notifications) => "chancery_notifications",
            Self::Consumer(Consumer::Onboarding) => "chancery_onboarding",
            Self::Consumer(Consumer::Guests) => "chancery_guests",
            Self::Consumer(Consumer::Withdrawals) => "chancery_withdrawals",
            Self::Consumer(Consumer::AuthzCache) => "chancery_authz_cache",
        }
    }

    /// The arguments that start it.
    pub fn arguments(self) -> Vec<&'static str> {
        match self {
            Self::Consumer(consumer) => vec!["consumer", consumer.name()],
            other => vec![other.name()],
        }
    }

    /// Threads it runs on when nobody says; none for as many as there are processors. A worker decides one batch at a time and a consumer
    /// handles one call at a time, so a second thread would only hand things over; their number is scaled by processes.
    const fn threads(self) -> Option<usize> {
        match self {
            Self::Gateway => None,
            Self::Worker | Self::Consumer(_) => Some(1),
        }
    }

    async fn run(self, config: Config, stop: Stop) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match self {
            Self::Gateway => command_gateway::run(config, stop).await,
            Self::Worker => runtime::worker::run(config, stop).await,
            Self::Consumer(Consumer::Logging) => logging::run(config, stop).await,
            Self::Consumer(Consumer::Audit) => audit::run(config, stop).await,
            Self::Consumer(Consumer::Notifications) => notifications::run(config, stop).await,
            Self::Consumer(Consumer::Onboarding) => onboarding::run(config, stop).await,
            Self::Consumer(Consumer::Guests) => guests::run(config, stop).await,
            Self::Consumer(Consumer::Withdrawals) => withdrawals::run(config, stop).await,
            Self::Consumer(Consumer::AuthzCache) => authz_cache::run(config, stop).await,
        }
    }
}

/// Runs a role until a signal, or until its parent ends when it is guarded. Blocking: makes the runtime.
///
/// # Errors
/// What ended the role.
pub fn run(role: Role, config: Config) -> anyhow::Result<ExitCode> {
    let telemetry = telemetry::start(&config, role.name())?;
    let metrics = telemetry::metrics::start(&config, role.name())?;
    runtime::failpoint::arm(config.failpoint.as_deref());
    #[cfg(feature = "planted")]
    runtime::planted::arm_as_told()?;
    let runtime = process::runtime_on(config.threads.or(role.threads()))?;
    let result = runtime.block_on(drive(role, config));
    runtime.shutdown_timeout(Duration::from_secs(1));
    metrics.finish();
    telemetry.finish();
    result.map(|()| ExitCode::SUCCESS)
}

async fn drive(role: Role, config: Config) -> anyhow::Result<()> {
    let stop = Stop::new();
    process::drain_on_signals(stop.clone(), config.drain)?;
    if config.guarded {
        process::drain_with_parent(stop.clone());
    }
    let serve_admin = if role == Role::Gateway { None } else { config.admin_listen };
    // Served until the role has ended, so that a draining role can still be asked.
    let ended = Stop::new();
    let admin = serve_admin.map(|address| tokio::spawn(admin::serve(address, role.name(), stop.clone(), ended.clone())));
    tracing::info!(role = role.name(), pid = std::process::id(), "role starts");
    let work = work(role, config, stop.clone());
    let result = match admin {
        None => work.await,
        Some(admin) => tokio::select! {
            result = work => result,
            result = admin => Err(match result { Ok(Err(error)) => error.into(), _ => "the admin listener ended".into() }),
        },
    };
    ended.cancel();
    match &result {
        Ok(()) => tracing::info!(role = role.name(), "role ended"),
        Err(error) => tracing::error!(role = role.name(), error = %error, "role failed"),
    }
    result.map_err(|error| anyhow!("{}: {error}", role.name()))
}

/// Runs the role as soon as it fits the database's tables, and as long as it does: one that does not any more drains.
async fn work(role: Role, config: Config, stop: Stop) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let (begin, begun) = oneshot::channel();
    let mut watch = tokio::spawn(schema::watch(role, config.clone(), stop.clone(), begin));
    let work = async {
        if may_begin(role, &config, &stop, begun).await {
            return role.run(config.clone(), stop.clone()).await;
        }
        stop.cancelled().await;
        Ok(())
    };
    tokio::pin!(work);
    let watched = tokio::select! {
        result = &mut work => return result,
        watched = &mut watch => watched?,
    };
    let refusal = match watched {
        Ok(None) => return work.await,
        Ok(Some(why)) => why,
        Err(error) => format!("{error:#}"),
    };
    tracing::error!("{refusal}");
    stop.cancel();
    if let Err(error) = work.await {
        tracing::error!(error, "the drain failed");
    }
    Err(refusal.into())
}

/// Waits until the role may begin; false when it never may. A gateway's own address says meanwhile what it waits for.
async fn may_begin(role: Role, config: &Config, stop: &Stop, mut begun: oneshot::Receiver<()>) -> bool {
    if role != Role::Gateway {
        return begun.await.is_ok();
    }
    if let Ok(begun) = timeout(SILENCE, &mut begun).await {
        return begun.is_ok();
    }
    let ended = Stop::new();
    let mut waiting = tokio::spawn(admin::serve(config.listen, role.name(), stop.clone(), ended.clone()));
    let begun = begun.await.is_ok();
    ended.cancel();
    // Whoever holds a connection open must not keep the gateway from its address.
    if timeout(SILENCE, &mut waiting).await.is_err() {
        waiting.abort();
    }
    begun
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::ValueEnum as _;

    use super::*;

    #[test]
    fn every_consumer_is_listed_under_a_name_of_its_own() {
        assert_eq!(Consumer::ALL, Consumer::value_variants());
        assert_eq!(Consumer::ALL.map(Consumer::name).into_iter().collect::<BTreeSet<_>>().len(), Consumer::ALL.len());
        for consumer in Consumer::ALL {
            assert_eq!(consumer.to_possible_value().map(|value| value.get_name().to_owned()).as_deref(), Some(consumer.name()));
            assert_eq!(Role::Consumer(consumer).database_role(), format!("chancery_{}", consumer.name().replace('-', "_")));
        }
    }
}
