//! A script for each defect: the fault that makes it show, brought about by failpoints and conditions, not by luck. What it does to a
//! program without the defect is what the program is made for.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use nix::sys::signal::Signal;
use runtime::planted::Defect;
use subjects::{Kind, TenantId, stream as names};

use super::stand::{Stand, Wanted, until};
use crate::{
    chaos::{
        check::Breach,
        history::{FaultGuard, FaultSpan, History, Injection},
        load::{Load, LoadOptions, script::Script},
        proxy::Then,
    },
    role::{Consumer, Role},
    servers::nats::Sync,
};

/// How long a client asks for the outcome of one wish. Longer than a takeover, shorter than anybody likes to wait for the stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a defect gets to show what a sound program never does.
const MOMENT: Duration = Duration::from_secs(2);
/// The worker that is armed.
const VICTIM: &str = "worker-2";
/// The audit's process.
const AUDIT: &str = "audit";

/// What a scenario is, in a sentence.
pub(super) fn told(defect: Defect) -> &'static str {
    match defect {
        Defect::PublishBeforeCommit => "a worker is killed before its COMMIT",
        Defect::PipelinedOutbox => "EVENTS is nearly full: it takes a small event and refuses the large one before it, until there is room",
        Defect::NoFence => "a worker freezes before the last message of its publish, past its lease, and goes on when its successor has published",
        Defect::NoCursorCheck => "a worker loses its connection while its COMMIT is under way, and the COMMIT lands later",
        Defect::AckAll => "the audit freezes with events on their way to it, is killed, and starts again",
        Defect::NoInbox => "a command stands in COMMANDS a second time, after another one for the same tenant",
        Defect::OutboxById => "a worker freezes before its COMMIT, within its lease, while another one commits and publishes",
        Defect::SkipUndecodable => "messages that nobody can read stand in COMMANDS and EVENTS",
        Defect::AuditWithoutKey => "the audit is killed after it has written and before it has acknowledged",
        Defect::LazyFsync => "the power of nats-server's machine is cut under load",
    }
}

/// The checker that must convict, and of what.
pub(super) fn judge(defect: Defect) -> (&'static str, Breach) {
    match defect {
        // A message in the stream of which the table knows nothing; an event of the table that the stream does not have.
        Defect::PublishBeforeCommit | Defect::OutboxById | Defect::LazyFsync => ("C4", Breach::Lost),
        Defect::PipelinedOutbox => ("C4", Breach::Disorder),
        Defect::NoFence => ("C4", Breach::Duplicate),
        Defect::NoCursorCheck => ("C1", Breach::Lost),
        Defect::NoInbox => ("C2", Breach::Duplicate),
        Defect::SkipUndecodable => ("C5", Breach::Lost),
        Defect::AckAll => ("C6", Breach::Lost),
        Defect::AuditWithoutKey => ("C6", Breach::Duplicate),
    }
}

/// What a scenario runs on. What belongs to the defect itself (a key of a table, a setting of a server) is there only when it is planted.
pub(super) fn wanted(defect: Defect, planted: bool) -> Wanted {
    let plain = Wanted { workers: 1, consumers: vec![Consumer::Audit], ..Wanted::default() };
    match defect {
        Defect::PublishBeforeCommit | Defect::NoFence => plain,
        Defect::PipelinedOutbox | Defect::NoInbox | Defect::SkipUndecodable | Defect::AckAll => plain,
        // Long enough for a freeze within it; the second worker comes later, so that the first one has partition 0.
        Defect::OutboxById => Wanted { environment: vec![("CHANCERY_LEASE_MS", "20000".into())], ..plain },
        Defect::NoCursorCheck => Wanted { proxied: true, prepare: vec![SLOW_COMMIT], ..plain },
        Defect::AuditWithoutKey => {
            let prepare = if planted { vec!["ALTER TABLE audit_log DROP CONSTRAINT audit_log_pkey"] } else { Vec::new() };
            Wanted { prepare, ..plain }
        }
        Defect::LazyFsync => Wanted { disk: true, sync: if planted { Sync::Default } else { Sync::Always }, ..plain },
    }
}

/// The COMMIT of an event that says so takes two seconds at the server.
const SLOW_COMMIT: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(2); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (new.type = 'invitation.created') EXECUTE FUNCTION slow()";

