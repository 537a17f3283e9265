//! The gateway: HTTP in, JetStream out.
//!
//! A request to a route with a policy passes the [`guard`] (token, limits, span, count), then the route's extractors (tenancy, role, body),
//! then becomes a command message or a query:
//!
//! - [`submit`] stores the command in COMMANDS, with the same id until it is surely stored, and awaits the outcome that a worker tells
//!   after its commit. Never a success before the outcome; `not_accepted` only when surely not stored, else `outcome_unknown`.
//! - [`store`] reads SQL views in transactions that see one tenant.
//!
//! Adding an aggregate: one file in `route`, its endpoints in `route::endpoints`, its handlers in [`openapi`].

mod access;
pub mod answer;
mod asyncapi;
mod auth;
mod body;
mod feed;
mod gateway;
mod guard;
mod health;
mod limits;
mod link;
mod list;
mod metrics;
mod openapi;
pub mod permission;
pub mod policy;
pub mod problem;
#[cfg(test)]
mod references;
mod request;
mod route;
mod server;
mod shown;
mod store;
mod submit;
mod telemetry;
mod timeline;
pub mod view;

pub use asyncapi::asyncapi;
pub use link::{invitation_token, token_hash};
pub use openapi::openapi;
pub use route::{invitation::explain as explain_invitations, link::LinkView, policies};

use gateway::{Gateway, StartError};

/// Runs until `stop` is cancelled, then drains.
///
/// # Errors
/// What keeps the role from starting: a setting that is missing or cannot be used, or an address that is taken.
pub async fn run(config: runtime::Config, stop: runtime::Stop) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = tokio::net::TcpListener::bind(config.listen)
        .await
        .map_err(|error| StartError::Unusable("CHANCERY_LISTEN", format!("{}: {error}", config.listen)))?;
    let connection = runtime::nats::connect(&config, "gateway", subjects::user::GATEWAY).await?;
    let client = connection.client.clone();
    let drain = config.drain;
    let gateway = Gateway::new(config, client.clone(), stop.clone())?;
    let background = [
        tokio::spawn({
            let (gateway, client) = (gateway.clone(), client.clone());
            async move {
                if let Err(error) = gateway.waiting.clone().listen(client).await {
                    tracing::error!(%error, "the gateway cannot listen for outcomes and reads them from the table");
                }
            }
        }),
        tokio::spawn(gateway.waiting.clone().ask(client, gateway.store.clone())),
        tokio::spawn({
            let gateway = gateway.clone();
            async move { gateway.limits.tidy().await }
        }),
        tokio::spawn(access::watch(gateway.standings.clone(), connection)),
    ];
    tracing::info!(address = %listener.local_addr()?, "listening");
    server::serve(listener, route::router(gateway.clone()), gateway.metrics.connections.clone(), drain, &stop).await;
    for task in background {
        task.abort();
    }
    gateway.commands.flush().await;
    Ok(())
}
