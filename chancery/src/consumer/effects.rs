//! `chancery consumer replay --effects`: what the events of a range did outside is done once more, out of the consumer's own ledger. No event is
//! published and no handler runs, so that nothing else can happen twice.
//!
//! The row in the trail and the rows of the ledger are of one transaction, under a number that the operator is told before: whatever is killed,
//! saying it again with that number does what is lacking, which is all or nothing.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use runtime::{failpoint, store};
use subjects::Envelope;
use tokio_postgres::Transaction;

use super::control::{Control, failed};

/// Effects that are sent again by one command.
const EFFECTS: u64 = 100_000;
/// Events that a range may have.
const EVENTS: u64 = 1_000_000;
/// Events that are written into the list at once.
const LIST: usize = 500;

/// What is to be done again.
pub(super) struct Again {
    pub(super) name: String,
    pub(super) who: String,
    /// What of EVENTS it is about.
    pub(super) wanted: Vec<String>,
    pub(super) first: u64,
    pub(super) end: u64,
    /// The number of a replay that was begun before.
    pub(super) replay: Option<i64>,
    /// Whether it is to be done, and not only counted.
    pub(super) yes: bool,
    /// Whether counting was all that was asked for.
    pub(super) dry_run: bool,
}

/// Where a consumer has written down what it does outside.
enum Ledger {
    /// That of the kit, in this schema.
    Kit(String),
    Mails,
}

impl Ledger {
    fn count(&self) -> String {
        match self {
            // The name is PostgreSQL's own, quoted by it.
            Self::Kit(schema) => {
                format!("SELECT effect, state, count(*) FROM {schema}.effects JOIN chosen USING (event_id) GROUP BY 1, 2 ORDER BY 1, 2")
            }
            Self::Mails => "SELECT effect, state, count(*) FROM notifications.ledger JOIN chosen USING (event_id) GROUP BY 1, 2 ORDER BY 1, 2".into(),
        }
    }

    /// Makes what is over due again; returns how much that is.
    async fn arm(&self, transaction: &Transaction<'_>, replay: i64) -> anyhow::Result<u64> {
        match self {
            Self::Kit(schema) => {
                let update = format!(
                    "UPDATE {schema}.effects e SET state = 'pending', replay = $1, tries = 0, doubted = false, due = now(), error = NULL, ended_at = NULL
                     FROM chosen c WHERE c.event_id = e.event_id AND e.state IN ('done', 'failed', 'in_doubt') AND e.replay < $1"
                );
                transaction.execute(&update, &[&replay]).await.map_err(|error| failed(&error))
            }
            Self::Mails => {
                let select = "SELECT body FROM chosen c WHERE EXISTS (SELECT FROM notifications.ledger l WHERE l.event_id = c.event_id
                     AND l.state IN ('sent', 'undeliverable') AND l.replay < $1) ORDER BY place";
                let mut count = 0;
                for row in transaction.query(select, &[&replay]).await.map_err(|error| failed(&error))? {
                    let envelope: Envelope = serde_json::from_str(row.try_get(0)?).context("reading an event")?;
                    let again = notifications::send_again(transaction, replay, &envelope).await;
                    count += again.map_err(anyhow::Error::msg).with_context(|| format!("event {}", envelope.id))?;
                }
                Ok(count)
            }
        }
    }
}

