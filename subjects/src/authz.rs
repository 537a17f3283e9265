//! The bucket in which gateways remember together what members may do: its name and its keys.

use std::fmt;

use crate::{TenantId, UserId};

/// The name of the key-value bucket.
pub const BUCKET: &str = "authz";
/// The stream behind it.
pub const STREAM: &str = "KV_authz";
/// The subjects the stream stores.
pub const SUBJECTS: [&str; 1] = ["$KV.authz.>"];
/// The subjects of what members may: neither a tenant's key nor the beat, which are one token.
pub const MEMBERS: &str = "$KV.authz.*.*";
/// What a subject has before its key.
const PREFIX: &str = "$KV.authz.";
/// The key of the beat.
const BEAT: &str = "beat";

/// A key of the bucket. Only members have values; the others are ever deleted, which is a message all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// `<tenantId>.<userId>`: what a member may. A deletion drops it.
    Member(TenantId, UserId),
    /// `<tenantId>`: a deletion drops everything below it.
    Tenant(TenantId),
    /// `beat`: a deletion says that what had to be dropped until a moment ago is dropped.
    Beat,
}

impl Key {
    /// Reads a key; none for one that is not ours.
    pub fn parse(key: &str) -> Option<Self> {
        match key.split_once('.') {
            Some((tenant, user)) => Some(Self::Member(tenant.parse().ok()?, user.parse().ok()?)),
            None if key == BEAT => Some(Self::Beat),
            None => key.parse().ok().map(Self::Tenant),
        }
    }

    /// The subject it is stored under.
    pub fn subject(self) -> String {
        format!("{PREFIX}{self}")
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member(tenant, user) => write!(f, "{tenant}.{user}"),
            Self::Tenant(tenant) => write!(f, "{tenant}"),
            Self::Beat => f.write_str(BEAT),
        }
    }
}

/// The subjects of everything that is dropped with a tenant.
pub fn below(tenant: TenantId) -> String {
    format!("{PREFIX}{tenant}.>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matches;

    const TENANT: &str = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";
    const USER: &str = "user_01890a5d-ac96-774b-bcce-b302099a8057";

    #[test]
    fn keys_are_printed_as_they_are_read_and_others_are_not_ours() {
        for text in [format!("{TENANT}.{USER}"), TENANT.to_owned(), "beat".to_owned()] {
            assert_eq!(Key::parse(&text).map(|key| key.to_string()), Some(text));
        }
        for text in ["", "other", USER, &format!("{USER}.{TENANT}"), &format!("{TENANT}."), &format!("{TENANT}.{USER}.x")] {
            assert_eq!(Key::parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_below_a_tenant_is_its_members_and_not_its_own_key() -> Result<(), crate::IdError> {
        let tenant: TenantId = TENANT.parse()?;
        assert!(matches(&below(tenant), &Key::Member(tenant, USER.parse()?).subject()));
        assert!(!matches(&below(tenant), &Key::Tenant(tenant).subject()));
        assert!(matches(SUBJECTS[0], &Key::Beat.subject()));
        assert!(matches(MEMBERS, &Key::Member(tenant, USER.parse()?).subject()));
        assert!(!matches(MEMBERS, &Key::Tenant(tenant).subject()) && !matches(MEMBERS, &Key::Beat.subject()));
        Ok(())
    }
}
