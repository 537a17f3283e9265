//! Releases that follow each other: programs that are too old for the tables refuse them, programs that come too early wait, and a rolling
//! restart on expanded tables costs nothing.

use std::time::Duration;

use chancery::{
    migrate,
    role::{Consumer, Role},
    servers::port,
};
use serde_json::Value;

use crate::{
    consumers::{count, tenant},
    harness::{PASSWORD, Stack, blocking, wait_until},
    pipeline::{Load, accepted, assert_sound, tenant_body, tenants, without_duplicate_window},
};

/// Looks often, so that nobody waits for half a minute.
const LOOK: (&str, &str) = ("CHANCERY_SCHEMA_LOOK_MS", "100");
/// One of each kind: the worker, the gateway, a consumer with tables of its own, one without.
const ROLES: [&str; 4] = ["worker-1", "gateway", "audit", "logging"];
/// What the refusal says.
const TOO_OLD: &str = "this program is too old for the database";

/// Sets what the database says about an owner's tables: versions above what the migrations came to.
async fn say(stack: &Stack, owner: &str, set: &str) {
    let update = format!("UPDATE schema_versions SET {set} WHERE owner = $1");
    assert_eq!(stack.db().await.execute(&update, &[&owner]).await.unwrap(), 1);
}

/// The status of a process's `/readyz`, and what it says about the tables.
fn readyz(stack: &mut Stack, name: &str) -> (u16, Value) {
    let address = stack.process(name).address;
    let Ok((status, text)) = blocking(|| port::get(address, "/readyz", Duration::from_secs(2))) else { return (0, Value::Null) };
    (status, serde_json::from_str::<Value>(&text).unwrap()["parts"]["schema"].take())
}

/// Waits until a process says what it waits for.
async fn waits(stack: &mut Stack, name: &str) -> String {
    let mut said = (0, Value::Null);
    wait_until(&format!("{name} says what it waits for"), async || {
        said = readyz(stack, name);
        said.0 == 503 && said.1["ready"] == false
    })
    .await;
    said.1["detail"].as_str().unwrap().to_owned()
}

