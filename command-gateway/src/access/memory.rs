//! What all gateways remember together: this gateway's copy of the bucket `authz`, applied in the bucket's order and in no other way.
//!
//! Two things keep a stale answer from being remembered. A value is put only over the revision of its key that was known before
//! PostgreSQL was asked, so it cannot take the place of a drop. And it says how much of the bucket its writer had heard by then, so that
//! nobody believes it after a drop of the whole tenant, which is no revision of that key.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use moka::sync::Cache;
use runtime::Config;
use serde::{Deserialize, Serialize};
use subjects::{Role, TenantId, UserId, authz::Key};
use time::OffsetDateTime;

/// What is stored of a member. Only who may something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// The role that counts.
    pub(crate) role: Role,
    /// When PostgreSQL was asked. An entry lives from then on, wherever it is.
    #[serde(with = "subjects::timestamp")]
    pub(crate) at: OffsetDateTime,
    /// The revision of the bucket that its writer had heard of before.
    pub(crate) after: u64,
}

/// What is known before PostgreSQL is asked, so that the answer can be put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    /// The revision that the key has; 0 for none.
    pub(crate) revision: u64,
    at: OffsetDateTime,
    after: u64,
}

impl Asked {
    /// The answer as it is stored.
    pub(crate) const fn entry(self, role: Role) -> Entry {
        Entry { role, at: self.at, after: self.after }
    }
}

/// The last revision of a key, in one life of the watch.
#[derive(Debug, Clone, Copy)]
struct Known {
    life: u64,
    revision: u64,
    /// The role, how long it counts, and the revision after which it was asked for; none when it was dropped.
    value: Option<(Role, Instant, u64)>,
}

/// The last drop of a whole tenant, in one life of the watch.
#[derive(Debug, Clone, Copy)]
struct Dropped {
    life: u64,
    revision: u64,
}

/// The copy. It is believed only while the beat is heard.
pub(crate) struct Memory {
    age: Duration,
    /// How long after a beat the copy is believed.
    trust: Duration,
    members: Cache<(TenantId, UserId), Known>,
    tenants: Cache<TenantId, Dropped>,
    /// Which life of the watch this is; what was applied in another does not count.
    life: AtomicU64,
    /// The last revision that was applied in this life.
    position: AtomicU64,
    /// Beats in this life.
    beats: AtomicU64,
    /// When the last beat was heard that counts, in milliseconds after `start`, and 1 more; 0 for none.
    beat: AtomicU64,
    start: Instant,
}

impl Memory {
    /// Empty, and not believed.
    pub(crate) fn new(config: &Config) -> Self {
        let cache = Cache::builder().time_to_live(config.authz_age);
        Self {
            age: config.authz_age,
            trust: config.authz_beat.mul_f64(2.5),
            members: cache.max_capacity(config.authz_remembered).build(),
            // One that is forgotten too early would let old values of the tenant be believed again: these are few and small.
            tenants: Cache::builder().time_to_live(config.authz_age).max_capacity(config.authz_remembered).build(),
            life: AtomicU64::new(0),
            position: AtomicU64::new(0),
            beats: AtomicU64::new(0),
            beat: AtomicU64::new(0),
            start: Instant::now(),
        }
    }

    /// A new life of the watch, which begins with everything the bucket has: what was remembered does not count any more.
    pub(crate) fn begin(&self) {
        self.beat.store(0, Ordering::SeqCst);
        self.beats.store(0, Ordering::SeqCst);
        self.position.store(0, Ordering::SeqCst);
        self.life.fetch_add(1, Ordering::SeqCst);
    }

    /// Whether the copy is believed at this moment.
    pub(crate) fn is_believed(&self) -> bool {
        let beat = self.beat.load(Ordering::SeqCst);
        beat > 0 && (self.now() + 1).saturating_sub(beat) < self.trust.as_millis() as u64
    }

    /// A member's role, if the copy is believed and has one.
    pub(crate) fn role(&self, tenant: TenantId, user: UserId) -> Option<Role> {
        if !self.is_believed() {
            return None;
        }
        let (role, until, after) = self.known(tenant, user)?.value?;
        (Instant::now() < until && after >= self.dropped(tenant)).then_some(role)
    }

