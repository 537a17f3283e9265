//! The load where nothing fails: every wish comes to a right end, and nothing of the catalogue's mix is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use chancery::{
    chaos::{
        history::{End, History, OpId, Request, What},
        load::{Load, LoadOptions},
        reach::{NatsReach, Parts, Reach},
    },
    role::Consumer,
};
use runtime::config::Secret;

use crate::harness::{Stack, wait_until};

/// Where a test's stack is reached.
pub(super) fn reach(stack: &Stack) -> Reach {
    let (parts, monitor) = stack.parts();
    Reach {
        gateways: stack.gateways(),
        database_url: Secret::new(stack.database_url()),
        nats: NatsReach { urls: stack.config().nats_url, user: None, password: None, ca: None, monitors: vec![("nats".into(), monitor)] },
        token_private_key: Secret::new(stack.private_key()),
        mail: Some(stack.mail_folder()),
        parts: Parts::new(move || parts.clone()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_wish_of_the_load_comes_to_a_right_end_where_nothing_fails() {
    let consumers = [Consumer::Notifications, Consumer::Onboarding, Consumer::Guests, Consumer::Withdrawals, Consumer::AuthzCache];
    let unlimited = ("CHANCERY_PUBLIC_RATE_PER_MINUTE", 1_000_000);
    let stack = Stack::builder().gateways(2).consumers(&consumers).env(unlimited.0, unlimited.1).start().await;
    let history = History::new();
    let options = LoadOptions { rate_per_second: 50.0, clients: 4, tenants: 3, ..LoadOptions::default() };
    let load = Load::start(&reach(&stack), &history, options).await.unwrap();
    wait_until("every kind of wish has been met", async || kinds(&history).len() >= 18).await;
    load.stop().await.unwrap();

    let records = history.records();
    let mut requests: BTreeMap<OpId, Request> = BTreeMap::new();
    let mut open = BTreeSet::new();
    let mut ends: BTreeMap<String, usize> = BTreeMap::new();
    for record in &records {
        match &record.what {
            What::Invoke { op, request, .. } => {
                requests.insert(*op, request.clone());
                open.insert(*op);
            }
            What::End { op, end } => {
                assert!(open.remove(op), "{op:?} ended twice");
                let request = &requests[op];
                let right = match end {
                    End::Succeeded | End::Read => !request.must_refuse,
                    End::Refused { code } => request.refusals.contains(&code.as_str()),
                    End::Failed { .. } | End::Unknown => false,
                };
                assert!(right, "{request:?} ended with {end:?}");
                *ends.entry(format!("{} {end:?}", request.kind)).or_default() += 1;
            }
            What::Stale { detail, .. } => panic!("{detail}"),
            What::Leak { marker, place } => panic!("{marker} in {place}"),
            What::Shed { .. } => panic!("an arrival was shed"),
            _ => {}
        }
    }
    assert!(open.is_empty(), "without an end: {open:?}");
    println!("{ends:#?}");
    let repeats = requests.values().filter(|request| request.repeats.is_some()).count();
    assert!(repeats > 0, "no key was repeated");
    followers_saw_all(&stack, &records).await;
}

/// Followers were sent every event from their first to the last of their tenant, once and in order.
async fn followers_saw_all(stack: &Stack, records: &[std::sync::Arc<chancery::chaos::history::Record>]) {
    let mut seen: BTreeMap<(usize, uuid::Uuid), Vec<u64>> = BTreeMap::new();
    for record in records {
        if let What::Seen { seen: one } = &record.what {
            seen.entry((one.follower, one.tenant)).or_default().push(one.sequence);
        }
    }
    assert_eq!(seen.len(), 3);
    let db = stack.db().await;
    for ((follower, tenant), sequences) in seen {
        let last: i64 = db.query_one("SELECT max(sequence) FROM events WHERE tenant_id = $1", &[&tenant]).await.unwrap().get(0);
        let wanted: Vec<u64> = (sequences[0]..=last.unsigned_abs()).collect();
        assert_eq!(sequences, wanted, "follower {follower}");
    }
}

/// The kinds of wishes that have ended so far.
fn kinds(history: &History) -> BTreeSet<&'static str> {
    let kind = |what: &What| if let What::Invoke { request, .. } = what { Some(request.kind) } else { None };
    history.records().iter().filter_map(|record| kind(&record.what)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_ends_although_nobody_answers_it() {
    let stack = Stack::builder().start().await;
    let history = History::new();
    let options = LoadOptions { rate_per_second: 20.0, clients: 2, tenants: 2, patience: Duration::from_secs(2), ..LoadOptions::default() };
    let load = Load::start(&reach(&stack), &history, options).await.unwrap();
    let gone: std::net::SocketAddr = stack.gateways()[0];
    let mut stack = stack;
    stack.kill9("gateway");
    let before = history.records().len();
    wait_until("wishes that find nobody", async || history.records().len() > before + 20).await;
    load.stop().await.unwrap();
    let records = history.records();
    let unknown = records.iter().filter(|record| matches!(record.what, What::End { end: End::Unknown, .. })).count();
    assert!(unknown > 0, "nobody answers at {gone}, and yet every wish had an end");
}
