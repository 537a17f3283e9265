//! Access tokens and the keys of a stack: made for development and tests; production brings its own issuer.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;
use time::OffsetDateTime;
use uuid::Uuid;

/// Who issues and who reads our tokens.
pub const ISSUER: &str = "chancery";

/// What a token says.
#[derive(Debug, Clone, Serialize)]
pub struct Claims {
    /// `user_…` or `svc_…`.
    pub sub: String,
    /// The tenant, or `platform`.
    pub tid: String,
    /// Scopes, separated by spaces.
    pub scope: String,
    /// Issued at, in seconds.
    pub iat: i64,
    /// Ends at, in seconds.
    pub exp: i64,
    /// Always [`ISSUER`].
    pub iss: &'static str,
    /// Always [`ISSUER`].
    pub aud: &'static str,
}

impl Claims {
    /// Claims that begin now and end after `lifetime`.
    pub fn new(subject: &str, tenant: &str, scope: &str, lifetime: Duration) -> Self {
        let now = OffsetDateTime::now_utc().unix_timestamp();
        let exp = now.saturating_add(i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX));
        Self { sub: subject.into(), tid: tenant.into(), scope: scope.into(), iat: now, exp, iss: ISSUER, aud: ISSUER }
    }
}

/// Signs claims with an Ed25519 private key in PKCS#8 PEM.
///
/// # Errors
/// The key is no such key.
pub fn mint(private_key_pem: &str, claims: &Claims) -> anyhow::Result<String> {
    let key = EncodingKey::from_ed_pem(private_key_pem.as_bytes()).context("the private key is not an Ed25519 key in PKCS#8 PEM")?;
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &key).context("signing the token")
}

/// A platform operator's token. Whoever holds the same key is the same operator, so that keys of repeated requests are the same too.
///
/// # Errors
/// The key is no Ed25519 key in PKCS#8 PEM.
pub fn operator(private_key_pem: &str, lifetime: Duration) -> anyhow::Result<String> {
    let subject = format!("svc_{}", Uuid::new_v5(&Uuid::NAMESPACE_OID, digest::digest(&digest::SHA256, private_key_pem.as_bytes()).as_ref()));
    mint(private_key_pem, &Claims::new(&subject, "platform", "operator", lifetime))
}

/// A fresh Ed25519 key pair: private (PKCS#8) and public (SubjectPublicKeyInfo), both PEM.
///
/// # Errors
/// The system's source of randomness fails.
pub fn keygen() -> anyhow::Result<(String, String)> {
    let private = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new()).map_err(|_| anyhow!("no randomness for a key"))?;
    let pair = Ed25519KeyPair::from_pkcs8(private.as_ref()).map_err(|_| anyhow!("a fresh key cannot be read"))?;
    // RFC 8410: the fixed header of an Ed25519 public key, then its 32 bytes.
    let mut public = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    public.extend_from_slice(pair.public_key().as_ref());
    Ok((pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", &public)))
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// 32 random bytes in hexadecimal: a password or a key.
pub fn secret() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{DecodingKey, Validation};

    #[test]
    fn a_minted_token_is_accepted_by_its_public_key_and_by_no_other() -> anyhow::Result<()> {
        let ((private, public), (_, other)) = (keygen()?, keygen()?);
        let token = mint(&private, &Claims::new("svc_1", "platform", "operator", Duration::from_secs(60)))?;
        let mut rules = Validation::new(Algorithm::EdDSA);
        rules.set_audience(&[ISSUER]);
        rules.set_issuer(&[ISSUER]);
        let read = |key: &str| jsonwebtoken::decode::<serde_json::Value>(&token, &DecodingKey::from_ed_pem(key.as_bytes())?, &rules);
        assert_eq!(read(&public)?.claims["tid"], "platform");
        assert!(read(&other).is_err());
        Ok(())
    }
}
