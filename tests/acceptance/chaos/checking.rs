//! A load over a real stack where nothing fails is acquitted; the same with one thing taken out, added or changed is convicted by the checker
//! that is there for it.

use std::time::Duration;

use chancery::{
    chaos::{
        check::{self, Verdict},
        collect::{Watch, collect},
        facts::Facts,
        history::{FaultSpan, History, What},
        load::{Load, LoadOptions},
        report,
    },
    role::Consumer,
};
use uuid::Uuid;

use super::loading::reach;
use crate::harness::{Stack, wait_until};

/// Wishes of the load.
const WISHES: usize = 400;
/// How long everything may take to arrive everywhere.
const LIMIT: Duration = Duration::from_secs(60);
/// The seed, which no verdict depends on.
const SEED: u64 = 11;

/// A stack with every consumer, and a load that went over it.
async fn run() -> (Stack, History, Facts) {
    let stack = Stack::builder().gateways(2).workers(2).consumers(&Consumer::ALL).env("CHANCERY_PUBLIC_RATE_PER_MINUTE", 1_000_000).start().await;
    let (reach, history) = (reach(&stack), History::new());
    let watch = Watch::start(&reach, &history);
    let options = LoadOptions { rate_per_second: 60.0, clients: 4, tenants: 3, seed: SEED, ..LoadOptions::default() };
    let load = Load::start(&reach, &history, options).await.unwrap();
    let ended = || history.records().iter().filter(|record| matches!(record.what, What::End { .. })).count();
    wait_until("the wishes of the load", async || ended() >= WISHES).await;
    load.stop().await.unwrap();
    let facts = collect(&reach, &history, Some(watch), LIMIT).await.unwrap();
    (stack, history, facts)
}

fn judge(history: &History, facts: &Facts) -> Verdict {
    check::verdict(&history.records(), facts, SEED, history.is_full())
}

