//! A batch: read, decided in memory, and turned into what one transaction writes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
};

use aggregates::{About, Answer, Claim, ClaimChange, Decision, Holder, Key, Needs, Surroundings, World, decide};
use subjects::{CommandId, Outcome, OutcomeEvent, Status, TenantId, timestamp};
use time::OffsetDateTime;

use super::{
    event::{self, Place},
    parse::{Dead, Parsed, Readable},
    reader::Incoming,
    traces::Traces,
};
use crate::store::{
    commit::{OutcomeRow, StateRow, Step, TenantRow, Writes},
    lease::Mark,
    load::{TenantHead, Wanted},
};
use crate::{failpoint, planted};

/// A message and the partition it was read from.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) partition: u16,
    pub(crate) incoming: Incoming,
    pub(crate) parsed: Parsed,
    /// Set when it may not be decided: it killed the process, or the database refuses what follows from it.
    pub(crate) condemned: Option<String>,
}

/// Where an owned partition stands before the batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Position {
    pub(crate) epoch: i64,
    pub(crate) cursor: u64,
    pub(crate) sequence: u64,
    pub(crate) mark: Mark,
}

/// What a batch leads to.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) writes: Writes,
    /// Outcomes as JSON by the inbox that waits for them.
    pub(crate) replies: HashMap<String, Vec<String>>,
}

/// What is known between batches, and changes only with a commit (or is forgotten).
#[derive(Debug, Default)]
pub(crate) struct Known {
    pub(crate) world: World,
    pub(crate) heads: HashMap<TenantId, TenantHead>,
    /// Batches for which the inbox is still asked about every command, see [`Known::doubt`].
    doubt: u32,
}

/// Batches that ask the inbox about every command after one that met a command decided before.
const DOUBT: u32 = 256;

impl Known {
    /// Something in the table contradicts what was taken for new. A command with a key may come again at any time and is always looked
    /// up; any other has a fresh id, comes again only after trouble, and is refused by the table if it does. From now on, for a while,
    /// all are looked up.
    pub(crate) fn doubt(&mut self) {
        self.doubt = DOUBT;
    }

    /// Forgets everything that was read: the next batch reads committed state again.
    pub(crate) fn forget(&mut self) {
        self.world.states.clear();
        self.world.rosters.clear();
        self.world.claims.clear();
        self.world.naming.clear();
        self.heads.clear();
    }

    /// Keeps within a limit, and forgets claims: other tenants' owners change them too.
    pub(crate) fn trim(&mut self, limit: u64) {
        self.world.claims.clear();
        if (self.world.states.len() + self.world.naming.len()) as u64 > limit {
            self.forget();
        }
    }

    /// What a batch has to ask the database for, and what can be asked only when that is known.
    pub(crate) fn wanted(&mut self, items: &[Item], now: OffsetDateTime) -> (Wanted, Vec<Needs>) {
        let mut wanted = Wanted::default();
        self.doubt = self.doubt.saturating_sub(1);
        let mut following = Vec::new();
        for item in items {
            match &item.parsed {
                Parsed::Command(readable) => {
                    if (readable.message.keyed || self.doubt > 0) && !planted!(NoInbox) {
                        wanted.commands.push(readable.message.id.uuid());
                    }
                    if item.condemned.is_some() {
                        // It is written off unread: what it needs may be what cannot be read.
                        continue;
                    }
                    if !self.heads.contains_key(&readable.message.tenant_id) {
                        wanted.tenants.insert(readable.message.tenant_id);
                    }
                    let needs = readable.command.needs(&about(readable, now));
                    wanted.states.extend(needs.states.iter().filter(|key| !self.world.states.contains_key(key)));
                    wanted.claims.extend(needs.claims.iter().cloned());
                    wanted.naming.extend(needs.naming.iter().filter(|named| !self.world.naming.contains_key(named)));
                    if !needs.follow.is_empty() {
                        following.push(needs);
                    }
                }
                Parsed::Dead(dead) => wanted.commands.extend(dead_id(dead).map(|id| id.uuid())),
                Parsed::Unknown(_) => {}
            }
        }
        (wanted, following)
    }
}

pub(super) fn dead_id(dead: &Dead) -> Option<CommandId> {
    dead.message.as_ref().map(|message| message.id).or(dead.command)
}

fn about(readable: &Readable, now: OffsetDateTime) -> About {
    let message = &readable.message;
    About {
        tenant: message.tenant_id,
        target: readable.target,
        command: message.id,
        actor: message.actor,
        authority: message.authority,
        if_match: message.if_match,
        now,
    }
}

/// Why a command cannot be decided at all.
#[derive(Debug, thiserror::Error)]
enum Undecidable {
    #[error("the decision asked for something it did not declare")]
    Undeclared,
    #[error("the decision panicked")]
    Panicked,
}

