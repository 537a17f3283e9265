//! What a caller may do in a tenant: the membership as Postgres has it, asked for now, a moment ago, or remembered.
//!
//! The worker decides again with the current role; this is the early no, and the only check that queries have. What is remembered says
//! yes and never no: who has just got a role may act at once.

mod memory;
mod watch;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_nats::jetstream::kv;
use moka::{Expiry, future, sync};
use runtime::{Config, failpoint};
use subjects::{Role, TenantId, UserId};
use tokio::sync::Semaphore;

use crate::{
    metrics::Lookups,
    problem::{Code, Problem},
    store::{Sight, Store, StoreError},
};
use memory::Memory;
pub(crate) use watch::watch;

/// How old an answer may be that is not shared through the bucket: nobody says when it is to be dropped.
const FRESH: Duration = Duration::from_secs(1);
/// Answers on their way into the bucket at most.
const PUTS: usize = 64;

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

/// An answer of Postgres.
#[derive(Debug, Clone, Copy)]
struct Answer {
    standing: Standing,
    /// Since when it may be out of date.
    asked: Instant,
}

/// An answer counts from when it was asked for, however long it took.
struct FromAsked;

impl Expiry<(TenantId, UserId), Answer> for FromAsked {
    fn expire_after_create(&self, _key: &(TenantId, UserId), answer: &Answer, created_at: Instant) -> Option<Duration> {
        Some(FRESH.saturating_sub(created_at.saturating_duration_since(answer.asked)))
    }
}

/// The standings of members.
pub(crate) struct Standings {
    store: Store,
    lookups: Lookups,
    memory: Memory,
    bucket: Mutex<Option<kv::Store>>,
    puts: Arc<Semaphore>,
    fresh: future::Cache<(TenantId, UserId), Answer>,
    /// For a command while the database is out of reach.
    stale: sync::Cache<(TenantId, UserId), Standing>,
}

impl Standings {
    /// Reads from a store; remembers once [`watch`] hears the bucket.
    pub(crate) fn new(store: Store, config: &Config, lookups: Lookups) -> Self {
        Self {
            store,
            lookups,
            memory: Memory::new(config),
            bucket: Mutex::new(None),
            puts: Arc::new(Semaphore::new(PUTS)),
            fresh: future::Cache::builder().max_capacity(config.authz_remembered).expire_after(FromAsked).build(),
            stale: sync::Cache::builder().max_capacity(config.authz_remembered).time_to_live(config.authz_age).build(),
        }
    }

    /// A user's standing in a tenant, remembered if it has at least this role (none: any); none for who is not a member. What is too
    /// little is never older than the call: a right just got counts at once, and a no costs a query, as that to a stranger does.
    pub(crate) async fn reaching(&self, tenant: TenantId, user: UserId, least: Option<Role>, purpose: Purpose) -> Result<Option<Standing>, Problem> {
        let suffices = |role: Option<Role>| least.is_none_or(|least| role.is_some_and(|role| role >= least));
        if let Some(role) = self.memory.role(tenant, user).filter(|role| suffices(Some(*role))) {
            self.lookups.remembered.inc();
            return Ok(Some(Standing { role: Some(role) }));
        }
        let begun = Instant::now();
        let mut answer = self.answer(tenant, user, purpose).await?;
        if answer.is_some_and(|answer| answer.asked < begun && !suffices(answer.standing.role)) {
            self.fresh.invalidate(&(tenant, user)).await;
            answer = self.answer(tenant, user, purpose).await?;
        }
        Ok(answer.map(|answer| answer.standing))
    }

    /// A user's standing in a tenant as Postgres had it within the last second; none for who is not a member.
    pub(crate) async fn of(&self, tenant: TenantId, user: UserId, purpose: Purpose) -> Result<Option<Standing>, Problem> {
        Ok(self.answer(tenant, user, purpose).await?.map(|answer| answer.standing))
    }

    async fn answer(&self, tenant: TenantId, user: UserId, purpose: Purpose) -> Result<Option<Answer>, Problem> {
        match self.fresh.try_get_with((tenant, user), self.load(tenant, user)).await {
            Ok(answer) => Ok(Some(answer)),
            Err(missing) => match &*missing {
                Missing::Member => Ok(None),
                Missing::Database(error) => match self.stale.get(&(tenant, user)) {
                    // It was asked for now, and there is no other answer.
                    Some(standing) if purpose == Purpose::Command => Ok(Some(Answer { standing, asked: Instant::now() })),
                    _ => Err(error.clone().into()),
                },
            },
        }
    }

    /// Forgets what a command may have changed.
    pub(crate) async fn forget(&self, tenant: TenantId, user: UserId) {
        self.memory.forget(tenant, user);
        self.stale.invalidate(&(tenant, user));
        self.fresh.invalidate(&(tenant, user)).await;
    }

    /// Whether what is remembered counts at this moment.
    pub(crate) fn are_remembered(&self) -> bool {
        self.memory.is_believed()
    }

    async fn load(&self, tenant: TenantId, user: UserId) -> Result<Answer, Missing> {
        const SQL: &str = "SELECT role FROM standings WHERE user_id = $1";
        // In this order: what is dropped from here on must find the answer out of date.
        let (asked, putting) = (Instant::now(), self.memory.asking(tenant, user));
        self.lookups.asked.inc();
        let rows = self.store.rows(Sight::of(tenant), SQL, &[&user.uuid()]).await.map_err(Missing::Database)?;
        failpoint::hit("standing_read");
        let Some(row) = rows.first() else {
            self.stale.invalidate(&(tenant, user));
            return Err(Missing::Member);
        };
        let role: Option<&str> = row.try_get(0).map_err(|error| Missing::Database(error.into()))?;
        let standing = Standing { role: role.and_then(|name| Role::ALL.into_iter().find(|role| role.name() == name)) };
        self.stale.insert((tenant, user), standing);
        if let (Some(putting), Some(role)) = (putting, standing.role) {
            self.put(tenant, user, putting, role);
        }
        Ok(Answer { standing, asked })
    }

    fn bucket(&self) -> Option<kv::Store> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put_into(&self, bucket: Option<kv::Store>) {
        *self.bucket.lock().unwrap_or_else(PoisonError::into_inner) = bucket;
    }

    /// Forgets the answers about a member that was dropped.
    fn forget_answer(&self, tenant: TenantId, user: UserId) {
        self.stale.invalidate(&(tenant, user));
        // Not awaited: the watch must go on, and after a second it is forgotten anyway.
        let fresh = self.fresh.clone();
        tokio::spawn(async move { fresh.invalidate(&(tenant, user)).await });
    }

    /// Forgets the answers about everybody of a tenant that was dropped.
    fn forget_tenant(&self, tenant: TenantId) {
        let members = self.stale.iter().map(|(key, _)| *key).filter(|(of, _)| *of == tenant);
        members.for_each(|(tenant, user)| self.forget_answer(tenant, user));
    }
}

/// The refusal of who is known but may not.
pub(crate) fn forbidden() -> Problem {
    Problem::new(Code::Refused(aggregates::Reason::Forbidden))
}