impl Control {
    /// Counts, and does it once more if that is meant.
    pub(super) async fn effects_again(&mut self, again: &Again) -> anyhow::Result<ExitCode> {
        let Again { name, first, end, .. } = again;
        let ledger = self.ledger(name).await?;
        let events = self.choose(again, matches!(ledger, Ledger::Mails)).await?;
        let replay = self.replay_number(again).await?;
        let transaction = self.database.transaction().await.map_err(|error| failed(&error))?;
        println!("{name}: {events} events from {first} up to {end}");
        let mut over = 0;
        for row in transaction.query(&ledger.count(), &[]).await.map_err(|error| failed(&error))? {
            let (effect, state, count): (String, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let is_open = ["pending", "sending"].contains(&state.as_str());
            over += if is_open { 0 } else { count.unsigned_abs() };
            println!("  {effect}  {state}  {count}{}", if is_open { "  (on its way: not meant)" } else { "" });
        }
        if over > EFFECTS {
            bail!("{over} effects are more than the {EFFECTS} that one command sends again; take a smaller range");
        }
        // Before the rest, so that two commands with one number wait for each other here. With it, or not at all.
        let what = format!("{}{events} events", again.what());
        let insert = "INSERT INTO consumer_actions (n, actor, action, consumer, what) OVERRIDING SYSTEM VALUE VALUES ($1, $2, 'replay', $3, $4)
             ON CONFLICT DO NOTHING";
        let is_new = transaction.execute(insert, &[&replay, &again.who, name, &what]).await.map_err(|error| failed(&error))? == 1;
        if !is_new {
            println!("replay {replay} was done before; nothing is sent again");
            return Ok(ExitCode::SUCCESS);
        }
        // Done and taken back where it is only counted: who is out of reach is known by trying.
        let count = ledger.arm(&transaction, replay).await?;
        let left = over.saturating_sub(count);
        let left = if left == 0 { String::new() } else { format!("; {left} are not: out of reach by now, or of a later replay") };
        println!("{count} effects would be sent again as replay {replay}{left}");
        if !again.yes {
            transaction.rollback().await.map_err(|error| failed(&error))?;
            println!("nothing is done");
            if again.dry_run {
                return Ok(ExitCode::SUCCESS);
            }
            println!("if this is meant: chancery consumer replay {name} --from {first} --to {end} --effects --replay {replay} --yes");
            return Ok(ExitCode::FAILURE);
        }
        failpoint::hit("consumer_effects_before_commit");
        transaction.commit().await.map_err(|error| failed(&error)).with_context(|| {
            format!("whether it is done is not known; say it again with `--from {first} --to {end} --effects --replay {replay} --yes`")
        })?;
        failpoint::hit("consumer_effects_committed");
        println!("{count} effects are sent again");
        Ok(ExitCode::SUCCESS)
    }

    /// Where it has written down what it does outside.
    async fn ledger(&self, name: &str) -> anyhow::Result<Ledger> {
        if name == notifications::NAME {
            return Ok(Ledger::Mails);
        }
        // Its schema is its role's, which is made from its name.
        let role = format!("chancery_{}", name.replace('-', "_"));
        let select = "SELECT quote_ident(n.nspname), EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'replay' AND NOT a.attisdropped)
             FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = 'effects' AND c.relkind = 'r'
             WHERE pg_get_userbyid(n.nspowner) = $1
                 AND EXISTS (SELECT FROM pg_class k WHERE k.relnamespace = n.oid AND k.relname = 'kit_migrations')";
        match self.database.query_opt(select, &[&role]).await.map_err(|error| failed(&error))? {
            None => bail!(
                "{name} has no ledger of what it does outside (that of notifications, or of the kit), so nothing can be sent again without doing the rest again"
            ),
            Some(row) if !row.try_get::<_, bool>(1)? => bail!("{name} was built with a kit that does not know replays of effects; release it anew"),
            Some(row) => Ok(Ledger::Kit(row.try_get(0)?)),
        }
    }

    /// Lists the events of the range, in this session alone. Returns how many they are.
    async fn choose(&self, again: &Again, with_body: bool) -> anyhow::Result<u64> {
        let table = "CREATE TEMP TABLE chosen (event_id uuid PRIMARY KEY, place bigint NOT NULL, body text)";
        self.database.batch_execute(table).await.map_err(|error| failed(&error))?;
        let count = self.behind(&again.wanted, again.first - 1).await?.saturating_sub(self.behind(&again.wanted, again.end - 1).await?);
        if count > EVENTS {
            bail!("{count} events are more than the {EVENTS} that one command looks at; take a smaller range");
        }
        if count == 0 {
            return Ok(0);
        }
        let mut reading = self.read(&again.name, again.wanted.clone(), again.first, again.end).await?;
        let (mut ids, mut places, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let mut events = 0;
        loop {
            let next = reading.next().await?;
            let is_over = next.is_none();
            if let Some((place, message)) = next {
                let Ok(envelope) = serde_json::from_slice::<Envelope>(&message.payload) else {
                    bail!("what stands at {place} is no event");
                };
                ids.push(envelope.id.uuid());
                places.push(i64::try_from(place)?);
                bodies.push(with_body.then(|| String::from_utf8_lossy(&message.payload).into_owned()));
            }
            if ids.len() >= LIST || is_over {
                let insert =
                    "INSERT INTO chosen (event_id, place, body) SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::text[]) ON CONFLICT DO NOTHING";
                events += self.database.execute(insert, &[&ids, &places, &bodies]).await.map_err(|error| failed(&error))?;
                ids.clear();
                places.clear();
                bodies.clear();
            }
            if is_over {
                return Ok(events);
            }
        }
    }

    /// The number under which it is sent again: that of its row in the trail, which is not there yet.
    async fn replay_number(&self, again: &Again) -> anyhow::Result<i64> {
        let Some(replay) = again.replay else {
            let next = "SELECT nextval(pg_get_serial_sequence('consumer_actions', 'n'))";
            return Ok(self.database.query_one(next, &[]).await.map_err(|error| failed(&error))?.try_get(0)?);
        };
        let select = "SELECT (SELECT last_value FROM pg_sequences WHERE format('%I.%I', schemaname, sequencename)::regclass
                 = pg_get_serial_sequence('consumer_actions', 'n')::regclass) >= $1, a.consumer, a.what
             FROM (SELECT) AS one LEFT JOIN consumer_actions a ON a.n = $1";
        let row = self.database.query_one(select, &[&replay]).await;
        let row = row.map_err(|error| anyhow::anyhow!("looking for replay {replay}: {}", store::describe(&error)))?;
        if row.try_get::<_, Option<bool>>(0)? != Some(true) || replay < 1 {
            bail!("there is no replay {replay} that could be gone on with");
        }
        let (consumer, what): (Option<String>, Option<String>) = (row.try_get(1)?, row.try_get(2)?);
        if consumer.is_some_and(|consumer| consumer != again.name) || what.is_some_and(|what| !what.starts_with(&again.what())) {
            bail!("{replay} is something else that was done (`chancery consumer history`)");
        }
        Ok(replay)
    }
}

impl Again {
    /// How the trail says it.
    fn what(&self) -> String {
        format!("with effects, from {} up to {}: ", self.first, self.end)
    }
}
