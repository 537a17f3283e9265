//! `chancery health`: whether a role is ready, for the health checks of containers, whose image has no other client.

use std::{net::ToSocketAddrs as _, process::ExitCode, time::Duration};

use anyhow::Context as _;

use crate::servers::port;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(4);

/// Prints the answer; success for 200.
///
/// # Errors
/// The URL is none of plain HTTP, or nobody answers.
pub fn run(url: &str) -> anyhow::Result<ExitCode> {
    let rest = url.strip_prefix("http://").context("the URL must begin with http://")?;
    let (host, path) = rest.split_once('/').map_or((rest, "/readyz".to_owned()), |(host, path)| (host, format!("/{path}")));
    let address = host.to_socket_addrs().with_context(|| format!("{host} is no host:port"))?.next().with_context(|| format!("{host} is unknown"))?;
    let (status, body) = port::get(address, &path, LIMIT).with_context(|| format!("nobody answers at {url}"))?;
    println!("{status} {}", body.trim());
    Ok(if status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
