use time::OffsetDateTime;

use super::*;
use crate::overview::{Owner, Partitions};

fn level(finding: &Finding) -> Level {
    finding.level
}

fn asking(name: &'static str) -> ConsumerState {
    ConsumerState {
        name,
        team: "Team <team@example.org>".into(),
        is_ours: true,
        is_ordered: false,
        exists: true,
        is_asking: true,
        pending: 0,
        unanswered: 0,
        redelivered: 0,
        oldest_seconds: None,
        handled: 7,
        paused_seconds: None,
        dead_letters: 0,
    }
}

fn stream_of(name: &str) -> StreamState {
    StreamState::sample(name)
}

fn sound() -> Overview {
    Overview {
        at: OffsetDateTime::UNIX_EPOCH,
        partitions: Partitions {
            total: 64,
            without_owner: 0,
            events: 5,
            owners: vec![Owner { name: "worker-1".into(), partitions: 64, lease_seconds: 3.0 }],
        },
        undecided: Waiting::default(),
        unpublished: Waiting::default(),
        streams: vec![stream_of("COMMANDS"), stream_of("EVENTS")],
        consumers: vec![asking("audit"), asking("logging")],
        dead_letters: 0,
        advisories: 0,
    }
}

/// What is not fine about a look that was changed, in one line each.
fn troubles(change: impl FnOnce(&mut Overview)) -> Vec<(Level, String, String)> {
    let mut overview = sound();
    change(&mut overview);
    let findings = traffic(&[overview], 60.0);
    findings.into_iter().filter(|finding| finding.level > Level::Fine).map(|finding| (finding.level, finding.what, finding.found)).collect()
}

