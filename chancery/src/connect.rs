//! Connections of the tools in this crate; the roles make their own in `runtime`.

use async_nats::Client;
use runtime::nats::Access;

/// Connects to NATS with the user and password that the URL carries, which the client library itself leaves aside.
///
/// # Errors
/// A URL that cannot be read, or a server that does not answer or refuses.
pub async fn nats(url: &str, name: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    nats_with(&Access::at(url), name).await
}

/// Connects to NATS, with TLS and as a user of its own where that is asked for. Replies come to the user's own inbox.
///
/// # Errors
/// See [`nats`].
pub async fn nats_with(access: &Access, name: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let (mut options, addresses) = access.options()?;
    let user = access.user.clone().or_else(|| addresses.iter().find_map(|address| address.username().map(str::to_owned)));
    if let Some(user) = user {
        options = options.custom_inbox_prefix(subjects::user::inbox(&user)).event_callback(move |event| {
            runtime::nats::hear(&event, &user);
            std::future::ready(())
        });
    }
    Ok(options.name(name).connect(addresses).await?)
}
