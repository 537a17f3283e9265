//! The one table of what can be permitted: permission → who has it, at least. A route names its permission when it is compiled, and one
//! that is not in the table does not compile. To open a route: name a permission of the table, or add a row.

use subjects::Role;

/// Who has a permission. Platform operators have all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Least {
    /// Everybody, without a token; the secret is in the body.
    Public,
    /// Whoever has a token.
    Caller,
    /// Platform operators only.
    Operator,
    /// Members with at least this role.
    Role(Role),
    /// Members with at least this role, and whom the path names as `{u}`.
    SelfOr(Role),
    /// The caller, about themself.
    Own,
    /// Whoever belongs to the tenant: the aggregate decides the rest and records what it refuses.
    Aggregate,
}

const OWNER: Least = Least::Role(Role::Owner);
const ADMIN: Least = Least::Role(Role::Admin);
const READONLY: Least = Least::Role(Role::Readonly);
const SELF_OR_ADMIN: Least = Least::SelfOr(Role::Admin);

/// Every permission with who has it, at least.
pub const PERMISSIONS: &[(&str, Least)] = &[
    // The platform.
    ("tenants:read", Least::Operator),
    ("tenants:write", Least::Operator),
    ("deadletters:read", Least::Operator),
    ("deadletters:write", Least::Operator),
    // One tenant.
    ("tenant:read", OWNER),
    ("tenant:write", OWNER),
    ("sso:read", ADMIN),
    ("sso:write", ADMIN),
    ("users:read", ADMIN),
    ("users:write", ADMIN),
    ("profile:read", SELF_OR_ADMIN),
    ("profile:write", SELF_OR_ADMIN),
    ("members:read", READONLY),
    ("members:write", ADMIN),
    ("membership:end", SELF_OR_ADMIN),
    ("membership:leave", Least::Own),
    ("roles:write", Least::Aggregate),
    ("invitations:read", ADMIN),
    ("invitations:write", ADMIN),
    ("teams:read", READONLY),
    ("teams:write", ADMIN),
    ("audit:read", ADMIN),
    ("history:read", ADMIN),
    ("events:read", ADMIN),
    ("notifications:read", ADMIN),
    // Outside of tenants.
    ("links:use", Least::Public),
    ("commands:read", Least::Caller),
    ("me:read", Least::Caller),
];

/// Who has a permission, at least.
///
/// # Panics
/// When there is no such permission: in a `static` or `const`, where routes are described, that is an error of the compiler.
pub(crate) const fn least(permission: &str) -> Least {
    let mut row = 0;
    while row < PERMISSIONS.len() {
        if same(PERMISSIONS[row].0, permission) {
            return PERMISSIONS[row].1;
        }
        row += 1;
    }
    panic!("no such permission: add it to PERMISSIONS")
}

/// `==` of texts, which the compiler cannot do for constants yet.
const fn same(one: &str, other: &str) -> bool {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let mut at = 0;
    while at < one.len() && at < other.len() && one[at] == other[at] {
        at += 1;
    }
    at == one.len() && at == other.len()
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn every_route_has_a_permission_of_the_table_and_no_permission_is_unused() {
        let table: BTreeMap<_, _> = PERMISSIONS.iter().copied().collect();
        assert_eq!(table.len(), PERMISSIONS.len(), "a permission has two rows");
        let mut used = BTreeSet::new();
        for policy in crate::policies() {
            assert_eq!(table.get(policy.permission), Some(&policy.least), "{} {}", policy.method.name(), policy.path);
            used.insert(policy.permission);
        }
        assert_eq!(used, table.into_keys().collect(), "left: used by a route, right: in the table");
    }

    #[test]
    fn permissions_are_found_by_their_whole_name() {
        assert_eq!(least("members:read"), READONLY);
        assert!(same("a:b", "a:b") && !same("a:b", "a:bc") && !same("a:bc", "a:b") && !same("", "a"));
        let word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase());
        assert!(PERMISSIONS.iter().all(|(name, _)| name.split_once(':').is_some_and(|(thing, what)| word(thing) && word(what))));
    }
}
