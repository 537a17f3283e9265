//! That what was frozen goes on, and what was held carries again, when the last fault that did it is lifted. No cluster: a process that waits
//! for its input, and a proxy.

use std::net::SocketAddr;

use super::{
    super::{
        links::{
            Links,
            tests::{echo, passes},
        },
        nowhere,
        part::{Process, Supervised},
        stand::Folder,
    },
    *,
};
use crate::{
    role::Role,
    up::{Files, children::Member},
};

/// One part and its link to a server, with the link's address.
async fn setup(name: &str) -> (Processes, SocketAddr) {
    let root = std::env::temp_dir().join(format!("chancery-{name}-{}", std::process::id()));
    let files = Files::open(&root.join("data"), true).unwrap();
    // It reads from the pipe that ends with us, and finds nothing there.
    let mut member = Member::new(Role::Worker, "worker-1".into(), ([127, 0, 0, 1], 1).into(), "grep".into(), Vec::new(), root.join("log"));
    member.start().unwrap();
    let part = Part::new("worker-1".into(), root.join("log"), Process::Role(Box::new(member)));
    let mut links = Links::default();
    let address = links.add("worker-1", "nats-1", echo().await).await.unwrap();
    let (reach, doors) = nowhere();
    let supervised = Supervised::start(vec![part]).unwrap();
    let stand = Stand { supervised, links, disks: BTreeMap::new(), files, reach, doors, folder: Folder { root } };
    (Processes { shape: Shape::default(), stand: Arc::new(stand), undo: Mutex::default() }, address)
}

async fn begin(target: &Processes, fault: usize, action: &Action) {
    target.begin(Order { fault, action, length: Duration::from_secs(1) }).await.unwrap();
}

/// Waits until the process is frozen, or goes on.
async fn is(target: &Processes, frozen: bool) {
    let why = if frozen { "is not frozen" } else { "is not continued" };
    target.until("worker-1", Duration::from_secs(20), why, move |part| part.stopped() == frozen).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_process_goes_on_when_the_last_fault_that_froze_it_is_lifted() {
    let (target, _) = setup("thaw").await;
    let freeze = Action::Freeze("worker-1".into());
    begin(&target, 1, &freeze).await;
    begin(&target, 2, &freeze).await;
    is(&target, true).await;
    target.lift(1).await.unwrap();
    assert!(target.with("worker-1", Part::stopped).await.unwrap(), "the second fault still freezes it");
    target.lift(2).await.unwrap();
    is(&target, false).await;
    begin(&target, 3, &freeze).await;
    is(&target, true).await;
    target.lift_all().await.unwrap();
    is(&target, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_link_carries_again_when_its_fault_is_lifted() {
    let (target, address) = setup("links").await;
    let cut_off = Action::CutOff { role: "worker-1".into(), server: Server::Nats, way: None };
    assert!(passes(address).await);
    begin(&target, 1, &cut_off).await;
    assert!(!passes(address).await, "it is not held");
    target.lift(1).await.unwrap();
    assert!(passes(address).await, "it is held still");
    begin(&target, 2, &cut_off).await;
    target.lift_all().await.unwrap();
    assert!(passes(address).await, "it is held still");
}
