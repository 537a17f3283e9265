//! The audit: nobody changes it, whoever could is found out, and a tenant reads its own.

use std::{collections::BTreeSet, process::Command};

use chancery::role::{Consumer, Role};
use serde_json::Value;
use tokio_postgres::error::SqlState;

use super::{Tenant, audited, connect_as, rename, tenant};
use crate::harness::{Stack, exe};

/// What `chancery audit verify` says, and its exit code.
fn verify(stack: &Stack) -> (String, Option<i32>) {
    let output = Command::new(exe()).args(["audit", "verify"]).env("DATABASE_URL", stack.database_url()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (text, output.status.code())
}

/// Tenants with some history.
async fn tenants(stack: &Stack, number: usize) -> Vec<Tenant> {
    let mut tenants = Vec::new();
    for _ in 0..number {
        let tenant = tenant(stack).await;
        for name in ["First", "Second", "Third"] {
            rename(stack, &tenant, name).await;
        }
        tenants.push(tenant);
    }
    audited(stack).await;
    tenants
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_of_the_product_can_change_or_remove_an_audit_row() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    tenants(&stack, 1).await;
    let insert = "INSERT INTO audit_log (id, n, tenant_id, sequence, action, entity_type, entity_id, performed_by, occurred_at, event_id,
         correlation_id, seals, hash) SELECT gen_random_uuid(), 99, tenant_id, 99, action, entity_type, entity_id, performed_by, occurred_at,
         gen_random_uuid(), correlation_id, '{}', hash FROM audit_log LIMIT 1";
    let changes = ["UPDATE audit_log SET action = 'NOTHING'", "DELETE FROM audit_log", "TRUNCATE audit_log"];
    let before = super::count(&stack, "SELECT count(*) FROM audit_log").await;
    let refused = async |client: &tokio_postgres::Client, sql: &str| {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{sql}: {error}");
    };
    for role in [Role::Consumer(Consumer::Audit), Role::Gateway, Role::Worker, Role::Consumer(Consumer::Notifications)] {
        let client = connect_as(&stack, role).await;
        for sql in changes {
            refused(&client, sql).await;
        }
        if role != Role::Consumer(Consumer::Audit) {
            refused(&client, insert).await;
        }
        refused(&client, "ALTER TABLE audit_log DISABLE TRIGGER ALL").await;
    }
    // Not even a superuser by mistake.
    for sql in changes {
        refused(&stack.db().await, sql).await;
    }
    assert_eq!(super::count(&stack, "SELECT count(*) FROM audit_log").await, before);
    assert_eq!(verify(&stack).1, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_names_the_first_broken_row_of_every_chain_that_was_tampered_with() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    let tenants = tenants(&stack, 4).await;
    let (text, code) = verify(&stack);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("4 chains whole, 0 broken"), "{text}");

    let db = stack.db().await;
    db.batch_execute("ALTER TABLE audit_log DISABLE TRIGGER audit_log_append_only").await.unwrap();
    let tamper = async |tenant: &Tenant, sql: &str| {
        assert_eq!(db.execute(sql, &[&tenant.uuid()]).await.unwrap(), 1, "{sql}");
    };
    tamper(&tenants[0], "UPDATE audit_log SET performed_by = 'somebody else' WHERE tenant_id = $1 AND n = 3").await;
    tamper(&tenants[1], "DELETE FROM audit_log WHERE tenant_id = $1 AND n = 2").await;
    for sql in
        ["SET n = 1000 WHERE tenant_id = $1 AND n = 4", "SET n = 4 WHERE tenant_id = $1 AND n = 5", "SET n = 5 WHERE tenant_id = $1 AND n = 1000"]
    {
        tamper(&tenants[2], &format!("UPDATE audit_log {sql}")).await;
    }
    db.batch_execute("ALTER TABLE audit_log ENABLE ALWAYS TRIGGER audit_log_append_only").await.unwrap();

    let (text, code) = verify(&stack);
    assert_eq!(code, Some(1), "{text}");
    for (tenant, row) in tenants.iter().zip([3, 2, 4]) {
        let lines: Vec<&str> = text.lines().filter(|line| line.contains(&format!("broken: {} row", tenant.id))).collect();
        assert!(lines.len() == 1 && lines[0].contains(&format!(" row {row}: ")), "row {row} of {}:\n{text}", tenant.id);
    }
    assert!(text.contains("1 chains whole, 3 broken"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_searches_its_own_audit_and_nobody_elses() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    let tenants = tenants(&stack, 2).await;
    let (own, other) = (&tenants[0], &tenants[1]);
    let owner = stack.token(&own.owner, &own.id, "");
    let find = async |query: &str| -> Value { stack.get(&own.path(&format!("/audit?pageSize=100{query}")), &owner).await.expect(200).body };
    let all = find("").await;
    let items = all["items"].as_array().unwrap();
    let expected = super::count(&stack, &format!("SELECT count(*) FROM events WHERE tenant_id = '{}'", own.uuid())).await;
    assert_eq!((items.len() as i64, all["total"].as_i64()), (expected, Some(expected)), "{all}");
    assert!(items.iter().all(|item| item["performedBy"].is_string() && item["hash"].is_string()), "{all}");

    // What a filter finds is what the whole list has of it.
    for (filter, pointer) in [("action", "action"), ("entityType", "entityType"), ("entityId", "entityId"), ("performedBy", "performedBy")] {
        let values: BTreeSet<&str> = items.iter().map(|item| item[pointer].as_str().unwrap()).collect();
        for value in values {
            let found = find(&format!("&{filter}={value}")).await;
            let wanted: Vec<&Value> = items.iter().filter(|item| item[pointer] == value).collect();
            assert_eq!(found["items"].as_array().unwrap().iter().collect::<Vec<_>>(), wanted, "{filter}={value}");
        }
    }
    assert_eq!(find("&action=TENANT_UPDATED").await["total"], 3);
    assert_eq!(find("&action=TENANT_MEMBER_JOINED").await["total"], 1);
    assert_eq!(find("&action=NOTHING").await["total"], 0);
    let middle = items[1]["occurredAt"].as_str().unwrap();
    let at = |item: &&Value| item["occurredAt"].as_str().unwrap() >= middle;
    let (late, early) = (find(&format!("&from={middle}")).await, find(&format!("&to={middle}")).await);
    assert_eq!(late["items"].as_array().unwrap().len(), items.iter().filter(at).count(), "{late}");
    assert_eq!(early["items"].as_array().unwrap().len(), items.len() - items.iter().filter(at).count(), "{early}");

    // Page by page it is the same list.
    let mut paged = Vec::new();
    for page in 1.. {
        let body = stack.get(&own.path(&format!("/audit?pageSize=2&page={page}")), &owner).await.expect(200).body;
        let items = body["items"].as_array().unwrap().clone();
        if items.is_empty() {
            break;
        }
        assert!(items.len() <= 2);
        paged.extend(items);
    }
    assert_eq!(&paged, items);

    stack.get(&other.path("/audit"), &owner).await.expect(404);
    let text = stack.get(&own.path("/audit?pageSize=100"), &owner).await.text;
    assert!(!text.contains(&other.id) && !text.contains(&other.email), "another tenant's data");
    assert_eq!(find(&format!("&entityId={}", other.owner)).await["total"], 0);
}