/// What is done to a sound cluster, and how bad that is, in words.
type Case = (fn(&mut Overview), Level, &'static str);

#[test]
fn a_sound_cluster_has_no_trouble_and_each_trouble_has_its_name() {
    assert_eq!(troubles(|_| ()), []);
    let one = |change: fn(&mut Overview)| {
        let mut found = troubles(change);
        assert_eq!(found.len(), 1, "{found:?}");
        let (level, what, found) = found.remove(0);
        (level, format!("{what}: {found}"))
    };
    use Level::{Warning, Wrong};
    let cases: [Case; 12] = [
        (|now| now.partitions.without_owner = 32, Wrong, "partitions: 32 of 64 have no worker that decides them"),
        (|now| now.undecided = Waiting { count: 3, oldest_seconds: Some(61.0) }, Wrong, "undecided commands: 3, the oldest for 61.0 s"),
        (|now| now.unpublished = Waiting { count: 1, oldest_seconds: Some(600.0) }, Wrong, "unpublished events: 1, the oldest for 10 min"),
        (|now| now.streams[1].bytes = 96, Wrong, "stream EVENTS: 96 % full"),
        (|now| now.streams[1].bytes = 81, Warning, "stream EVENTS: 81 % full"),
        (|now| now.streams[0].behind = vec!["nats-2".into()], Warning, "stream COMMANDS: nats-2 offline or behind: the next loss stops it"),
        (|now| now.streams[0].leader = None, Wrong, "stream COMMANDS: has no leader: nothing can be stored"),
        (|now| now.consumers[0].is_asking = false, Wrong, "consumer audit: is not running: nobody asks for its events; 0 events wait"),
        (|now| now.consumers[0].paused_seconds = Some(30.0), Warning, "consumer audit: is paused for 30.0 s more; 0 events wait"),
        (
            |now| (now.consumers[1].pending, now.consumers[1].oldest_seconds) = (9, Some(90.0)),
            Wrong,
            "consumer logging: is 90.0 s behind; 9 events wait",
        ),
        (|now| now.dead_letters = 2, Warning, "dead letters: 2"),
        (|now| now.advisories = 1, Warning, "advisories: 1 deliveries that nats-server gave up"),
    ];
    for (change, level, said) in cases {
        assert_eq!(one(change), (level, said.to_owned()));
    }
}

#[test]
fn a_busy_consumer_is_seen_asking_or_handling_in_one_of_several_looks() {
    let idle = |handled: u64, is_asking: bool| {
        let mut look = sound();
        (look.consumers[0].is_asking, look.consumers[0].handled) = (is_asking, handled);
        look
    };
    let wrong = |looks: &[Overview]| traffic(looks, 60.0).iter().any(|finding| finding.level == Level::Wrong);
    assert!(wrong(&[idle(5, false), idle(5, false)]));
    assert!(!wrong(&[idle(4, false), idle(5, false)]), "it handled something");
    assert!(!wrong(&[idle(5, true), idle(5, false)]), "it asked");
}

#[test]
fn another_teams_consumer_is_theirs_to_mind() {
    let found = troubles(|now| (now.consumers[0].is_ours, now.consumers[0].is_asking) = (false, false));
    assert_eq!(found[0].0, Level::Warning);
}

#[test]
fn clocks_schemas_and_settings_are_told_apart() {
    let clocks = [(0.5, Level::Fine), (1.5, Level::Warning), (-1.5, Level::Warning), (11.0, Level::Wrong)];
    for (off, wanted) in clocks {
        assert_eq!(clock("c", 1_000.0 + off, 1_000.0).level, wanted, "{off}");
    }
    let schemas = [
        (None, Some(Level::Wrong)),
        (Some((4, 0)), Some(Level::Wrong)),
        (Some((7, 6)), Some(Level::Wrong)),
        (Some((7, 0)), Some(Level::Warning)),
        (Some((5, 5)), None),
    ];
    for (found, wanted) in schemas {
        assert_eq!(schema("core", 5, found).as_ref().map(level), wanted, "{found:?}");
    }
    let unsafe_settings = database(&Database { version: 150_018, called: "15.18".into(), unsafe_settings: vec!["fsync"] });
    assert_eq!(unsafe_settings.iter().map(level).collect::<Vec<_>>(), [Level::Fine, Level::Wrong]);
    assert_eq!(database(&Database { version: 140_001, called: "14.1".into(), unsafe_settings: Vec::new() })[0].level, Level::Wrong);
    assert_eq!(
        [copies(3, 3), copies(1, 3), copies(1, 1)].map(|finding| finding.map(|finding| finding.level)),
        [None, Some(Level::Wrong), Some(Level::Warning)]
    );
    assert_eq!(
        [history(Some(true)), history(Some(false)), history(None)].map(|finding| finding.map(|finding| finding.level)),
        [Some(Level::Fine), Some(Level::Wrong), None]
    );
}

#[test]
fn what_servers_and_roles_say_is_read() {
    assert_eq!(sync("s", r#"{"config":{"sync_interval":120000000000,"sync_always":true}}"#).level, Level::Fine);
    let lazy = sync("s", r#"{"config":{"sync_interval":120000000000}}"#);
    assert_eq!((lazy.level, lazy.found.starts_with("lazy, every 2 min")), (Level::Warning, true), "{lazy}");
    assert_eq!(sync("s", "{}").level, Level::Wrong);
    assert_eq!(sync("s", "<html>").level, Level::Wrong);
    let refused = role("gateway", 503, r#"{"ready":false,"parts":{"nats":"ready","rights":"not_ready"}}"#);
    assert_eq!((refused.level, refused.found.as_str()), (Level::Wrong, r#"not ready: rights: "not_ready""#));
    assert!(refused.advice.contains("permission"), "{refused}");
    assert_eq!(role("worker-1", 200, "").level, Level::Fine);
    assert_eq!(role("worker-1", 500, "?").found, "answers 500");
}

#[test]
fn a_plan_is_told_by_what_is_to_be_done() {
    let item = |sign, what: &str| Item::new(sign, what.into(), "how");
    let items = [item(Sign::Same, "a"), item(Sign::Add, "b"), item(Sign::Change, "c"), item(Sign::Refused, "d"), item(Sign::Stray, "e")];
    let levels: Vec<Level> = plan(&items, "all").iter().map(level).collect();
    assert_eq!(levels, [Level::Fine, Level::Wrong, Level::Wrong, Level::Wrong, Level::Warning]);
    assert_eq!(plan(&[], "none"), []);
}