    /// What is to be known before PostgreSQL is asked; none when the answer is not to be put.
    pub(crate) fn asking(&self, tenant: TenantId, user: UserId) -> Option<Asked> {
        if !self.is_believed() {
            return None;
        }
        // Before the revision: what is dropped in between is then surely news to this answer.
        let after = self.position.load(Ordering::SeqCst);
        let dropped = self.dropped(tenant);
        // What was dropped with its tenant is gone from the bucket, drops included.
        let revision = self.known(tenant, user).map(|known| known.revision).filter(|revision| *revision > dropped);
        Some(Asked { revision: revision.unwrap_or(0), at: OffsetDateTime::now_utc(), after })
    }

    /// Applies the next message of the bucket: a value, or none for a deletion. An error is a value that is no entry: it is dropped.
    pub(crate) fn apply(&self, key: Key, revision: u64, value: Option<&[u8]>) -> Result<(), serde_json::Error> {
        let life = self.life.load(Ordering::SeqCst);
        let result = match key {
            Key::Member(tenant, user) => {
                let read = value.map(serde_json::from_slice::<Entry>).transpose();
                let value = read.as_ref().ok().copied().flatten().and_then(|entry| self.value(tenant, entry));
                self.members.insert((tenant, user), Known { life, revision, value });
                read.map(drop)
            }
            Key::Tenant(tenant) => {
                self.tenants.insert(tenant, Dropped { life, revision });
                Ok(())
            }
            Key::Beat => {
                // The first may be the old one that a watch begins with; the second was sent since.
                if self.beats.fetch_add(1, Ordering::SeqCst) > 0 {
                    self.beat.store(self.now() + 1, Ordering::SeqCst);
                }
                Ok(())
            }
        };
        self.position.store(revision, Ordering::SeqCst);
        result
    }

    /// Forgets a member until the bucket says something new.
    pub(crate) fn forget(&self, tenant: TenantId, user: UserId) {
        self.members.invalidate(&(tenant, user));
    }

    /// What an entry is worth: nothing when it is too old, or was asked for before its tenant was dropped.
    fn value(&self, tenant: TenantId, entry: Entry) -> Option<(Role, Instant, u64)> {
        // A clock that is ahead gives an entry no longer life than it would have here.
        let old = Duration::try_from(OffsetDateTime::now_utc() - entry.at).unwrap_or_default();
        let left = self.age.checked_sub(old).filter(|left| !left.is_zero())?;
        (entry.after >= self.dropped(tenant)).then(|| (entry.role, Instant::now() + left, entry.after))
    }

    fn known(&self, tenant: TenantId, user: UserId) -> Option<Known> {
        let life = self.life.load(Ordering::SeqCst);
        self.members.get(&(tenant, user)).filter(|known| known.life == life)
    }

