//! Secrets that are derived and never stored: the tokens of mailed links, and the fingerprints of requests.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};
use subjects::InvitationId;

/// Keyed SHA-256, with its key already worked in.
#[derive(Clone)]
pub(crate) struct Keyed(Hmac<Sha256>);

impl Keyed {
    /// Works the key in.
    ///
    /// # Errors
    /// None: every length of key is allowed.
    pub(crate) fn new(key: &str) -> Result<Self, hmac::digest::InvalidLength> {
        Ok(Self(Hmac::new_from_slice(key.as_bytes())?))
    }

    fn of(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// The fingerprint of a request: the same key with another request is told apart by it.
    pub(crate) fn fingerprint(&self, method: &str, path: &str, if_match: &str, body: &[u8]) -> String {
        hex::encode(self.of(&[method.as_bytes(), b"\n", path.as_bytes(), b"\n", if_match.as_bytes(), b"\n", body]))
    }

    /// The token of an invitation's link: base64url(HMAC-SHA256(key, `<invitationId>:<tokenVersion>`)), without padding.
    pub(crate) fn invitation_token(&self, invitation: InvitationId, version: u32) -> String {
        URL_SAFE_NO_PAD.encode(self.of(&[invitation.to_string().as_bytes(), b":", version.to_string().as_bytes()]))
    }
}

/// The token of an invitation's link. The notifier derives the same from the same key; nothing is stored or carried.
pub fn invitation_token(key: &str, invitation: InvitationId, version: u32) -> Option<String> {
    Keyed::new(key).ok().map(|key| key.invitation_token(invitation, version))
}

/// What state and events hold of a token: lower-case hexadecimal SHA-256 of its text.
pub fn token_hash(token: &str) -> String {
    hex::encode(Sha256::digest(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn tokens_match_the_recorded_vectors() {
        let invitation: InvitationId = "inv_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let first = invitation_token(KEY, invitation, 1).unwrap();
        let second = invitation_token(KEY, invitation, 2).unwrap();
        assert_eq!(first, "vd2Q8cSS3rvKBzVQW9d9rZVkMAjMDNz_1X1xukhgafU");
        assert_eq!(second, "PdDCWHzC5ouLELvGpzgyAAhL5geMX8Xs0mZT869voSY");
        assert_eq!(token_hash(&first), "28df3fec67a62a84511593eab65a7adaaa97f17f53d7d3956b7d0357e869d723");
    }

    #[test]
    fn a_fingerprint_changes_with_every_part_of_the_request() {
        let key = Keyed::new(KEY).unwrap();
        let base = key.fingerprint("POST", "/v1/tenants", "", b"{}");
        assert_eq!(base, "571c41125c8c5d414356e898b2793969570a985af684df850470274c03d4e3d0");
        for other in [
            key.fingerprint("PUT", "/v1/tenants", "", b"{}"),
            key.fingerprint("POST", "/v1/tenant", "", b"{}"),
            key.fingerprint("POST", "/v1/tenants", "\"1\"", b"{}"),
            key.fingerprint("POST", "/v1/tenants", "", b"{ }"),
        ] {
            assert_ne!(other, base);
        }
    }
}
