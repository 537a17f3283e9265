//! Whether a program and the database's tables fit each other: looked at before a role begins, and as long as it runs.
//!
//! A program knows the migrations it was built with; the database says in `schema_versions` how far each owner's tables are, and which version
//! a program must know at least to work on them. An expanding migration leaves that as it was, so the release before goes on beside the next
//! one; a contracting one raises it.

use std::time::Duration;

use runtime::{Config, Stop, health, store};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::error::SqlState;

use crate::{migrate, role::Role};

/// The pause between two looks of who may not begin yet.
const PAUSE: Duration = Duration::from_millis(500);
/// How long one look may take: a frozen server must not keep a role from draining.
const LIMIT: Duration = Duration::from_secs(15);
/// How far each owner's tables are.
const VERSIONS: &str = "SELECT owner, version, oldest FROM schema_versions";
/// How often the same trouble is logged again.
const SAY_AGAIN: Duration = Duration::from_secs(30);

/// How far the tables of an owner are, and the oldest version with which programs still work on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Versions {
    pub(crate) version: i32,
    pub(crate) oldest: i32,
}

/// The owners whose tables a role uses. A gateway also reads the view that notifications owns.
fn owners(role: Role) -> Vec<String> {
    let mut owners = vec!["core".to_owned()];
    match role {
        Role::Worker => {}
        Role::Gateway => owners.extend(["gateway".to_owned(), "notifications".to_owned()]),
        Role::Consumer(consumer) => owners.push(consumer.name().replace('-', "_")),
    }
    owners
}

/// The owners whose tables a role uses, with the version it was built for; a consumer may own none.
fn known(role: Role) -> anyhow::Result<Vec<(String, i32)>> {
    let mut known = Vec::new();
    for owner in owners(role) {
        if let Some(versions) = migrate::known(&owner)? {
            known.push((owner, versions.version));
        }
    }
    Ok(known)
}

/// What a look at the database comes to, in a sentence each.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Fits(String),
    /// The database is not migrated yet, which somebody will do.
    Behind(String),
    /// The tables have lost what this program uses: nothing but another program helps.
    TooOld(String),
}

/// Judges what a program knows by what the database says.
fn judge(known: &[(String, i32)], found: &[(String, Versions)]) -> Verdict {
    let of = |owner: &str| found.iter().find(|(name, _)| name == owner).map(|(_, versions)| *versions);
    for (owner, knows) in known {
        if let Some(Versions { oldest, .. }) = of(owner).filter(|found| found.oldest > *knows) {
            return Verdict::TooOld(format!(
                "this program is too old for the database: it knows {owner} {knows}, and only programs that know {owner} {oldest} work on these \
                 tables: start the release that migrated it"
            ));
        }
    }
    for (owner, needs) in known {
        let advice = format!("this program needs {needs}: run `chancery migrate`");
        match of(owner) {
            None => return Verdict::Behind(format!("the database does not say how far {owner} is, {advice}")),
            Some(Versions { version, .. }) if version < *needs => return Verdict::Behind(format!("the database is at {owner} {version}, {advice}")),
            Some(_) => {}
        }
    }
    let versions: Vec<String> = known.iter().filter_map(|(owner, _)| Some(format!("{owner} {}", of(owner)?.version))).collect();
    Verdict::Fits(versions.join(", "))
}

/// How far each owner's tables are, for tools that are not async. Blocking.
///
/// # Errors
/// The table cannot be read; a database that was never migrated has none.
pub(crate) fn versions(client: &mut postgres::Client) -> anyhow::Result<Vec<(String, Versions)>> {
    let rows = client.query(VERSIONS, &[]);
    let rows = rows.map_err(|error| anyhow::anyhow!("cannot look how far the database is: {}", store::describe(&error)))?;
    rows.iter().map(|row| Ok((row.try_get(0)?, Versions { version: row.try_get(1)?, oldest: row.try_get(2)? }))).collect()
}

/// What the database says; nothing where nobody has migrated it so far.
async fn found(config: &Config) -> Result<Vec<(String, Versions)>, String> {
    let client = store::connect(config, "chancery schema", "").await?;
    match client.query(VERSIONS, &[]).await {
        Ok(rows) => Ok(rows.iter().map(|row| (row.get(0), Versions { version: row.get(1), oldest: row.get(2) })).collect()),
        Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => Ok(Vec::new()),
        Err(error) => Err(store::describe(&error)),
    }
}

