//! The ledger: one row for each thing that one person is to be told about one event.

use std::collections::{HashMap, HashSet};

use deadpool_postgres::{Pool, Transaction};
use runtime::{
    Failure,
    consume::{Event, judge},
    failpoint,
};
use serde_json::Value;
use subjects::{Actor, Envelope, UserId};
use time::{Duration, OffsetDateTime};
use tokio_postgres::{Error, types::ToSql};
use uuid::Uuid;

use crate::{
    fanout::{self, FanOut},
    link::Links,
    notice::{Audience, Notice, Switch, link_of, notices},
    projection,
    templates::criticality,
};

/// What is older is history to its recipient: it goes into the ledger and not out. Keeps a notifier that is new from mailing the past.
const STALE: Duration = Duration::days(3);

/// What an error of the database means.
pub(crate) fn database(error: Error) -> Failure {
    judge(&error)
}

/// Follows events and writes down who is to be told, all in one transaction. Repeated, it changes nothing. Of what is told to many
/// members, at most a page of `page` is entered here.
///
/// # Errors
/// The database is away, an address is not known yet, or an event's data is not its own.
pub async fn record(pool: &Pool, links: &Links, page: u32, events: &[Event]) -> Result<(), Failure> {
    let mut client = pool.get().await.map_err(Failure::outage)?;
    let transaction = client.transaction().await.map_err(database)?;
    let ledger = Ledger { transaction: &transaction, links, page: i64::from(page) };
    // Events are followed, and what they tell is entered, many at a time; but what was told before something is taken away (an address, a
    // role, a switch) is entered before that is followed.
    let (mut followed, mut entries) = (Vec::new(), Vec::new());
    for event in events.iter().filter(|event| aggregates::registry::event(&event.envelope.event_type).is_some()) {
        let envelope = &event.envelope;
        entries.extend(notices(envelope)?.into_iter().map(|notice| Entry { envelope, notice }));
        if takes_away(envelope) {
            projection::follow_all(&transaction, &std::mem::take(&mut followed)).await?;
            ledger.enter(std::mem::take(&mut entries)).await?;
        }
        followed.push(envelope);
    }
    projection::follow_all(&transaction, &followed).await?;
    ledger.enter(entries).await?;
    failpoint::hit("notifications_before_commit");
    transaction.commit().await.map_err(database)
}

/// Whether somebody is told something else, or nothing, once this is followed.
fn takes_away(envelope: &Envelope) -> bool {
    matches!(envelope.event_type.as_str(), "user.deleted" | "tenant.member_removed" | "tenant.member_role_changed" | "tenant.updated")
}

/// The start of every insertion; what follows selects the columns of `r`.
pub(crate) const ENTER: &str =
    "INSERT INTO notifications.ledger (event_id, effect, recipient, tenant_id, event_type, invitation_id, criticality, address, name, context,
         state, error, ended_at)
     SELECT r.event_id, r.effect, r.recipient, r.tenant_id, r.event_type, r.invitation_id, r.criticality, CASE WHEN NOT r.stale THEN r.address END,
         CASE WHEN NOT r.stale THEN r.name END, CASE WHEN NOT r.stale THEN r.context::json END,
         CASE WHEN r.stale THEN 'undeliverable' ELSE 'pending' END, CASE WHEN r.stale THEN 'too old to be told' END,
         CASE WHEN r.stale THEN now() END
     FROM (";
/// The end of every insertion. In one order for everybody: two replicas wait for each other instead of deadlocking.
pub(crate) const ENTERED_ONCE: &str = ") r ORDER BY r.event_id, r.effect, r.recipient ON CONFLICT DO NOTHING";

/// One notice of one event.
struct Entry<'a> {
    envelope: &'a Envelope,
    notice: Notice,
}

