//! The users at NATS: one for each role, with the subjects that its code uses and no other.
//!
//! Whatever is not allowed is refused. The names come from where the code has them: subjects, streams, durables and their filters, and the
//! commands that a reactor gives.

mod rights;

use std::fmt::Write as _;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subjects::user as names;

pub use rights::{Permissions, permissions};

use crate::{
    manifest::Manifest,
    role::{Consumer, Role},
};

/// The account with the streams.
pub const ACCOUNT: &str = "CHANCERY";
/// The account with the server's own subjects, `$SYS.>`.
pub const SYSTEM_ACCOUNT: &str = "SYS";

/// A user at NATS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// Sees and directs the servers themselves, and no message of ours.
    System,
    /// May do everything with our streams: repair, and looking around. No process of the stack is it.
    Operator,
    /// Makes the streams, the bucket and the durables.
    Provisioner,
    /// The gateways.
    Gateway,
    /// The workers.
    Worker,
    /// One of our consumers.
    Consumer(Consumer),
    /// Another team's consumer, by its name in the manifest.
    Team(&'static str),
}

impl User {
    /// All of them.
    pub fn all(manifest: &Manifest) -> Vec<Self> {
        let fixed = [Self::System, Self::Operator, Self::Provisioner, Self::Gateway, Self::Worker];
        let teams = manifest.of_teams().map(|entry| Self::Team(entry.name));
        fixed.into_iter().chain(Consumer::ALL.map(Self::Consumer)).chain(teams).collect()
    }

    /// The user of a role.
    pub const fn of(role: Role) -> Self {
        match role {
            Role::Gateway => Self::Gateway,
            Role::Worker => Self::Worker,
            Role::Consumer(consumer) => Self::Consumer(consumer),
        }
    }

    /// Its name: that of its role.
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::Operator => names::OPERATOR,
            Self::Provisioner => names::PROVISIONER,
            Self::Gateway => names::GATEWAY,
            Self::Worker => names::WORKER,
            Self::Consumer(consumer) => consumer.name(),
            Self::Team(name) => name,
        }
    }
}

/// What nats-server's configuration says about accounts, users and their permissions. `password` gives each user's, plain or as bcrypt.
pub fn accounts(manifest: &Manifest, password: &dyn Fn(User) -> String) -> String {
    accounts_with(manifest, password, &|user| permissions(manifest, user))
}

/// The same with other permissions: tests take a right away.
pub fn accounts_with(manifest: &Manifest, password: &dyn Fn(User) -> String, permissions: &dyn Fn(User) -> Permissions) -> String {
    let mut text = String::from("accounts {\n");
    for (account, is_system) in [(SYSTEM_ACCOUNT, true), (ACCOUNT, false)] {
        let _ = writeln!(text, "  {account} {{");
        if !is_system {
            text.push_str("    jetstream: enabled\n");
        }
        text.push_str("    users: [\n");
        for user in User::all(manifest).into_iter().filter(|user| (*user == User::System) == is_system) {
            let _ = writeln!(text, "      {{ user: {:?}, password: {:?}, permissions: {} }}", user.name(), password(user), permissions(user));
        }
        text.push_str("    ]\n  }\n");
    }
    let _ = writeln!(text, "}}\nsystem_account: {SYSTEM_ACCOUNT}");
    text
}

/// A user's password at a server that is started with one secret for all: what knows the secret, knows them all.
pub fn derived(secret: &str, user: User) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(user.name().as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_user_has_a_name_and_a_password_of_its_own() {
        let users = User::all(Manifest::with_examples());
        assert_eq!(users.iter().map(|user| user.name()).collect::<BTreeSet<_>>().len(), users.len());
        assert_eq!(users.iter().map(|user| derived("secret", *user)).collect::<BTreeSet<_>>().len(), users.len());
        assert_ne!(derived("secret", User::Worker), derived("other", User::Worker));
    }

    #[test]
    fn every_user_stands_in_the_accounts_once() {
        let text = accounts(Manifest::with_examples(), &|user| format!("password of {}", user.name()));
        for user in User::all(Manifest::with_examples()) {
            assert_eq!(text.matches(&format!("user: {:?},", user.name())).count(), 1, "{}", user.name());
            assert!(text.contains(&format!("password: \"password of {}\"", user.name())));
        }
    }
}
