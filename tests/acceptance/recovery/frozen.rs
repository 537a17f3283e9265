//! A repair that freezes while EVENTS is created anew, and goes on in the other life.

use std::{process::Stdio, time::Duration};

use nix::sys::signal::{Signal, kill};
use subjects::stream as names;

use super::{Ran, command, events_in, history, make_holes, published};
use crate::harness::{Stack, blocking, wait_until};

/// Makes holes, freezes their repair at a point, creates EVENTS anew, and lets it go on: what it says in the end.
async fn repaired(stack: &Stack, point: impl FnOnce(u64) -> String) -> Ran {
    history(stack, 2).await;
    published(stack).await;
    let lost = make_holes(stack, Duration::from_secs(1)).await;
    let mut repair = command(stack, &["events", "reconcile", "--json"], &[("CHANCERY_FAILPOINT", &point(lost))]);
    let repair = repair.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = repair.id().unwrap();
    wait_until("the repair is frozen", async || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        assert!(!stat.contains(") Z "), "it has ended before");
        stat.contains(") T ")
    })
    .await;
    stack.jetstream().await.delete_stream(names::EVENTS).await.unwrap();
    blocking(|| stack.provision());
    kill(chancery::child::pid(pid), Signal::SIGCONT).unwrap();
    let output = repair.wait_with_output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_froze_before_it_published_puts_nothing_into_another_life_of_events() {
    let stack = Stack::builder().start().await;
    let ran = repaired(&stack, |_| "late_fence_read=stop".into()).await.expect(1);
    assert_eq!(events_in(&stack).await, 0, "{ran:?}");
    assert!(ran.err.contains("created anew while it was compared; begin again"), "{ran:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_whose_events_were_lost_again_before_it_ended_calls_nothing_mended() {
    let stack = Stack::builder().start().await;
    let ran = repaired(&stack, |lost| format!("late_published=stop@{lost}")).await.expect(1);
    assert!(ran.out.is_empty() && ran.err.contains("created anew while it was compared; begin again"), "{ran:?}");
}
