//! A consumer's own schema in PostgreSQL: its tables, and what the kit keeps beside them.

use std::time::Duration;

use anyhow::Context as _;
use postgres::NoTls;
use refinery::{Migration, Runner};
use runtime::{Config, Stop, health, store};

/// Ids of the events that took effect, and what is to happen outside. Never changed once released: another version is one more text.
const OURS: &[(&str, &str)] = &[
    (
        "0001_kit",
        "CREATE TABLE handled (event_id uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT now());
     CREATE TABLE effects (
         n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
         event_id uuid NOT NULL,
         effect text NOT NULL,
         aggregate text NOT NULL,
         payload jsonb NOT NULL,
         state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'sending', 'done', 'failed', 'in_doubt')),
         tries integer NOT NULL DEFAULT 0,
         doubted boolean NOT NULL DEFAULT false,
         due timestamptz NOT NULL DEFAULT now(),
         error text,
         made_at timestamptz NOT NULL DEFAULT now(),
         ended_at timestamptz,
         UNIQUE (event_id, effect)
     );
     CREATE INDEX effects_open ON effects (aggregate, n) WHERE state IN ('pending', 'sending');
     CREATE INDEX effects_due ON effects (due) WHERE state IN ('pending', 'sending');",
    ),
    // Which replay an effect was sent again for; 0 for its first time.
    ("0002_replays", "ALTER TABLE effects ADD COLUMN replay bigint NOT NULL DEFAULT 0"),
];
/// The first key of the advisory lock that lets one replica migrate a schema at a time.
const LOCK: i32 = 0x6b69_7400;
/// The longest pause between two tries to reach a database that is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The schema that the manifest gives a consumer, as its program knows it.
#[derive(Debug, Clone, Copy)]
pub struct Schema {
    /// Its name, as in the manifest.
    pub name: &'static str,
    /// What makes its tables: `NNNN_what` and SQL, applied once each, in this order, before the first event. They run with this schema as their search
    /// path. What is released is never changed; replicas of the version before go on working meanwhile, so let each only add.
    pub migrations: &'static [(&'static str, &'static str)],
}

impl Schema {
    /// Refuses what cannot be the name of a schema, or SQL without a number. Names go into statements as they are.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let is_name = |text: &str| {
            text.starts_with(|c: char| c.is_ascii_lowercase()) && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        };
        anyhow::ensure!(is_name(self.name) && self.name.len() <= 63, "{:?} is no name of a schema: small letters, digits and underscores", self.name);
        migrations(self.migrations).map(|_| ())
    }

    /// Applies what is not applied yet, and waits for a database that is away. Returns early when `stop` is cancelled.
    ///
    /// # Errors
    /// The SQL of a migration is wrong, or one that was applied has been changed.
    pub(crate) async fn prepare(self, config: &Config, stop: &Stop) -> anyhow::Result<()> {
        let mut pause = Duration::from_millis(100);
        loop {
            let of = config.clone();
            match tokio::task::spawn_blocking(move || self.migrate(&of)).await? {
                Ok(()) => {
                    health::set(health::SCHEMA, true, self.name);
                    return Ok(());
                }
                Err(Trouble::Wrong(error)) => return Err(error),
                Err(Trouble::Away(error)) => {
                    let error = format!("{error:#}");
                    tracing::warn!(schema = self.name, error, "the schema cannot be looked at yet");
                    health::set(health::SCHEMA, false, error);
                }
            }
            tokio::select! { () = stop.cancelled() => return Ok(()), () = tokio::time::sleep(pause) => {} }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn migrate(self, config: &Config) -> Result<(), Trouble> {
        let away = |error: postgres::Error| Trouble::Away(anyhow::anyhow!(store::describe(&error)));
        let mut session: postgres::Config = config.database_url.expose().parse().context("DATABASE_URL").map_err(Trouble::Wrong)?;
        session.application_name(&format!("{} migrations", self.name)).connect_timeout(Duration::from_secs(5)).options("-c lock_timeout=60s");
        let mut client = session.connect(NoTls).map_err(away)?;
        let there = client.query_one("SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)", &[&self.name]).map_err(away)?;
        if !there.get::<_, bool>(0) {
            return Err(Trouble::Away(anyhow::anyhow!(
                "there is no schema {}: is the consumer in the manifest, and `chancery provision apply` done?",
                self.name
            )));
        }
        client.execute("SELECT pg_advisory_lock($1, hashtext($2))", &[&LOCK, &self.name]).map_err(away)?;
        client.batch_execute(&format!("SET search_path = {}", self.name)).map_err(away)?;
        for (history, texts) in [("kit_migrations", OURS), ("migrations", self.migrations)] {
            let mut runner = Runner::new(&migrations(texts).map_err(Trouble::Wrong)?).set_abort_missing(false);
            runner.set_migration_table_name(history);
            let done = runner.run(&mut client).map_err(|error| {
                let error = anyhow::Error::new(error).context(format!("the migrations of {}", self.name));
                if client.is_closed() { Trouble::Away(error) } else { Trouble::Wrong(error) }
            })?;
            for one in done.applied_migrations() {
                tracing::info!(schema = self.name, migration = %one, "migrated");
            }
        }
        Ok(())
    }
}

/// Why a schema is not as it should be.
enum Trouble {
    /// Which may pass.
    Away(anyhow::Error),
    /// Which does not.
    Wrong(anyhow::Error),
}

/// As the library wants them.
fn migrations(texts: &[(&str, &str)]) -> anyhow::Result<Vec<Migration>> {
    let mut before = 0;
    let one = |(name, sql): &(&str, &str)| {
        let (number, what) = name.split_once('_').with_context(|| format!("{name:?} is no NNNN_what"))?;
        let number: i32 = number.parse().with_context(|| format!("{name:?} begins with no number"))?;
        anyhow::ensure!(number > before, "{name:?} stands behind a migration that it should precede");
        before = number;
        Migration::unapplied(&format!("V{number}__{what}"), sql).with_context(|| format!("migration {name:?}"))
    };
    texts.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(name: &'static str, migrations: &'static [(&'static str, &'static str)]) -> Option<String> {
        Schema { name, migrations }.check().err().map(|error| error.to_string())
    }

    #[test]
    fn a_schema_is_refused_whose_name_would_be_sql() {
        assert_eq!(refusal("seats_2", &[]), None);
        assert!(refusal("Seats", &[]).is_some());
        assert!(refusal("a; DROP", &[]).is_some());
    }

    #[test]
    fn migrations_have_rising_numbers() {
        assert_eq!(refusal("seats", &[("0001_one", "SELECT 1"), ("0002_two", "SELECT 2")]), None);
        assert_eq!(
            refusal("seats", &[("0002_two", ""), ("0001_one", "")]),
            Some("\"0001_one\" stands behind a migration that it should precede".into())
        );
        assert_eq!(refusal("seats", &[("one", "")]), Some("\"one\" is no NNNN_what".into()));
    }
}
