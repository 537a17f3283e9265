//! Over a real nats-server and a real PostgreSQL: given these events, killed here, expect those rows and those letters.

#![expect(clippy::expect_used, reason = "a test that meets the unexpected must fail at once")]

use std::{collections::BTreeMap, path::PathBuf};

use chancery_harness::{Point, Program, Stand, Told, tenant, user};
use serde_json::json;

const MANIFEST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/consumer.toml");
const MEMBERS: u64 = 120;

/// The program, and the file that its printer reads.
fn program(stand: &Stand) -> (Program, PathBuf) {
    let printer = stand.folder().join("letters.txt");
    let mut program = stand.program(env!("CARGO_BIN_EXE_welcome"));
    program.set("WELCOME_PRINTER", &printer.display().to_string());
    (program, printer)
}

/// How often each letter was printed.
fn letters(printer: &PathBuf) -> BTreeMap<String, usize> {
    let mut letters = BTreeMap::new();
    for line in std::fs::read_to_string(printer).expect("letters").lines() {
        *letters.entry(line.to_owned()).or_default() += 1;
    }
    letters
}

#[tokio::test(flavor = "multi_thread")]
async fn members_and_letters_are_as_told_whatever_is_killed() {
    let stand = Stand::start(MANIFEST, &welcome::CONSUMER).await;
    let mut told = Told::default();
    for n in 1..=MEMBERS {
        told.sample(tenant(n % 3), "tenant.member_joined", user(n));
        if n % 4 == 0 {
            told.sample(tenant(n % 3), "tenant.member_removed", user(n));
        }
        if n % 8 == 0 {
            told.sample(tenant(n % 3), "tenant.member_joined", user(n));
            told.again();
        }
    }
    stand.give(&told).await;

    let (mut program, printer) = program(&stand);
    for (point, nth) in [(Point::BeforeCommit, 1), (Point::Committed, 1), (Point::Sent, 20)] {
        program.start_to_die_at(point, nth);
        program.died().await;
    }
    program.start();
    stand.settled().await;

    let (joined, removed, back) = (i64::try_from(MEMBERS).expect("few"), 30, 15);
    assert_eq!(stand.number("SELECT count(*) FROM welcome.members").await, joined - removed + back);
    assert_eq!(stand.number("SELECT count(*) FROM welcome.effects WHERE state = 'done'").await, joined + back);
    let letters = letters(&printer);
    assert_eq!(letters.len(), usize::try_from(joined + back).expect("few"), "each letter was printed");
    let twice = letters.values().filter(|times| **times > 1).count();
    assert!((1..=usize::from(welcome::LETTERS.at_once)).contains(&twice), "{twice} of those under way when it died were printed twice");
    assert!(letters.values().all(|times| *times <= 2));
    assert!(program.stop().success(), "it drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_that_is_in_doubt_twice_is_printed_no_third_time() {
    let stand = Stand::start(MANIFEST, &welcome::CONSUMER).await;
    let mut told = Told::default();
    told.sample(tenant(1), "tenant.member_joined", user(1));
    stand.give(&told).await;
    let (mut program, printer) = program(&stand);
    for _ in 0..2 {
        program.start_to_die_at(Point::Sent, 1);
        program.died().await;
    }
    program.start();
    stand.settled().await;
    assert_eq!(stand.number("SELECT count(*) FROM welcome.effects WHERE state = 'in_doubt'").await, 1);
    assert_eq!(letters(&printer).into_values().collect::<Vec<_>>(), [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_whose_sender_died_before_it_was_printed_is_printed_once() {
    let stand = Stand::start(MANIFEST, &welcome::CONSUMER).await;
    let mut told = Told::default();
    told.sample(tenant(1), "tenant.member_joined", user(1));
    stand.give(&told).await;
    let (mut program, printer) = program(&stand);
    program.start_to_die_at(Point::BeforeSend, 1);
    program.died().await;
    program.start();
    stand.settled().await;
    assert_eq!(stand.number("SELECT count(*) FROM welcome.effects WHERE state = 'done'").await, 1);
    assert_eq!(letters(&printer).into_values().collect::<Vec<_>>(), [1]);
}

/// `chancery consumer replay welcome` with these arguments, killed at a point: whether it went well, and what it said.
fn replay(stand: &Stand, arguments: &[&str], killed_at: Option<&str>) -> (bool, String) {
    let mut command = stand.operator(&[&["consumer", "replay", "welcome", "--from", "start"], arguments].concat());
    command.envs(killed_at.map(|point| ("CHANCERY_FAILPOINT", format!("{point}=abort"))));
    let output = command.output().expect("the program `chancery`");
    (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_printed_again_under_another_key_only_when_an_operator_says_so_and_once_whatever_is_killed() {
    let stand = Stand::start(MANIFEST, &welcome::CONSUMER).await;
    let mut told = Told::default();
    for n in 1..=20 {
        told.sample(tenant(n % 3), "tenant.member_joined", user(n));
    }
    stand.give(&told).await;
    let (mut program, printer) = program(&stand);
    program.start();
    stand.settled().await;
    let before = letters(&printer);
    assert_eq!(before.len(), 20);

    let (went_well, said) = replay(&stand, &["--effects", "--dry-run"], None);
    assert!(went_well && said.contains("20 effects would be sent again"), "{said}");
    let (went_well, said) = replay(&stand, &["--effects"], None);
    assert!(!went_well && said.contains("letter  done  20") && said.contains("nothing is done"), "{said}");
    let number = said.split("--replay ").nth(1).and_then(|rest| rest.split(' ').next()).expect("the number").to_owned();
    let (went_well, said) = replay(&stand, &[], None);
    assert!(!went_well && said.contains("asks for order"), "{said}");
    assert_eq!(stand.number("SELECT count(*) FROM consumer_actions").await, 0);
    assert_eq!(stand.number("SELECT count(*) FROM welcome.effects WHERE replay > 0").await, 0);
    assert!(!replay(&stand, &["--effects", "--yes", "--replay", "9999"], None).0, "no number of one's own");

    let again = ["--effects", "--yes", "--replay", &number];
    let (_, said) = replay(&stand, &again, Some("consumer_effects_before_commit"));
    assert!(said.contains("20 effects would be") && !said.contains("are sent again"), "{said}");
    assert_eq!(stand.number("SELECT count(*) FROM welcome.effects WHERE replay > 0").await, 0, "all or nothing");
    replay(&stand, &again, Some("consumer_effects_committed"));
    stand.settled().await;
    let (went_well, said) = replay(&stand, &again, None);
    assert!(went_well && said.contains("was done before"), "{said}");
    stand.settled().await;
    let after = letters(&printer);
    assert_eq!(after.len(), 40, "each has another key the second time");
    assert!(after.values().all(|times| *times == 1), "{after:?}");
    assert!(before.keys().all(|letter| after.contains_key(letter)));
    let trail = format!("SELECT count(*) FROM consumer_actions WHERE n = {number} AND action = 'replay' AND what LIKE 'with effects, %: 20 events'");
    assert_eq!(stand.number(&trail).await, 1);
    assert_eq!(stand.number("SELECT count(*) FROM welcome.members").await, 20, "no handler has run");
    // Of a range.
    let (went_well, said) = replay(&stand, &["--to", "6", "--effects", "--yes"], None);
    assert!(went_well && said.contains("5 effects are sent again"), "{said}");
    stand.settled().await;
    assert_eq!(letters(&printer).len(), 45);
    assert!(program.stop().success(), "it drains");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_form_becomes_a_dead_letter_and_the_others_go_on() {
    let stand = Stand::start(MANIFEST, &welcome::CONSUMER).await;
    let mut told = Told::default();
    let mut broken = told.sample(tenant(1), "tenant.member_joined", user(1)).clone();
    broken.data = json!({ "tenantId": tenant(1) });
    let subject = format!("evt.{}.tenant.member_joined", tenant(1));
    stand.give_raw(&subject, &serde_json::to_string(&broken).expect("it is JSON")).await;
    let mut told = Told::default();
    told.sample(tenant(2), "tenant.member_joined", user(2));
    stand.give(&told).await;
    let (mut program, _) = program(&stand);
    program.start();
    stand.reaches("SELECT count(*) FROM welcome.members", 1).await;
    stand.gives_up(1).await;
    let letters = stand.dead_letters().await;
    assert_eq!(letters.iter().map(|(reason, body)| (reason.as_str(), &body["id"])).collect::<Vec<_>>(), [("poison", &json!(broken.id))]);
}
