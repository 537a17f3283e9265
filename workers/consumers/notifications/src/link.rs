//! What is derived from the link key: the secret of a mailed link, and a name for an address that is not the address.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subjects::InvitationId;

/// Derives links. The gateway derives the same from the same key; nothing is stored or carried.
#[derive(Clone)]
pub struct Links {
    key: Vec<u8>,
    public_url: String,
}

impl Links {
    /// With this key, under this URL.
    pub fn new(key: &str, public_url: &str) -> Self {
        Self { key: key.as_bytes().to_vec(), public_url: public_url.trim_end_matches('/').to_owned() }
    }

    /// The link of an invitation. The secret stands after `#`, where no server and no log sees it.
    pub fn invitation(&self, invitation: InvitationId, token_version: u64) -> String {
        let token = URL_SAFE_NO_PAD.encode(self.mac(format!("{invitation}:{token_version}").as_bytes()));
        format!("{}/invite#token={token}", self.public_url)
    }

    /// Stands for an address in the ledger when there is no user yet.
    pub(crate) fn alias(&self, address: &str) -> String {
        format!("address_{}", hex::encode(&self.mac(format!("address:{address}").as_bytes())[..16]))
    }

    fn mac(&self, message: &[u8]) -> Vec<u8> {
        // HMAC takes keys of every length.
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.key) else { return Vec::new() };
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn a_link_depends_on_key_invitation_and_version() {
        let invitation = InvitationId::new(uuid::Uuid::from_u128(1));
        let links = Links::new(KEY, "https://id.example/");
        let link = links.invitation(invitation, 1);
        // Reckoned with another program: base64url(HMAC-SHA256(key, "inv_00000000-0000-0000-0000-000000000001:1")).
        assert_eq!(link, "https://id.example/invite#token=oGnP_zcvYM_-Np9s2cgHC3_5PC_Hw09Cvf1dAp7SkVg");
        assert_ne!(link, links.invitation(invitation, 2));
        assert_ne!(link, Links::new("another key of at least 32 letters", "https://id.example").invitation(invitation, 1));
    }
}
