//! Who may read which files: a group for each process of `compose.yaml`.

use std::path::{Path, PathBuf};

use crate::role::{Consumer, Role};

/// The user that owns everything: `init` itself.
pub const OWNER: u32 = 10_000;
/// The group of the first consumer; the others follow in the order of [`Consumer::ALL`].
const CONSUMERS: u32 = 10_020;

/// A process, or people, with files of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The nats-servers.
    Nats,
    /// PostgreSQL.
    Postgres,
    /// The one-shot `migrate`.
    Migrate,
    /// The one-shot `provision`.
    Provisioner,
    /// An operator with the rights of the application's account and of the database's superuser.
    Operator,
    /// An operator of nats-server itself: the system account.
    System,
    /// A role that runs for ever.
    Role(Role),
}

impl Reader {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        let fixed = [Self::Nats, Self::Postgres, Self::Migrate, Self::Provisioner, Self::Operator, Self::System];
        fixed.into_iter().chain(roles().map(Self::Role))
    }

    /// Its name: a folder's, and a NATS user's where it has one.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::Postgres => "postgres",
            Self::Migrate => "migrate",
            Self::Provisioner => "provisioner",
            Self::Operator => "operator",
            Self::System => "system",
            Self::Role(role) => role.name(),
        }
    }

    /// Its group; a process of `compose.yaml` runs as the user of the same number, PostgreSQL as its image's user with this group besides.
    pub fn group(self) -> u32 {
        match self {
            Self::Nats => 10_001,
            Self::Postgres => 10_002,
            Self::Migrate => 10_003,
            Self::Provisioner => 10_004,
            Self::Operator => 10_005,
            Self::System => 10_006,
            Self::Role(Role::Gateway) => 10_010,
            Self::Role(Role::Worker) => 10_011,
            Self::Role(Role::Consumer(consumer)) => {
                (CONSUMERS..).zip(Consumer::ALL).find(|(_, one)| *one == consumer).map_or(CONSUMERS, |(id, _)| id)
            }
        }
    }

    /// The path of one of its credentials below the folder.
    pub fn credentials(self, name: &str) -> PathBuf {
        Path::new("credentials").join(self.name()).join(name)
    }
}

/// The roles that run for ever.
pub fn roles() -> impl Iterator<Item = Role> {
    [Role::Gateway, Role::Worker].into_iter().chain(Consumer::ALL.map(Role::Consumer))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_shares_a_group_or_a_name() {
        let count = Reader::all().count();
        assert_eq!(Reader::all().map(Reader::group).collect::<BTreeSet<_>>().len(), count);
        assert_eq!(Reader::all().map(Reader::name).collect::<BTreeSet<_>>().len(), count);
        assert!(Reader::all().all(|reader| reader.group() != OWNER));
    }
}