/// Decides a batch against what is known and applies it there; the caller forgets it if the commit fails.
pub(crate) struct Decider<'a> {
    known: &'a mut Known,
    pub(super) outcomes: HashMap<CommandId, String>,
    positions: BTreeMap<u16, Position>,
    claims_before: HashMap<Claim, Option<Holder>>,
    touched: BTreeSet<Key>,
    /// Tenants whose roster has to be written.
    rosters: HashSet<TenantId>,
    pub(super) batch: Batch,
    pub(super) traces: &'a Traces,
    now: OffsetDateTime,
}

impl<'a> Decider<'a> {
    pub(crate) fn new(
        known: &'a mut Known,
        outcomes: HashMap<CommandId, String>,
        positions: BTreeMap<u16, Position>,
        traces: &'a Traces,
        now: OffsetDateTime,
    ) -> Self {
        Self {
            known,
            outcomes,
            positions,
            claims_before: HashMap::new(),
            touched: BTreeSet::new(),
            rosters: HashSet::new(),
            batch: Batch::default(),
            traces,
            now: timestamp::to_millis(now),
        }
    }

    /// Decides in order and sums it up. Returns how many items are in it: an item whose claims lead somewhere else since an earlier one
    /// of this batch starts the next batch.
    pub(crate) fn run(mut self, items: &[Item], partitions: u16) -> serde_json::Result<(Batch, usize)> {
        let before = self.positions.clone();
        let mut cursors: BTreeMap<u16, u64> = BTreeMap::new();
        let mut count = 0;
        for item in items {
            if self.item(item, count == 0)?.is_break() {
                break;
            }
            count += 1;
            cursors.insert(item.partition, item.incoming.sequence);
        }
        for (partition, cursor) in cursors {
            let (Some(old), Some(new)) = (before.get(&partition), self.positions.get(&partition)) else { continue };
            self.batch.writes.steps.push(Step { partition, epoch: old.epoch, expected: old.cursor, cursor, sequence: new.sequence, mark: old.mark });
        }
        self.sum_up(partitions)?;
        Ok((self.batch, count))
    }

    fn item(&mut self, item: &Item, first: bool) -> serde_json::Result<ControlFlow<()>> {
        match (&item.parsed, &item.condemned) {
            (Parsed::Command(readable), None) => {
                if let Some(outcome) = self.outcomes.get(&readable.message.id) {
                    reply(&mut self.batch.replies, readable.reply.as_ref(), outcome);
                    self.traces.decided(item, "repeated", None);
                    return Ok(ControlFlow::Continue(()));
                }
                let message = &readable.message;
                match self.decide(item, readable)? {
                    Ok(()) => Ok(()),
                    Err(Undecidable::Undeclared) if !first => {
                        self.traces.decided(item, "postponed", None);
                        return Ok(ControlFlow::Break(()));
                    }
                    Err(error) => self.fail(item, Some(message), message.id, message.tenant_id, &readable.reply, "poison", &error.to_string()),
                }
            }
            (Parsed::Command(readable), Some(error)) => {
                let message = &readable.message;
                self.fail(item, Some(message), message.id, message.tenant_id, &readable.reply, "condemned", error)
            }
            (Parsed::Dead(dead), _) if planted!(SkipUndecodable) && dead.reason == "undecodable" => Ok(()),
            (Parsed::Dead(dead), _) => match (dead_id(dead), dead.message.as_ref().map(|message| message.tenant_id).or(dead.tenant)) {
                (Some(id), Some(tenant)) => self.fail(item, dead.message.as_deref(), id, tenant, &dead.reply, dead.reason, &dead.error),
                _ => self.dead_letter(item, dead.reason, &dead.error),
            },
            // The batch loop never hands these over; were one to come, passing it would lose it.
            (Parsed::Unknown(command_type), _) => self.dead_letter(item, "unknown", command_type),
        }
        .map(ControlFlow::Continue)
    }

