//! The published end of a chain.

use std::{fmt, str::FromStr};

use subjects::TenantId;

use crate::VerifyError;

/// The end of a tenant's chain, to be published somewhere else: only against it the loss of the newest rows shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The tenant.
    pub tenant: TenantId,
    /// The last row.
    pub n: i64,
    /// Its hash.
    pub hash: [u8; 32],
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.tenant, self.n, hex::encode(self.hash))
    }
}

impl FromStr for Head {
    type Err = VerifyError;

    fn from_str(text: &str) -> Result<Self, VerifyError> {
        let mut parts = text.trim().split(':');
        let head = (|| {
            let tenant = parts.next()?.parse().ok()?;
            let n = parts.next()?.parse().ok()?;
            let hash = hex::decode(parts.next()?).ok()?.try_into().ok()?;
            parts.next().is_none().then_some(Self { tenant, n, hash })
        })();
        head.ok_or_else(|| VerifyError::Head(text.to_owned()))
    }
}