/// What is done to the facts, by what it is called, and who must name it with which words.
type Lie = (&'static str, fn(&mut Facts), &'static str, &'static str);

/// One lie for every way in which the facts can be wrong.
const LIES: [Lie; 17] = [
    ("an outcome is gone", |facts| facts.commands.retain(|row| row.id != facts.events[20].command), "C2", "no outcome"),
    ("an event is gone", |facts| _ = facts.events.remove(facts.events.len() / 2), "C3", "gap"),
    ("an event is there twice", |facts| facts.events.push(facts.events[7].clone()), "C3", "twice"),
    ("a state was forgotten", |facts| facts.aggregates[0].version -= 1, "C3", "version is not that of its last event"),
    ("a message is gone", |facts| _ = facts.stream.remove(facts.stream.len() / 2), "C4", "not in the stream"),
    ("the last message is gone", |facts| _ = facts.stream.pop(), "C4", "not in the stream"),
    ("a message is there twice", |facts| facts.stream.push(facts.stream[3].clone()), "C4", "twice"),
    ("two messages of a tenant changed places", swap_of_one_tenant, "C4", "another order"),
    ("a message of no transaction", |facts| facts.stream[5].id = Some(Uuid::from_u128(5)), "C4", "the table lacks"),
    ("a log line is missing", |facts| forget(facts, "logging"), "C4", "did not take effect"),
    ("a consumer is behind", |facts| facts.consumers.iter_mut().find(|row| row.last > 0).unwrap().position -= 1, "C5", "reach the end"),
    ("an audit row is gone", |facts| _ = facts.audit.remove(9), "C6", "not in the audit"),
    ("an audit row is there twice", |facts| facts.audit.push(facts.audit[9].clone()), "C6", "twice"),
    ("a mail is gone", |facts| facts.mails.as_mut().unwrap().missing.push(Uuid::nil()), "C7", "left is not there"),
    ("a name in a log", |facts| facts.leaks.push(("cnry".into(), "a log".into())), "C9", "personal"),
    ("a refused command succeeded", succeed, "C12", "otherwise than the table"),
    ("a stream has a hole", |facts| facts.replicas[0].deleted = 1, "C13", "holes"),
];

fn swap_of_one_tenant(facts: &mut Facts) {
    let tenant = facts.stream[0].tenant;
    let places: Vec<usize> = (0..facts.stream.len()).filter(|place| facts.stream[*place].tenant == tenant).collect();
    facts.stream.swap(places[1], places[2]);
}

fn forget(facts: &mut Facts, consumer: &str) {
    let consumer = facts.consumers.iter_mut().find(|row| row.name == consumer).unwrap();
    consumer.effects.as_mut().unwrap().pop_first();
}

fn succeed(facts: &mut Facts) {
    facts.commands.iter_mut().filter(|row| row.status == "refused").for_each(|row| row.status = "succeeded".into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_over_a_sound_stack_is_acquitted_and_every_lie_about_it_is_named_by_its_checker() {
    let (stack, history, facts) = run().await;
    let verdict = judge(&history, &facts);
    assert!(verdict.acquits(), "{:#?}\n{:?}", verdict.findings, facts.unquiet);
    // Nothing is acquitted because nothing was looked at.
    assert!(facts.events.len() > 200 && facts.stream.len() == facts.events.len() && facts.audit.len() == facts.events.len());
    assert_eq!(facts.consumers.len(), Consumer::ALL.len());
    assert_eq!(facts.consumers.iter().filter(|consumer| consumer.effects.is_some()).count(), 2);
    assert!(facts.mails.as_ref().unwrap().sent > 0 && facts.replicas.len() >= 4 && !facts.resources.is_empty());
    assert!(verdict.accepted > 200, "{}", verdict.accepted);

    for (lie, tell, checker, words) in LIES {
        let mut facts = facts.clone();
        tell(&mut facts);
        let findings = judge(&history, &facts).findings;
        let named = findings.iter().any(|finding| finding.checker == checker && finding.what.contains(words));
        assert!(named, "{lie}: {checker} does not say {words:?}: {findings:#?}");
    }
    rows_that_are_really_removed_are_found(&stack, &history).await;
}

/// The same with rows that are gone from the database itself.
async fn rows_that_are_really_removed_are_found(stack: &Stack, history: &History) {
    let db = stack.db().await;
    let again = async || judge(history, &collect(&reach(stack), history, None, LIMIT).await.unwrap());
    let convicts = |verdict: &Verdict, by: &str| assert!(verdict.convicted_by().contains(&by), "{by} is not among {:?}", verdict.convicted_by());

    const AUDIT: &str = "ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only;
        CREATE TABLE taken AS SELECT * FROM audit_log WHERE n = 2 LIMIT 1; DELETE FROM audit_log a USING taken t WHERE a.event_id = t.event_id";
    db.batch_execute(AUDIT).await.unwrap();
    let verdict = again().await;
    assert!(verdict.lost > 0 && verdict.disorder > 0, "{verdict:#?}");
    convicts(&verdict, "C6");
    db.batch_execute("INSERT INTO audit_log SELECT * FROM taken").await.unwrap();
    assert!(again().await.acquits());

    db.batch_execute("DELETE FROM events WHERE id = (SELECT id FROM events WHERE type = 'user.created' LIMIT 1)").await.unwrap();
    let verdict = again().await;
    for checker in ["C1", "C3", "C4", "C6"] {
        convicts(&verdict, checker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_through_crashes_of_everything_is_acquitted_and_leaves_a_report() {
    let unlimited = ("CHANCERY_PUBLIC_RATE_PER_MINUTE", 1_000_000);
    let builder = Stack::builder().gateways(2).workers(2).consumers(&Consumer::ALL).own_postgres();
    let mut stack = builder.env(unlimited.0, unlimited.1).start().await;
    let (reach, folder) = (reach(&stack), crate::harness::fresh_folder("chaos"));
    std::fs::create_dir_all(&folder).unwrap();
    let history = History::to_file(&folder.join(report::HISTORY)).unwrap();
    let options = LoadOptions { rate_per_second: 30.0, clients: 8, tenants: 3, seed: SEED, ..LoadOptions::default() };
    let load = Load::start(&reach, &history, options).await.unwrap();
    let ends = |history: &History| history.records().iter().filter(|record| matches!(record.what, What::End { .. })).count();
    let goes_on = async |history: &History, more: usize| {
        let wanted = ends(history) + more;
        wait_until("the load goes on", async || ends(history) >= wanted).await;
    };
    history.phase("chaos");
    goes_on(&history, 50).await;
    for (index, name) in ["worker-1", "gateway", "audit", "notifications", "worker-2", "guests"].into_iter().enumerate() {
        let fault = history.fault(FaultSpan { index, kind: "kill", target: name.into(), detail: String::new() });
        stack.kill9(name);
        goes_on(&history, 10).await;
        stack.start_again(name, &[]);
        fault.lifted();
        goes_on(&history, 30).await;
        fault.end();
    }
    let fault = history.fault(FaultSpan { index: 6, kind: "kill_nats", target: "nats".into(), detail: String::new() });
    stack.kill_nats();
    stack.restart_nats();
    goes_on(&history, 50).await;
    fault.end();
    let fault = history.fault(FaultSpan { index: 7, kind: "kill_postgres", target: "postgres".into(), detail: String::new() });
    stack.kill_postgres();
    stack.restart_postgres();
    goes_on(&history, 50).await;
    fault.end();
    history.phase("drain");
    load.stop().await.unwrap();

    let facts = collect(&reach, &history, None, LIMIT).await.unwrap();
    let verdict = judge(&history, &facts);
    history.flush().unwrap();
    report::write(&folder, &history.records(), &facts, &verdict, "an acceptance test").unwrap();
    let text = std::fs::read_to_string(folder.join(report::REPORT)).unwrap();
    assert!(verdict.acquits(), "{text}");
    assert_eq!((verdict.faults, verdict.recovery["kill"].len()), (8, 6));
    let lines = std::fs::read_to_string(folder.join(report::HISTORY)).unwrap().lines().count();
    assert_eq!(lines, history.records().len());
    std::fs::remove_dir_all(&folder).unwrap();
}
