//! Free ports and the questions "does somebody listen there" and "what does it answer".

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

/// Ports below this may be somebody's well-known ones.
const LOWEST: u16 = 16_000;
/// Ports below this are not given to outgoing connections where nobody has changed it.
const EPHEMERAL: u16 = 32_768;
/// Ports that are tried before the system is asked for one.
const ATTEMPTS: usize = 64;

/// `preferred` when nobody has it, else any port that is free on loopback at the moment; where there is one, none that the system may give to an
/// outgoing connection before a server listens on it, or while that server is started again.
///
/// # Errors
/// The system has no port left.
pub fn free(preferred: Option<u16>) -> io::Result<u16> {
    if let Some(port) = preferred.filter(|port| is_free(*port)) {
        return Ok(port);
    }
    let top = ephemeral();
    if top > LOWEST
        && let Some(port) = (0..ATTEMPTS).map(|_| rand::random_range(LOWEST..top)).find(|port| is_free(*port))
    {
        return Ok(port);
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|address| address.port())
}

/// Where the ports of outgoing connections begin.
fn ephemeral() -> u16 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok();
    range.and_then(|range| range.split_whitespace().next()?.parse().ok()).unwrap_or(EPHEMERAL)
}

/// The first free port from `first` on; after 50 that are taken, any.
///
/// # Errors
/// The system has no port left.
pub fn next_free(first: u16) -> io::Result<u16> {
    match (first..first.saturating_add(50)).find(|port| is_free(*port)) {
        Some(port) => Ok(port),
        None => free(None),
    }
}

fn is_free(port: u16) -> bool {
    // Binding alone is not enough: on some systems a listener on all addresses does not stop a bind to one of them.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    TcpListener::bind(address).is_ok() && TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_err()
}

/// True when a server could not start because somebody else has taken its port in the meantime.
pub fn was_taken(error: &anyhow::Error) -> bool {
    format!("{error:#}").to_ascii_lowercase().contains("address already in use")
}

/// A plain HTTP GET on loopback: status and body. Blocking, for use before and beside the async runtime.
///
/// # Errors
/// No connection, no answer within the limit, or none that is HTTP.
pub fn get(address: SocketAddr, path: &str, limit: Duration) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    // By this version no answer comes in pieces that would have to be put together.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(1 << 20).read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer);
    let status = text.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    status.map(|status| (status, body)).ok_or_else(|| io::Error::other("the answer is not HTTP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_free_port_is_none_that_an_outgoing_connection_gets() {
        let port = free(None).unwrap();
        assert!(is_free(port) && (LOWEST..ephemeral().max(LOWEST + 1)).contains(&port), "{port}");
        assert_eq!(free(Some(port)).unwrap(), port);
        let _held = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert_ne!(free(Some(port)).unwrap(), port);
    }
}