    /// The revision of the last drop of a whole tenant; 0 for none.
    fn dropped(&self, tenant: TenantId) -> u64 {
        let life = self.life.load(Ordering::SeqCst);
        self.tenants.get(&tenant).filter(|dropped| dropped.life == life).map_or(0, |dropped| dropped.revision)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TENANT: &str = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";
    const OTHER: &str = "tenant_01890a5d-ac96-774b-bcce-b302099a8058";
    const USER: &str = "user_01890a5d-ac96-774b-bcce-b302099a8057";

    fn ids() -> (TenantId, UserId) {
        (TENANT.parse().unwrap(), USER.parse().unwrap())
    }

    /// A copy that is believed as long as a test takes, and has heard of revisions up to 2.
    fn memory() -> Memory {
        let config = Config::from_lookup(&|name| (name == "CHANCERY_AUTHZ_BEAT_MS").then(|| "60000".into())).unwrap();
        let memory = Memory::new(&config);
        memory.begin();
        beat(&memory, 1);
        beat(&memory, 2);
        memory
    }

    fn beat(memory: &Memory, revision: u64) {
        memory.apply(Key::Beat, revision, None).unwrap();
    }

    fn put(memory: &Memory, revision: u64, entry: Entry) {
        let (tenant, user) = ids();
        memory.apply(Key::Member(tenant, user), revision, Some(&serde_json::to_vec(&entry).unwrap())).unwrap();
    }

    fn entry(after: u64) -> Entry {
        Entry { role: Role::Admin, at: OffsetDateTime::now_utc(), after }
    }

    fn role(memory: &Memory) -> Option<Role> {
        let (tenant, user) = ids();
        memory.role(tenant, user)
    }

    #[test]
    fn it_is_believed_from_the_second_beat_and_not_without() {
        let config = Config::from_lookup(&|_| None).unwrap();
        let memory = Memory::new(&config);
        memory.begin();
        put(&memory, 1, entry(0));
        beat(&memory, 2);
        assert_eq!((memory.is_believed(), role(&memory)), (false, None), "the first may be old");
        beat(&memory, 3);
        assert_eq!((memory.is_believed(), role(&memory)), (true, Some(Role::Admin)));
        std::thread::sleep(config.authz_beat.mul_f64(2.5) + Duration::from_millis(5));
        assert_eq!((memory.is_believed(), role(&memory)), (false, None), "the beat has stopped");
        let (tenant, user) = ids();
        assert_eq!(memory.asking(tenant, user), None, "and nothing is put");
    }

    #[test]
    fn a_new_life_of_the_watch_begins_with_nothing() {
        let memory = memory();
        put(&memory, 3, entry(2));
        assert_eq!(role(&memory), Some(Role::Admin));
        memory.begin();
        beat(&memory, 4);
        beat(&memory, 5);
        assert_eq!(role(&memory), None);
        let (tenant, user) = ids();
        assert_eq!(memory.asking(tenant, user).map(|asked| (asked.revision, asked.after)), Some((0, 5)));
    }

    #[test]
    fn a_drop_ends_it_and_the_next_answer_is_put_over_the_drop() {
        let memory = memory();
        let (tenant, user) = ids();
        assert_eq!(memory.asking(tenant, user).map(|asked| asked.revision), Some(0));
        put(&memory, 3, entry(2));
        memory.apply(Key::Member(tenant, user), 4, None).unwrap();
        assert_eq!((role(&memory), memory.asking(tenant, user).map(|asked| asked.revision)), (None, Some(4)));
    }

    #[test]
    fn what_was_asked_before_its_tenant_was_dropped_is_not_believed() {
        let memory = memory();
        let (tenant, user) = ids();
        let asked = memory.asking(tenant, user).unwrap();
        memory.apply(Key::Tenant(tenant), 3, None).unwrap();
        put(&memory, 4, asked.entry(Role::Owner));
        assert_eq!(role(&memory), None);
        put(&memory, 5, memory.asking(tenant, user).unwrap().entry(Role::Member));
        assert_eq!(role(&memory), Some(Role::Member));
        memory.apply(Key::Tenant(tenant), 6, None).unwrap();
        assert_eq!(role(&memory), None, "what was known is dropped, too");
        assert_eq!(memory.asking(tenant, user).map(|asked| asked.revision), Some(0), "it is gone from the bucket");
        put(&memory, 7, memory.asking(tenant, user).unwrap().entry(Role::Member));
        memory.apply(Key::Tenant(OTHER.parse().unwrap()), 8, None).unwrap();
        assert_eq!(role(&memory), Some(Role::Member), "another tenant is another");
    }

    #[test]
    fn an_entry_lives_from_when_postgres_was_asked() {
        let memory = memory();
        put(&memory, 3, Entry { at: OffsetDateTime::now_utc() - Duration::from_secs(299), ..entry(2) });
        assert_eq!(role(&memory), Some(Role::Admin));
        put(&memory, 4, Entry { at: OffsetDateTime::now_utc() - Duration::from_secs(300), ..entry(2) });
        assert_eq!(role(&memory), None);
    }

    #[test]
    fn a_value_that_is_no_entry_is_a_drop() {
        let memory = memory();
        put(&memory, 3, entry(2));
        let (tenant, user) = ids();
        assert!(memory.apply(Key::Member(tenant, user), 4, Some(br#"{"role":"emperor"}"#)).is_err());
        assert_eq!((role(&memory), memory.asking(tenant, user).map(|asked| asked.revision)), (None, Some(4)));
    }

    #[test]
    fn another_tenants_entry_is_not_found() {
        let memory = memory();
        put(&memory, 3, entry(2));
        let (_, user) = ids();
        assert_eq!(memory.role(OTHER.parse().unwrap(), user), None);
    }
}
