//! The cluster's own certificate authority and the certificate of its servers.

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};

use super::place::Place;

/// How long the authority is believed: it is trusted by this cluster alone, and a new one means a restart of everything.
const AUTHORITY_LIFETIME: Duration = Duration::days(3650);
/// How long a server's certificate is valid.
const SERVER_LIFETIME: Duration = Duration::days(397);
/// A certificate that ends sooner is made anew by the next run.
const RENEWAL: Duration = Duration::days(60);
/// Clocks of the machines may differ by so much.
const SKEW: Duration = Duration::hours(1);

/// The names by which servers are reached: in the cluster, and through ports that are published on the machine itself.
pub const NAMES: [&str; 6] = ["nats-1", "nats-2", "nats-3", "postgres", "localhost", "127.0.0.1"];

/// Certificates and keys, as PEM.
#[derive(Clone)]
pub struct Drawn {
    /// The authority's certificate: what clients and servers trust.
    pub authority: String,
    /// The servers' certificate, good for both ends of a connection, because routes are checked both ways.
    pub server: String,
    /// Its private key (PKCS#8).
    pub server_key: String,
}

/// The certificates of the cluster; made when they are missing or end soon.
pub(super) fn drawn(place: &mut Place) -> anyhow::Result<Drawn> {
    let authority_key = match place.known("ca.key")? {
        Some(pem) => KeyPair::from_pem(&pem).context("private/ca.key is no private key")?,
        None => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
    };
    let authority = match place.known("ca.pem")? {
        Some(pem) => pem,
        None => {
            let made = CertifiedIssuer::self_signed(authority_params()?, &authority_key)?;
            place.keep("ca.key", &authority_key.serialize_pem())?;
            place.keep("ca.pem", &made.pem())?;
            made.pem()
        }
    };
    if let Some((server, server_key)) = place.known("server.pem")?.as_deref().and_then(still_good) {
        return Ok(Drawn { authority, server, server_key });
    }
    let ends = OffsetDateTime::now_utc() + SERVER_LIFETIME;
    let (server, server_key) = server(&Issuer::new(authority_params()?, &authority_key), ends)?;
    // One file, so that an interrupted run leaves no certificate with another one's key.
    place.keep("server.pem", &format!("{}{server}{server_key}", preamble(ends)?))?;
    Ok(Drawn { authority, server, server_key })
}

/// What stands before the certificate in its file, for the next run.
fn preamble(ends: OffsetDateTime) -> anyhow::Result<String> {
    Ok(format!("names: {}\nends: {}\n", NAMES.join(" "), ends.format(&Rfc3339)?))
}

/// Certificate and key out of their file, unless they are for other names or end soon.
fn still_good(file: &str) -> Option<(String, String)> {
    let (head, rest) = file.split_once("ends: ")?;
    let (ends, pems) = rest.split_once('\n')?;
    let lasts = OffsetDateTime::parse(ends, &Rfc3339).ok()? > OffsetDateTime::now_utc() + RENEWAL;
    let key = pems.find("-----BEGIN PRIVATE KEY")?;
    let same_names = head == format!("names: {}\n", NAMES.join(" "));
    (lasts && same_names).then(|| (pems[..key].to_owned(), pems[key..].to_owned()))
}

/// Certificates that are not kept by `init`: for servers that run as processes of one machine.
///
/// # Errors
/// The system's source of randomness fails.
pub fn fresh() -> anyhow::Result<Drawn> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let authority = CertifiedIssuer::self_signed(authority_params()?, key)?;
    let (server, server_key) = server(&authority, OffsetDateTime::now_utc() + SERVER_LIFETIME)?;
    Ok(Drawn { authority: authority.pem(), server, server_key })
}

fn authority_params() -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name.push(DnType::CommonName, "Chancery cluster authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - SKEW;
    params.not_after = OffsetDateTime::now_utc() + AUTHORITY_LIFETIME;
    Ok(params)
}

fn server(authority: &Issuer<'_, impl rcgen::SigningKey>, ends: OffsetDateTime) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    params.distinguished_name.push(DnType::CommonName, "Chancery server");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::now_utc() - SKEW;
    params.not_after = ends;
    let certificate = params.signed_by(&key, authority).context("signing the servers' certificate")?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_kept_until_it_ends_soon_or_is_for_other_names() -> anyhow::Result<()> {
        let drawn = fresh()?;
        let file = |ends| anyhow::Ok(format!("{}{}{}", preamble(OffsetDateTime::now_utc() + ends)?, drawn.server, drawn.server_key));
        let kept = still_good(&file(RENEWAL + SKEW)?).context("not kept")?;
        assert_eq!(kept, (drawn.server.clone(), drawn.server_key.clone()));
        assert_eq!(still_good(&file(RENEWAL - SKEW)?), None);
        assert_eq!(still_good(&file(RENEWAL + SKEW)?.replace("nats-3", "nats-4")), None);
        Ok(())
    }
}