/// Waits until a process has ended by itself, and checks that it failed with the sentence for the owner.
async fn refused(stack: &mut Stack, name: &str, owner: &str, times: usize) {
    wait_until(&format!("{name} ends"), async || stack.process(name).ended().is_some()).await;
    let code = stack.process(name).ended().unwrap().code();
    let log = stack.log(name);
    assert_eq!(code, Some(1), "{log}");
    let said: Vec<&str> = log.lines().filter(|line| line.starts_with("chancery: ") && line.contains(TOO_OLD)).collect();
    assert_eq!(said.len(), times, "{log}");
    let last = said.last().unwrap();
    assert!(last.contains(&format!("it knows {owner} ")) && last.contains("start the release that migrated it"), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_refuses_tables_that_a_newer_release_has_contracted_and_works_on_expanded_ones() {
    let consumers = [Consumer::Audit, Consumer::Logging];
    let mut stack = Stack::builder().patient().consumers(&consumers).env(LOOK.0, LOOK.1).start().await;
    tenant(&stack).await;
    // Contracted while they run: all of them drain, and end as failed.
    say(&stack, "core", "version = version + 2, oldest = version + 2").await;
    for name in ROLES {
        refused(&mut stack, name, "core", 1).await;
    }
    assert_eq!(count(&stack, "SELECT count(*) FROM workers").await, 0, "who drains ends its lease");
    // Nobody begins on such tables either.
    for name in ROLES {
        stack.process(name).start();
    }
    for name in ROLES {
        refused(&mut stack, name, "core", 2).await;
    }
    assert_eq!(stack.log("worker-1").matches("worker started").count(), 1, "{}", stack.log("worker-1"));
    assert_eq!(stack.log("gateway").matches(" listening").count(), 1, "{}", stack.log("gateway"));
    // Expanded tables are those of a newer release, too, and have everything that this one uses.
    say(&stack, "core", "oldest = version - 2").await;
    for name in ROLES {
        stack.start_again(name, &[]);
    }
    tenant(&stack).await;
    // Another owner's tables are the matter of who uses them.
    say(&stack, "audit", "version = version + 1, oldest = version + 1").await;
    refused(&mut stack, "audit", "audit", 3).await;
    for name in ["worker-1", "gateway", "logging"] {
        assert_eq!(readyz(&mut stack, name).0, 200, "{name}");
    }
    tenant(&stack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_is_started_before_the_migration_waits_for_it() {
    let mut stack = Stack::builder().patient().gateways(0).workers(0).env(LOOK.0, LOOK.1).start().await;
    let database = format!("early_{}", std::process::id());
    stack.db().await.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
    let url = stack.database_url().rsplit_once('/').map(|(server, _)| format!("{server}/{database}")).unwrap();
    let roles = [("worker-1", Role::Worker), ("gateway", Role::Gateway), ("logging", Role::Consumer(Consumer::Logging))];
    for (name, role) in roles {
        let own = url.replacen("chancery:", &format!("{}:", role.database_role()), 1);
        stack.add_unstarted(name, role, &[("DATABASE_URL", &own)]);
        stack.process(name).start();
    }
    for (name, _) in roles {
        let why = waits(&mut stack, name).await;
        assert!(why.starts_with("the database does not say how far core is") && why.ends_with("run `chancery migrate`"), "{why}");
        assert!(stack.log(name).contains(&why), "{}", stack.log(name));
    }
    let (operator, body) = (stack.operator_token(), tenant_body());
    // Not 404, which would be an answer.
    assert_eq!(stack.post("/v1/tenants", &operator, &body).await.status, 503);

    blocking(|| migrate::run(&url, Some(PASSWORD))).unwrap();
    for (name, _) in roles {
        blocking(|| stack.process(name).wait_ready());
    }
    stack.post("/v1/tenants", &operator, &body).await.expect(201);

    // The same where only the last migration is missing: who runs goes on as well as it can and says so, who begins waits.
    let (db, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    assert!(stack.stop("worker-1"), "{}", stack.log("worker-1"));
    db.batch_execute("UPDATE schema_versions SET version = version - 1 WHERE owner = 'core'").await.unwrap();
    stack.process("worker-1").start();
    for name in ["worker-1", "logging"] {
        let why = waits(&mut stack, name).await;
        assert!(why.starts_with("the database is at core ") && why.ends_with("run `chancery migrate`"), "{why}");
    }
    wait_until("the gateway says so", async || readyz(&mut stack, "gateway") == (503, "not_ready".into())).await;
    assert_eq!(stack.log("worker-1").matches("worker started").count(), 1, "{}", stack.log("worker-1"));
    blocking(|| migrate::run(&url, None)).unwrap();
    for (name, _) in roles {
        blocking(|| stack.process(name).wait_ready());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_begins_without_postgresql_and_a_worker_does_not() {
    let mut stack = Stack::builder().patient().own_postgres().env(LOOK.0, LOOK.1).start().await;
    let both = ["gateway", "worker-1"];
    for name in both {
        assert!(stack.stop(name), "{}", stack.log(name));
    }
    // Contracted while nobody runs, and nobody can find that out before PostgreSQL is back.
    say(&stack, "core", "version = version + 1, oldest = version + 1").await;
    stack.kill_postgres();
    for name in both {
        stack.process(name).start();
    }
    wait_until("the gateway serves", async || readyz(&mut stack, "gateway") == (503, "not_ready".into())).await;
    let why = waits(&mut stack, "worker-1").await;
    assert!(why.starts_with("cannot look how far the database is"), "{why}");
    stack.restart_postgres();
    for name in both {
        refused(&mut stack, name, "core", 1).await;
    }
    let times = |name: &str, words: &str| stack.log(name).matches(words).count();
    assert_eq!((times("gateway", " listening"), times("gateway", "connected to NATS")), (2, 2), "{}", stack.log("gateway"));
    // Not even its first steps: it has connected to nothing.
    let begun = ["connected to NATS", "worker started", "waiting for PostgreSQL"].map(|words| times("worker-1", words));
    assert_eq!(begun, [1, 1, 0], "{}", stack.log("worker-1"));
    say(&stack, "core", "version = version - 1, oldest = 0").await;
    for name in both {
        stack.start_again(name, &[]);
    }
    tenant(&stack).await;
}

/// What an expanding migration of a later release may do, while this one works.
async fn expand(stack: &Stack) {
    let db = stack.db().await;
    // One lock at a time, as one migration each.
    for table in ["events", "commands", "aggregates", "tenants", "partitions", "workers", "claims", "audit_log", "consumer_notes"] {
        db.batch_execute(&format!("ALTER TABLE {table} ADD COLUMN later text")).await.unwrap();
    }
    db.batch_execute("CREATE TABLE later (id uuid PRIMARY KEY)").await.unwrap();
    say(stack, "core", "version = version + 1").await;
    say(stack, "audit", "version = version + 1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_upgrade_under_load_loses_nothing_and_does_nothing_twice() {
    let mut stack = Stack::builder().patient().gateways(2).workers(2).consumers(&[Consumer::Audit]).env(LOOK.0, LOOK.1).start().await;
    without_duplicate_window(&stack).await;
    let (tenants, mut ids) = tenants(&stack, 20).await;
    let load = Load::endless(&stack, &tenants);
    load.goes_on(60).await;
    expand(&stack).await;
    // The old programs, on the tables of the new ones.
    load.goes_on(60).await;
    // The order of docs/operations.md.
    for name in ["worker-1", "worker-2", "audit", "gateway", "gateway-2"] {
        assert!(stack.stop(name), "a drain ends in success:\n{}", stack.log(name));
        load.goes_on(60).await;
        stack.start_again(name, &[]);
        // Old and new side by side, each with a share.
        wait_until("both workers have partitions", async || count(&stack, "SELECT count(DISTINCT owner) FROM partitions").await == 2).await;
        load.goes_on(60).await;
    }
    ids.extend(accepted(&load.finish().await));
    assert_sound(&stack, &ids, true).await;
}