/// Looks until `stop` is cancelled, and lets the role `begin` as soon as it fits. A gateway needs no database to accept commands, so it begins
/// without one, and finds out when it is there. Gives the reason why the role must end, if there is one.
pub(crate) async fn watch(role: Role, config: Config, stop: Stop, begin: oneshot::Sender<()>) -> anyhow::Result<Option<String>> {
    let known = known(role)?;
    // An address that cannot be read is nothing to wait for.
    store::session(&config, "", "")?;
    let mut begin = Some(begin);
    let mut fitted = false;
    let mut trouble = Trouble::default();
    loop {
        let look = async { timeout(LIMIT, found(&config)).await.unwrap_or_else(|_| Err("no answer".into())) };
        let found = tokio::select! {
            () = stop.cancelled() => return Ok(None),
            found = look => found,
        };
        let (may_begin, pause) = match found.map(|found| judge(&known, &found)) {
            Ok(Verdict::TooOld(why)) => {
                health::set(health::SCHEMA, false, why.as_str());
                return Ok(Some(why));
            }
            Ok(Verdict::Fits(versions)) => {
                health::set(health::SCHEMA, true, versions);
                fitted = true;
                trouble = Trouble::default();
                (true, config.schema_look)
            }
            Ok(Verdict::Behind(why)) => {
                trouble.say(why);
                (false, PAUSE)
            }
            // Whoever has looked once notices by itself that the database is gone.
            Err(_) if fitted => (true, config.schema_look),
            Err(error) => {
                trouble.say(format!("cannot look how far the database is: {error}"));
                (role == Role::Gateway, PAUSE)
            }
        };
        if let Some(begin) = begin.take_if(|_| may_begin) {
            // Nobody waits any more who was asked to end meanwhile.
            let _ = begin.send(());
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = sleep(pause) => {}
        }
    }
}

/// What was said last, so that the same is not said at every look.
#[derive(Default)]
struct Trouble(Option<(String, Instant)>);

impl Trouble {
    fn say(&mut self, why: String) {
        health::set(health::SCHEMA, false, why.as_str());
        if self.0.as_ref().is_none_or(|(last, at)| *last != why || at.elapsed() >= SAY_AGAIN) {
            tracing::warn!("{why}");
            self.0 = Some((why, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::role::Consumer;

    fn judged(version: i32, oldest: i32) -> Verdict {
        let known = [("core".to_owned(), 9), ("audit".to_owned(), 2)];
        let versions = |version, oldest| Versions { version, oldest };
        judge(&known, &[("audit".into(), versions(2, 0)), ("core".into(), versions(version, oldest)), ("other".into(), versions(7, 7))])
    }

    #[test]
    fn a_program_works_on_its_own_tables_and_on_expanded_ones() {
        assert_eq!(judged(9, 0), Verdict::Fits("core 9, audit 2".into()));
        assert_eq!(judged(9, 9), Verdict::Fits("core 9, audit 2".into()));
        assert_eq!(judged(12, 9), Verdict::Fits("core 12, audit 2".into()));
    }

    #[test]
    fn a_program_refuses_tables_that_have_lost_what_it_uses() {
        let Verdict::TooOld(why) = judged(12, 10) else { panic!("it does not refuse") };
        assert!(why.contains("too old") && why.contains("it knows core 9") && why.contains("know core 10"), "{why}");
    }

    #[test]
    fn a_program_waits_for_tables_that_are_not_there_yet() {
        assert_eq!(judged(8, 0), Verdict::Behind("the database is at core 8, this program needs 9: run `chancery migrate`".into()));
        let nothing = judge(&[("core".to_owned(), 9)], &[]);
        assert_eq!(nothing, Verdict::Behind("the database does not say how far core is, this program needs 9: run `chancery migrate`".into()));
    }

    #[test]
    fn who_is_behind_in_one_and_too_old_in_another_is_too_old() {
        let found = |owner: &str, version, oldest| (owner.to_owned(), Versions { version, oldest });
        let verdict = judge(&[("core".into(), 9), ("audit".into(), 2)], &[found("core", 8, 0), found("audit", 3, 3)]);
        assert!(matches!(verdict, Verdict::TooOld(_)), "{verdict:?}");
    }

    #[test]
    fn every_role_looks_at_core_and_at_what_is_its_own() -> anyhow::Result<()> {
        let names = |role| anyhow::Ok(known(role)?.into_iter().map(|(owner, _)| owner).collect::<Vec<_>>());
        assert_eq!(names(Role::Worker)?, ["core"]);
        assert_eq!(names(Role::Gateway)?, ["core", "gateway", "notifications"]);
        assert_eq!(names(Role::Consumer(Consumer::AuthzCache))?, ["core", "authz_cache"]);
        assert_eq!(names(Role::Consumer(Consumer::Logging))?, ["core"]);
        Ok(())
    }
}