/// Plays the scenario; afterwards nothing is broken any more, and everything can come to rest.
///
/// # Errors
/// The scenario could not be played: then nothing is proved.
pub(super) async fn play(defect: Defect, stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    match defect {
        Defect::PublishBeforeCommit => killed_before_commit(stand, history).await,
        Defect::PipelinedOutbox => nearly_full(stand, history).await,
        Defect::NoFence => frozen_in_its_publish(stand, history).await,
        Defect::NoCursorCheck => late_commit(stand, history).await,
        Defect::AckAll => events_on_their_way(stand, history).await,
        Defect::NoInbox => command_again(stand, history).await,
        Defect::OutboxById => overtaken_commit(stand, history).await,
        Defect::SkipUndecodable => unreadable(stand, history).await,
        Defect::AuditWithoutKey => killed_before_ack(stand, history).await,
        Defect::LazyFsync => power_cut(stand, history).await,
    }
}

async fn load(stand: &Stand<'_>, history: &History) -> anyhow::Result<Load> {
    let options = LoadOptions { rate_per_second: 60.0, clients: 8, tenants: 8, patience: PATIENCE, ..LoadOptions::default() };
    Load::start(&stand.reach(), history, options).await
}

fn fault(history: &History, kind: &'static str, target: &str, detail: &str) -> FaultGuard {
    history.fault(FaultSpan { index: 0, kind, target: target.into(), detail: detail.into() })
}

/// Waits until so many more events are written.
async fn goes_on(stand: &Stand<'_>, more: i64) -> anyhow::Result<()> {
    let written = "SELECT count(*) FROM events";
    let before = stand.count(written).await?;
    until(&format!("{more} more events"), async || Ok(stand.count(written).await? >= before + more)).await
}

async fn killed_before_commit(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let load = load(stand, history).await?;
    stand.start_role(VICTIM, Role::Worker, &[("CHANCERY_FAILPOINT", "before_commit=abort@20")]).await?;
    let guard = fault(history, "crash point", VICTIM, "before_commit");
    stand.ends(VICTIM).await?;
    stand.start_again(VICTIM, &[("CHANCERY_FAILPOINT", "")]).await?;
    guard.lifted();
    goes_on(stand, 50).await?;
    guard.end();
    load.stop().await
}

