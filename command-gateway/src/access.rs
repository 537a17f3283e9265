//! What a caller may do in a tenant: the membership as Postgres has it, remembered for a second.
//!
//! The worker decides again with the current role; this is the early no, and the only check that queries have.

use std::time::Duration;

use moka::{future, sync};
use subjects::{Role, TenantId, UserId};

use crate::{
    problem::{Code, Problem},
    store::{Sight, Store, StoreError},
};

/// How old a standing may be.
const FRESH: Duration = Duration::from_secs(1);
/// How old it may be for a command while the database is out of reach.
const STALE: Duration = Duration::from_secs(300);
/// Standings that are remembered at most.
const REMEMBERED: u64 = 100_000;

/// What a member is in a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The role that counts: none while the member or the user is suspended.
    pub(crate) role: Option<Role>,
}

/// What a standing is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The worker decides again, so an old standing will do when there is no other.
    Command,
    /// This check is the only one.
    Query,
}

/// Why there is no standing. Not remembered: who has just joined may act at once.
#[derive(Debug)]
enum Missing {
    Member,
    Database(StoreError),
}

/// The standings of members.
pub(crate) struct Standings {
    store: Store,
    fresh: future::Cache<(TenantId, UserId), Standing>,
    stale: sync::Cache<(TenantId, UserId), Standing>,
}

impl Standings {
    /// Reads from a store.
    pub(crate) fn new(store: Store) -> Self {
        Self {
            store,
            fresh: future::Cache::builder().max_capacity(REMEMBERED).time_to_live(FRESH).build(),
            stale: sync::Cache::builder().max_capacity(REMEMBERED).time_to_live(STALE).build(),
        }
    }

    /// A user's standing in a tenant; none for who is not a member.
    pub(crate) async fn of(&self, tenant: TenantId, user: UserId, purpose: Purpose) -> Result<Option<Standing>, Problem> {
        match self.fresh.try_get_with((tenant, user), self.load(tenant, user)).await {
            Ok(standing) => Ok(Some(standing)),
            Err(missing) => match &*missing {
                Missing::Member => Ok(None),
                Missing::Database(error) => match self.stale.get(&(tenant, user)) {
                    Some(standing) if purpose == Purpose::Command => Ok(Some(standing)),
                    _ => Err(error.clone().into()),
                },
            },
        }
    }

    /// Forgets what a command may have changed.
    pub(crate) async fn forget(&self, tenant: TenantId, user: UserId) {
        self.stale.invalidate(&(tenant, user));
        self.fresh.invalidate(&(tenant, user)).await;
    }

    async fn load(&self, tenant: TenantId, user: UserId) -> Result<Standing, Missing> {
        const SQL: &str = "SELECT role FROM standings WHERE user_id = $1";
        let rows = self.store.rows(Sight::of(tenant), SQL, &[&user.uuid()]).await.map_err(Missing::Database)?;
        let Some(row) = rows.first() else {
            self.stale.invalidate(&(tenant, user));
            return Err(Missing::Member);
        };
        let role: Option<&str> = row.try_get(0).map_err(|error| Missing::Database(error.into()))?;
        let standing = Standing { role: role.and_then(|name| Role::ALL.into_iter().find(|role| role.name() == name)) };
        self.stale.insert((tenant, user), standing);
        Ok(standing)
    }
}

/// The refusal of who is known but may not.
pub(crate) fn forbidden() -> Problem {
    Problem::new(Code::Refused(aggregates::Reason::Forbidden))
}