    /// Decides one command. The inner error says why it cannot be decided at all.
    fn decide(&mut self, item: &Item, readable: &Readable) -> serde_json::Result<Result<(), Undecidable>> {
        let partition = item.partition;
        let message = &readable.message;
        let tenant = message.tenant_id;
        let Some(mut head) = self.known.heads.get(&tenant).copied() else { return Ok(Err(Undecidable::Undeclared)) };
        let about = about(readable, self.now.max(head.last_event_at));
        let world = &self.known.world;
        // A panic in a decision is a defect of that decision; its neighbours are decided.
        if failpoint::armed() {
            failpoint::hit(&format!("decide.{}", message.command_type));
        }
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let surroundings = Surroundings::new(world, tenant);
            let decision = decide(&readable.command, &surroundings, &about);
            (decision, surroundings.asked_for_undeclared())
        }));
        let decision = match decided {
            Ok((_, true)) => return Ok(Err(Undecidable::Undeclared)),
            Ok((decision, false)) => decision,
            Err(_) => return Ok(Err(Undecidable::Panicked)),
        };
        let Some(mut position) = self.positions.get(&partition).copied() else { return Ok(Err(Undecidable::Undeclared)) };
        let mut events = Vec::with_capacity(decision.events.len());
        let meta = self.traces.meta(item).or(readable.meta.as_deref());
        for emitted in &decision.events {
            for change in self.known.world.claim_changes(tenant, emitted) {
                // What is released without having been asked for (the address in a state) is held by the one who releases it.
                let held = matches!(change, ClaimChange::Release(_)).then_some(Holder { tenant, id: emitted.id });
                let claim = change.claim();
                let before = self.known.world.claims.get(claim).copied().unwrap_or(held);
                self.claims_before.entry(claim.clone()).or_insert(before);
            }
            let applied = self.known.world.apply(tenant, emitted, about.now);
            // Also at a tenant's first event: its row tells that it exists.
            if applied.roster_changed || head.sequence == 0 {
                self.rosters.insert(tenant);
            }
            if emitted.event.changes_state() {
                self.touched.insert(Key { tenant, kind: emitted.event.kind(), id: emitted.id });
            }
            position.sequence += 1;
            head.sequence += 1;
            head.last_event_at = about.now;
            let place = Place {
                partition,
                partition_sequence: position.sequence,
                sequence: head.sequence,
                aggregate_version: applied.version,
                at: about.now,
            };
            let row = event::row(emitted, message, place, meta.map(str::to_owned))?;
            events.push(OutcomeEvent { id: subjects::EventId::new(row.id), event_type: row.event_type.clone() });
            self.batch.writes.events.push(row);
        }
        self.known.heads.insert(tenant, head);
        self.positions.insert(partition, position);
        match decision.answer {
            Answer::Done => self.traces.decided(item, "succeeded", None),
            Answer::Refused(reason) => self.traces.decided(item, "refused", Some(reason.code())),
        }
        let outcome = self.outcome(readable, &decision, head.sequence, events);
        self.conclude(outcome, message.keyed, readable.reply.as_ref())?;
        Ok(Ok(()))
    }

    fn outcome(&self, readable: &Readable, decision: &Decision, sequence: u64, events: Vec<OutcomeEvent>) -> Outcome {
        let message = &readable.message;
        let version = Surroundings::new(&self.known.world, message.tenant_id).version(readable.command.kind(), readable.target);
        let (status, code) = match decision.answer {
            Answer::Done => (Status::Succeeded, None),
            Answer::Refused(reason) => (Status::Refused, Some(reason.code().to_owned())),
        };
        Outcome {
            command_id: message.id,
            command: message.command_type.clone(),
            tenant_id: message.tenant_id,
            aggregate_id: message.aggregate_id.clone(),
            status,
            code,
            version: (version > 0).then_some(version),
            sequence: (sequence > 0).then_some(sequence),
            events,
            fingerprint: message.fingerprint.clone(),
            actor: message.actor,
            accepted_at: message.accepted_at(),
        }
    }

    pub(super) fn conclude(&mut self, outcome: Outcome, keyed: bool, reply_to: Option<&String>) -> serde_json::Result<()> {
        let text = serde_json::to_string(&outcome)?;
        reply(&mut self.batch.replies, reply_to, &text);
        self.outcomes.insert(outcome.command_id, text.clone());
        self.batch.writes.outcomes.push(OutcomeRow {
            command: outcome.command_id.uuid(),
            tenant: outcome.tenant_id,
            actor: outcome.actor.to_string(),
            keyed,
            outcome: text,
        });
        Ok(())
    }

    fn sum_up(&mut self, partitions: u16) -> serde_json::Result<()> {
        let writes = &mut self.batch.writes;
        let world = &self.known.world;
        for key in &self.touched {
            let Some(versioned) = world.states.get(key).and_then(Option::as_ref) else { continue };
            writes.states.push(StateRow {
                key: *key,
                version: versioned.version,
                state: serde_json::to_string(&versioned.state)?,
                due_at: versioned.state.deadline().map(|(at, _)| at),
                created_at: versioned.created_at,
                updated_at: self.now,
            });
        }
        for tenant in &self.rosters {
            let Some(head) = self.known.heads.get(tenant) else { continue };
            writes.tenants.push(TenantRow {
                tenant: *tenant,
                partition: subjects::partition(&tenant.to_string(), partitions),
                sequence: head.sequence,
                last_event_at: head.last_event_at,
                roster: serde_json::to_string(&world.rosters.get(tenant).cloned().unwrap_or_default())?,
            });
        }
        for (claim, before) in self.claims_before.drain() {
            let after = world.claims.get(&claim).copied().flatten();
            if before == after {
                continue;
            }
            if before.is_some() {
                writes.released.push(claim.clone());
            }
            if let Some(holder) = after {
                writes.taken.push((claim, holder));
            }
        }
        // One order for everybody: two batches that want the same claims wait for each other instead of deadlocking.
        writes.released.sort();
        writes.taken.sort_by(|(left, _), (right, _)| left.cmp(right));
        Ok(())
    }
}

pub(super) fn reply(replies: &mut HashMap<String, Vec<String>>, inbox: Option<&String>, outcome: &str) {
    if let Some(inbox) = inbox {
        replies.entry(inbox.clone()).or_default().push(outcome.to_owned());
    }
}