async fn nearly_full(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let script = Script::new(&stand.reach(), history, PATIENCE)?;
    let tenant = script.tenant().await?;
    script.rename(&tenant).await?;
    until("EVENTS has it", async || Ok(stand.count("SELECT count(*) FROM partitions WHERE mark_sequence < sequence").await? == 0)).await?;
    let jetstream = stand.jetstream().await?;
    let stream = jetstream.get_stream(names::EVENTS).await?;
    let usual = stream.cached_info().config.clone();
    let mut full = usual.clone();
    // Room for an event of a new name, none for one of eight thousand letters.
    full.max_bytes = i64::try_from(stream.cached_info().state.bytes)? + 4_096;
    jetstream.update_stream(full).await?;
    let guard = fault(history, "stream full", names::EVENTS, "room for 4 KiB");
    let before = stand.last_event().await?;
    script.invite(&tenant, 7_500).await?;
    script.rename(&tenant).await?;
    // A sound outbox stores neither, so there is nothing to wait for but a moment.
    let begin = Instant::now();
    while stand.last_event().await? == before && begin.elapsed() < MOMENT {
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    jetstream.update_stream(usual).await?;
    guard.lifted();
    script.rename(&tenant).await?;
    guard.end();
    Ok(())
}

async fn frozen_in_its_publish(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let load = load(stand, history).await?;
    stand.start_role(VICTIM, Role::Worker, &[("CHANCERY_FAILPOINT", "batch_sent=stop@10")]).await?;
    let guard = fault(history, "freeze", VICTIM, "batch_sent, past the lease");
    stand.says(VICTIM, "failpoint batch_sent: stop").await?;
    let others = "SELECT count(*) FROM partitions p JOIN workers w ON w.id = p.owner WHERE w.name <> 'worker-1'";
    until("the successor owns everything", async || Ok(stand.count(others).await? == 0)).await?;
    // Its fences are set and what the predecessor left is published when it publishes news of its own.
    until("the successor has published everything", async || {
        Ok(stand.count("SELECT count(*) FROM partitions WHERE mark_sequence < sequence").await? < 8)
    })
    .await?;
    goes_on(stand, 50).await?;
    stand.signal(VICTIM, Signal::SIGCONT)?;
    guard.lifted();
    goes_on(stand, 50).await?;
    guard.end();
    load.stop().await
}

async fn late_commit(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let script = Script::new(&stand.reach(), history, PATIENCE)?;
    let tenant = script.tenant().await?;
    let guard = fault(history, "commit unanswered", "worker-1", "the COMMIT lands two seconds later");
    stand.proxy()?.at(b"COMMIT", Then::CutAfter);
    // Where the commands that follow never get an outcome, the checkers say so.
    let _ = script.invite(&tenant, 10).await;
    guard.lifted();
    if script.rename(&tenant).await.is_ok() && script.rename(&tenant).await.is_ok() {
        guard.end();
    }
    anyhow::ensure!(stand.proxy()?.caught() == 1, "no COMMIT was cut off");
    Ok(())
}

async fn events_on_their_way(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let load = load(stand, history).await?;
    goes_on(stand, 50).await?;
    let guard = fault(history, "freeze and kill", AUDIT, "events are on their way to it");
    stand.signal(AUDIT, Signal::SIGSTOP)?;
    goes_on(stand, 50).await?;
    stand.kill9(AUDIT)?;
    stand.start_again(AUDIT, &[]).await?;
    guard.lifted();
    goes_on(stand, 50).await?;
    guard.end();
    load.stop().await
}

async fn command_again(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let script = Script::new(&stand.reach(), history, PATIENCE)?;
    let tenant = script.tenant().await?;
    let first = script.rename(&tenant).await?;
    script.rename(&tenant).await?;
    let jetstream = stand.jetstream().await?;
    let stream = jetstream.get_stream(names::COMMANDS).await?;
    let id = first.command.to_string();
    let last = stream.cached_info().state.last_sequence;
    let mut message = None;
    for sequence in stream.cached_info().state.first_sequence..=last {
        let found = stream.get_raw_message(sequence).await?;
        if String::from_utf8_lossy(&found.payload).contains(&id) {
            message = Some(found);
        }
    }
    let message = message.ok_or_else(|| anyhow::anyhow!("COMMANDS does not have {id}"))?;
    let guard = fault(history, "duplicate", names::COMMANDS, "a command again, beyond any window");
    let ack = jetstream.publish_with_headers(message.subject.to_string(), without_id(&message.headers), message.payload).await?.await?;
    history.injected(Injection { stream: names::COMMANDS.into(), sequence: ack.sequence, poison: false, detail: format!("cmd_{id} again") });
    guard.lifted();
    script.rename(&tenant).await?;
    guard.end();
    Ok(())
}

/// The headers without what the server would know the message by.
fn without_id(headers: &HeaderMap) -> HeaderMap {
    let kept = headers.iter().filter(|(name, _)| !name.to_string().eq_ignore_ascii_case("Nats-Msg-Id"));
    kept.flat_map(|(name, values)| values.iter().map(move |value| (name.clone(), value.clone()))).collect()
}

async fn overtaken_commit(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let load = load(stand, history).await?;
    stand.start_role(VICTIM, Role::Worker, &[("CHANCERY_FAILPOINT", "before_commit=stop@20")]).await?;
    let guard = fault(history, "freeze", VICTIM, "before_commit, within the lease");
    stand.says(VICTIM, "failpoint before_commit: stop").await?;
    let before = stand.last_event().await?;
    until("the other worker publishes", async || Ok(stand.last_event().await? > before + 20)).await?;
    stand.signal(VICTIM, Signal::SIGCONT)?;
    guard.lifted();
    goes_on(stand, 50).await?;
    guard.end();
    load.stop().await
}

async fn unreadable(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let script = Script::new(&stand.reach(), history, PATIENCE)?;
    let tenant = script.tenant().await?;
    script.rename(&tenant).await?;
    let jetstream = stand.jetstream().await?;
    let id = TenantId::new(tenant.id);
    let command = subjects::command(subjects::partition(&id.to_string(), 64), id, Kind::User, "create");
    let guard = fault(history, "poison", "COMMANDS and EVENTS", "a message that is no JSON");
    for (stream, subject) in [(names::COMMANDS, command), (names::EVENTS, subjects::event(id, "user.created"))] {
        let ack = jetstream.publish(subject, "no message at all".into()).await?.await?;
        history.injected(Injection { stream: stream.into(), sequence: ack.sequence, poison: true, detail: "no JSON".into() });
    }
    guard.lifted();
    script.rename(&tenant).await?;
    guard.end();
    Ok(())
}

async fn killed_before_ack(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    stand.kill9(AUDIT)?;
    stand.start_again(AUDIT, &[("CHANCERY_FAILPOINT", "consumer_handled=abort@5")]).await?;
    let load = load(stand, history).await?;
    let guard = fault(history, "crash point", AUDIT, "consumer_handled");
    stand.ends(AUDIT).await?;
    stand.start_again(AUDIT, &[("CHANCERY_FAILPOINT", "")]).await?;
    guard.lifted();
    goes_on(stand, 50).await?;
    guard.end();
    load.stop().await
}

async fn power_cut(stand: &mut Stand<'_>, history: &History) -> anyhow::Result<()> {
    let load = load(stand, history).await?;
    goes_on(stand, 100).await?;
    let guard = fault(history, "power off", "nats-1", "what was not synced is gone");
    stand.power_off()?;
    guard.lifted();
    goes_on(stand, 50).await?;
    guard.end();
    load.stop().await
}
