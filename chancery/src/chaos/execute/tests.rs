//! Only that what is begun is lifted: the faults themselves are tested on real processes.

use std::{collections::BTreeSet, sync::Mutex};

use super::*;
use crate::chaos::{
    history::What,
    kind::Kind,
    plan::Shape,
    reach::Reach,
    target::{Doors, nowhere},
};

/// A target that writes down what it is asked, and whose parts never fail to serve.
struct Book {
    shape: Shape,
    reach: Reach,
    doors: Doors,
    /// Faults that are on.
    on: Mutex<BTreeSet<usize>>,
    lifted: Mutex<Vec<usize>>,
}

impl Book {
    fn new() -> Arc<Self> {
        let (reach, doors) = nowhere();
        Arc::new(Self { shape: Shape::default(), reach, doors, on: Mutex::default(), lifted: Mutex::default() })
    }
}

impl Target for Book {
    fn shape(&self) -> &Shape {
        &self.shape
    }

    fn reach(&self) -> &Reach {
        &self.reach
    }

    fn doors(&self) -> &Doors {
        &self.doors
    }

    fn able(&self, _: Kind) -> Result<(), String> {
        Ok(())
    }

    async fn begin(&self, order: Order<'_>) -> anyhow::Result<()> {
        self.on.lock().unwrap().insert(order.fault);
        // Half done, and then it fails: it must be undone all the same.
        if matches!(order.action, Action::Kill(part) if part == "audit") { anyhow::bail!("it went wrong") } else { Ok(()) }
    }

    async fn lift(&self, fault: usize) -> anyhow::Result<()> {
        self.on.lock().unwrap().remove(&fault);
        self.lifted.lock().unwrap().push(fault);
        Ok(())
    }

    async fn lift_all(&self) -> anyhow::Result<()> {
        self.on.lock().unwrap().clear();
        Ok(())
    }

    async fn serves(&self, _: &str) -> bool {
        true
    }
}

struct Fine;

impl Probe for Fine {
    async fn probe(&self, _: Option<&str>) -> Result<(), String> {
        Ok(())
    }
}

fn plan(steps: Vec<(Action, Duration)>) -> Plan {
    let steps: Vec<Step> = steps.into_iter().map(|(action, length)| Step { start: Duration::ZERO, length, kind: Kind::KillWorker, action }).collect();
    Plan { seed: 1, steps, length: Duration::from_millis(1) }
}

#[tokio::test]
async fn every_fault_is_lifted_one_that_failed_to_begin_too() {
    let (book, history) = (Book::new(), History::new());
    let moment = Duration::from_millis(1);
    let steps = vec![(Action::Kill("audit".into()), moment), (Action::Freeze("worker-1".into()), moment), (Action::Scatter, moment)];
    let went = execute(&book, &Arc::new(Fine), &plan(steps), &history, &Stop::new()).await;
    assert!(book.on.lock().unwrap().is_empty());
    let mut lifted = book.lifted.lock().unwrap().clone();
    lifted.sort_unstable();
    assert_eq!(lifted, [0, 1, 2]);
    assert_eq!(went.iter().map(|one| one.trouble.clone()).collect::<Vec<_>>(), [Some("it went wrong".to_owned()), None, None]);
    let healed = history.records().iter().filter(|record| matches!(record.what, What::Healed { .. })).count();
    assert_eq!(healed, 3);
}

#[tokio::test]
async fn a_run_that_is_stopped_lifts_what_is_on() {
    let (book, history, stop) = (Book::new(), History::new(), Stop::new());
    let for_ever = Duration::from_secs(86_400);
    let mut plan = plan(vec![(Action::Freeze("worker-1".into()), for_ever), (Action::Scatter, for_ever)]);
    plan.length = for_ever;
    let stopper = async {
        while book.on.lock().unwrap().len() < 2 {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let fine = Arc::new(Fine);
    tokio::join!(execute(&book, &fine, &plan, &history, &stop), stopper);
    assert!(book.on.lock().unwrap().is_empty(), "still on: {:?}", book.on.lock().unwrap());
}