impl Entry<'_> {
    fn stale(&self) -> bool {
        self.envelope.timestamp < OffsetDateTime::now_utc() - STALE
    }

    fn sequence(&self) -> i64 {
        i64::try_from(self.envelope.sequence).unwrap_or(i64::MAX)
    }

    fn key(&self, recipient: String) -> (Uuid, &'static str, String) {
        (self.envelope.id.uuid(), self.notice.effect, recipient)
    }

    fn context(&self) -> String {
        // A map of JSON values is always written.
        serde_json::to_string(&self.notice.context).unwrap_or_default()
    }
}

/// The ledger in a transaction.
struct Ledger<'a> {
    transaction: &'a Transaction<'a>,
    links: &'a Links,
    page: i64,
}

impl Ledger<'_> {
    /// Enters what events tell.
    async fn enter(&self, mut entries: Vec<Entry<'_>>) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        let switches = Switches::read(self.transaction, &entries).await?;
        entries.retain(|entry| switches.are_on(entry));
        self.name_actors(&mut entries).await?;
        let mut single = Vec::new();
        let mut first_owners = Vec::new();
        for entry in entries {
            match entry.notice.audience {
                Audience::Managers | Audience::Everyone => self.fan_out(&entry).await?,
                Audience::FirstOwner => first_owners.push(entry),
                Audience::User(_) | Audience::Member(_) | Audience::Inviter(_) | Audience::Address(..) => single.push(entry),
            }
        }
        self.enter_first_owners(&first_owners).await?;
        self.enter_single(&single).await
    }

    /// Whatever many are told: once an event and effect, so that whoever has become one of them since is not told of the past when the
    /// event comes again.
    async fn fan_out(&self, entry: &Entry<'_>) -> Result<(), Failure> {
        let told = FanOut {
            event: entry.envelope.id.uuid(),
            effect: entry.notice.effect,
            tenant: entry.envelope.tenant_id.uuid(),
            event_type: &entry.envelope.event_type,
            sequence: entry.sequence(),
            managers: entry.notice.audience == Audience::Managers,
            criticality: criticality(entry.notice.effect).name(),
            context: &entry.context(),
            stale: entry.stale(),
        };
        fanout::begin(self.transaction, &told, self.page).await
    }

    /// Whichever of the two events comes second finds the other.
    async fn enter_first_owners(&self, entries: &[Entry<'_>]) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        let tenants: Vec<Uuid> = entries.iter().map(|entry| entry.envelope.tenant_id.uuid()).collect();
        let stale: Vec<bool> = entries.iter().map(Entry::stale).collect();
        let effect = entries[0].notice.effect;
        let statement = format!(
            "{ENTER}SELECT t.created_event AS event_id, $1::text AS effect, 'user_' || m.user_id AS recipient, t.tenant_id,
                 'tenant.created' AS event_type, NULL::uuid AS invitation_id, $2::text AS criticality, m.email AS address, p.full_name AS name,
                 '{{}}' AS context, a.stale
             FROM unnest($3::uuid[], $4::bool[]) AS a (tenant_id, stale) JOIN notifications.tenants t USING (tenant_id)
                 JOIN notifications.members m ON m.tenant_id = t.tenant_id AND m.joined_cause = t.created_cause
                 LEFT JOIN notifications.people p USING (user_id) WHERE m.email IS NOT NULL AND t.created_event IS NOT NULL{ENTERED_ONCE}"
        );
        self.query(&statement, &[&effect, &criticality(effect).name(), &tenants, &stale]).await.map(|_| ())
    }

    /// What one person each is told: all in one statement.
    async fn enter_single(&self, entries: &[Entry<'_>]) -> Result<(), Failure> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut rows = Rows::default();
        for entry in entries {
            rows.push(entry, self.links);
        }
        let statement = format!(
            "{ENTER}SELECT a.event_id, a.effect, a.recipient, a.tenant_id, a.event_type, a.invitation_id, a.criticality, known.address,
                 p.full_name AS name, a.context, a.stale
             FROM unnest($1::uuid[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::uuid[], $7::text[], $8::text[], $9::uuid[], $10::text[],
                     $11::text[], $12::bool[], $13::bigint[])
                     AS a (event_id, effect, recipient, tenant_id, event_type, invitation_id, criticality, way, user_id, address, context, stale, sequence)
                 LEFT JOIN notifications.people p ON p.user_id = a.user_id
                 LEFT JOIN notifications.members m ON m.tenant_id = a.tenant_id AND m.user_id = a.user_id AND m.active_seq < a.sequence
                 CROSS JOIN LATERAL (SELECT CASE a.way WHEN 'address' THEN a.address WHEN 'user' THEN p.email ELSE m.email END AS address) known
             WHERE known.address IS NOT NULL{ENTERED_ONCE} RETURNING event_id, effect, recipient"
        );
        let entered = self.query(&statement, &rows.parameters()).await?;
        let entered: HashSet<(Uuid, String, String)> = entered.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        for entry in entries {
            if let Audience::User(user) | Audience::Member(user) = entry.notice.audience {
                let (event, effect, recipient) = entry.key(user.to_string());
                if !entry.stale() && !entered.contains(&(event, effect.to_owned(), recipient)) {
                    self.must_be_known(entry, user).await?;
                }
            }
        }
        Ok(())
    }

    /// Somebody was not entered: that is in order when they were entered before, are known to be out of reach, or have left meanwhile.
    /// Otherwise the event that tells of them is still on its way.
    async fn must_be_known(&self, entry: &Entry<'_>, user: UserId) -> Result<(), Failure> {
        let (event, effect, recipient) = entry.key(user.to_string());
        let statement = "SELECT FROM notifications.ledger WHERE event_id = $1 AND effect = $2 AND recipient = $3";
        if !self.query(statement, &[&event, &effect, &recipient]).await?.is_empty() {
            return Ok(());
        }
        let known = match entry.notice.audience {
            Audience::Member(_) => "SELECT FROM notifications.members WHERE user_id = $1 AND tenant_id = $2 AND active_seq > 0",
            _ => "SELECT FROM notifications.people WHERE user_id = $1 AND (gone OR email IS NOT NULL) AND $2::uuid IS NOT NULL",
        };
        if self.query(known, &[&user.uuid(), &entry.envelope.tenant_id.uuid()]).await?.is_empty() {
            return Err(Failure::retry("the recipient is not known yet"));
        }
        Ok(())
    }

    /// Replaces the ids of who did something by names that the tenant's members may see.
    async fn name_actors(&self, entries: &mut [Entry<'_>]) -> Result<(), Failure> {
        let actor = |entry: &Entry<'_>| entry.notice.context.get("by")?.as_str()?.parse::<Actor>().ok()?.user();
        let (tenants, users): (Vec<Uuid>, Vec<Uuid>) =
            entries.iter().filter_map(|entry| Some((entry.envelope.tenant_id.uuid(), actor(entry)?.uuid()))).unzip();
        let mut names: HashMap<(Uuid, Uuid), String> = HashMap::new();
        if !users.is_empty() {
            let statement = "SELECT m.tenant_id, m.user_id, p.full_name FROM unnest($1::uuid[], $2::uuid[]) AS a (tenant_id, user_id)
                 JOIN notifications.members m USING (tenant_id, user_id) JOIN notifications.people p USING (user_id) WHERE p.full_name IS NOT NULL";
            let rows = self.query(statement, &[&tenants, &users]).await?;
            names = rows.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        }
        for entry in entries.iter_mut().filter(|entry| entry.notice.context.contains_key("by")) {
            let name = actor(entry).and_then(|user| names.get(&(entry.envelope.tenant_id.uuid(), user.uuid())).cloned());
            entry.notice.context.insert("by".into(), Value::from(name.unwrap_or_else(|| "an administrator".to_owned())));
        }
        Ok(())
    }

    async fn query(&self, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<tokio_postgres::Row>, Failure> {
        query(self.transaction, statement, parameters).await
    }
}

/// Rows for one statement, by column.
#[derive(Default)]
struct Rows<'a> {
    events: Vec<Uuid>,
    effects: Vec<&'static str>,
    recipients: Vec<String>,
    tenants: Vec<Uuid>,
    types: Vec<&'a str>,
    invitations: Vec<Option<Uuid>>,
    criticalities: Vec<&'static str>,
    ways: Vec<&'static str>,
    users: Vec<Option<Uuid>>,
    addresses: Vec<Option<&'a str>>,
    contexts: Vec<String>,
    stale: Vec<bool>,
    sequences: Vec<i64>,
}

impl<'a> Rows<'a> {
    fn push(&mut self, entry: &'a Entry<'_>, links: &Links) {
        let (way, user, address) = match &entry.notice.audience {
            Audience::User(user) => ("user", Some(*user), None),
            Audience::Member(user) | Audience::Inviter(user) => ("member", Some(*user), None),
            Audience::Address(address, user) => ("address", *user, Some(address.as_str())),
            // These are entered by other statements.
            Audience::Managers | Audience::Everyone | Audience::FirstOwner => return,
        };
        self.events.push(entry.envelope.id.uuid());
        self.effects.push(entry.notice.effect);
        self.recipients.push(user.map_or_else(|| links.alias(address.unwrap_or_default()), |user| user.to_string()));
        self.tenants.push(entry.envelope.tenant_id.uuid());
        self.types.push(&entry.envelope.event_type);
        self.invitations.push(link_of(&entry.notice.context).map(|(invitation, _)| invitation.uuid()));
        self.criticalities.push(criticality(entry.notice.effect).name());
        self.ways.push(way);
        self.users.push(user.map(|user| user.uuid()));
        self.addresses.push(address);
        self.contexts.push(entry.context());
        self.stale.push(entry.stale());
        self.sequences.push(entry.sequence());
    }

    fn parameters(&self) -> [&(dyn ToSql + Sync); 13] {
        [
            &self.events,
            &self.effects,
            &self.recipients,
            &self.tenants,
            &self.types,
            &self.invitations,
            &self.criticalities,
            &self.ways,
            &self.users,
            &self.addresses,
            &self.contexts,
            &self.stale,
            &self.sequences,
        ]
    }
}

/// What the tenants of a batch have switched on, of what must be, and since which place in their history.
#[derive(Default)]
struct Switches(HashMap<Uuid, (Option<i64>, Option<i64>)>);

impl Switches {
    async fn read(transaction: &Transaction<'_>, entries: &[Entry<'_>]) -> Result<Self, Failure> {
        let asking = entries.iter().filter(|entry| entry.notice.switch != Switch::Always);
        let tenants: HashSet<Uuid> = asking.map(|entry| entry.envelope.tenant_id.uuid()).collect();
        if tenants.is_empty() {
            return Ok(Self::default());
        }
        let tenants: Vec<Uuid> = tenants.into_iter().collect();
        let select = "SELECT tenant_id, CASE WHEN profile_updated THEN profile_updated_since END,
                 CASE WHEN invitation_expired THEN invitation_expired_since END FROM notifications.switches WHERE tenant_id = ANY ($1)";
        let rows = query(transaction, select, &[&tenants]).await?;
        Ok(Self(rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()))
    }

    fn are_on(&self, entry: &Entry<'_>) -> bool {
        // No row: nothing is on. What happened before it was switched on is not told when it comes again.
        let (profile_updated, invitation_expired) = self.0.get(&entry.envelope.tenant_id.uuid()).copied().unwrap_or_default();
        match entry.notice.switch {
            Switch::Always => true,
            Switch::ProfileUpdated => profile_updated.is_some_and(|since| entry.sequence() > since),
            Switch::InvitationExpired => invitation_expired.is_some_and(|since| entry.sequence() > since),
        }
    }
}

async fn query(transaction: &Transaction<'_>, statement: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<tokio_postgres::Row>, Failure> {
    let statement = transaction.prepare_cached(statement).await.map_err(database)?;
    transaction.query(&statement, parameters).await.map_err(database)
}
