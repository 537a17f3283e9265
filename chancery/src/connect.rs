//! Connections of the tools in this crate; the roles make their own in `runtime`.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, ServerAddr};

/// Connects to NATS with the user and password that the URL carries, which the client library itself leaves aside.
///
/// # Errors
/// A URL that cannot be read, or a server that does not answer or refuses.
pub async fn nats(url: &str, name: &str) -> Result<Client, Box<dyn std::error::Error + Send + Sync>> {
    let addresses: Vec<ServerAddr> = url.split(',').map(|part| part.trim().parse()).collect::<Result<_, _>>()?;
    let mut options = ConnectOptions::new().name(name).connection_timeout(Duration::from_secs(5));
    if let Some(address) = addresses.iter().find(|address| address.has_user_pass()) {
        let password = address.password().unwrap_or_default();
        options = options.user_and_password(address.username().unwrap_or_default().to_owned(), password.to_owned());
    }
    Ok(options.connect(addresses).await?)
}
