//! Which rows a role sees of the tables that it may read. Most of these policies are a second guard: the product's own statements name their
//! tenant or kind, too, and no answer would change without them.

use std::collections::BTreeSet;

use chancery::role::Consumer;
use serde_json::json;
use tokio_postgres::Client;

use super::postgres::login;
use crate::{
    consumers::{Tenant, address, audited, tenant},
    harness::{Stack, wait_until},
};

/// A tenant with something in every table that the gateway reads.
async fn filled(stack: &Stack) -> String {
    let (tenant, token): (Tenant, String) = (tenant(stack).await, stack.operator_token());
    let above = stack.post(&tenant.path("/teams"), &token, &json!({ "name": "Above" })).await.expect(201).text_at("/aggregateId");
    stack.post(&tenant.path("/teams"), &token, &json!({ "name": "Below", "parentTeamId": above })).await.expect(201);
    let invitation = json!({ "email": address("guest"), "role": "member", "attributes": { "floor": 3 } });
    stack.post(&tenant.path("/invitations"), &token, &invitation).await.expect(201);
    tenant.id.trim_start_matches("tenant_").to_owned()
}

/// The values of a column that somebody sees.
async fn seen(client: &Client, table: &str, column: &str) -> BTreeSet<String> {
    let rows = client.query(&format!("SELECT DISTINCT {column}::text FROM {table}"), &[]).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_sees_the_rows_of_the_tenant_that_it_names_and_none_without_one() {
    let stack = Stack::builder().consumers(&[Consumer::Audit]).start().await;
    let tenants = [filled(&stack).await, filled(&stack).await];
    audited(&stack).await;
    let superuser = stack.db().await;
    for tenant in &tenants {
        let rows = format!(
            "INSERT INTO consumer_parked (consumer, stream_sequence, aggregate, tenant_id, envelope, attempts, next_at, error)
                 VALUES ('audit', (SELECT count(*) FROM consumer_parked), 'a', '{tenant}', '{{}}', 1, now(), '');
             INSERT INTO notifications.ledger (event_id, effect, recipient, tenant_id, event_type, state, created_at)
                 VALUES (gen_random_uuid(), 'member_welcome', 'user_1', '{tenant}', 'tenant.member_joined', 'sent', now());
             INSERT INTO deadletter_actions (actor, action, consumer, letter, type, tenant_id, redrives)
                 VALUES ('ada', 'redrive', 'audit', 1, 'user.created', '{tenant}', 0)"
        );
        superuser.batch_execute(&rows).await.unwrap();
    }
    let readable =
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'notifications') AND a.attname = 'tenant_id'
             AND has_column_privilege('chancery_gateway', c.oid, a.attnum, 'SELECT') ORDER BY 1";
    let tables: Vec<String> = superuser.query(readable, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
    assert!(tables.len() >= 8, "{tables:?}");
    let both: BTreeSet<String> = tenants.iter().cloned().collect();
    let gateway = login(&stack, "chancery_gateway").await;
    let mut wrong = Vec::new();
    for table in &tables {
        let all = seen(&superuser, table, "tenant_id").await;
        assert!(both.is_subset(&all), "{table} has no rows of both tenants: nothing would be proved");
        gateway.batch_execute("RESET chancery.tenant").await.unwrap();
        if !seen(&gateway, table, "tenant_id").await.is_empty() {
            wrong.push(format!("{table} shows rows to who names no tenant"));
        }
        for tenant in &tenants {
            gateway.execute("SELECT set_config('chancery.tenant', $1, false)", &[tenant]).await.unwrap();
            let seen = seen(&gateway, table, "tenant_id").await;
            let own = BTreeSet::from_iter((table != OF_OPERATORS).then(|| tenant.clone()));
            if seen != own {
                wrong.push(format!("{table} shows rows of {seen:?} to who names {tenant}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What platform operators alone see, and the queues behind dead letters by one event each.
    let letter = "SELECT count(*) FROM parked_letter('audit', 1, NULL)";
    assert_eq!(gateway.query_one(letter, &[]).await.unwrap().get::<_, i64>(0), 0);
    gateway.batch_execute("SELECT set_config('chancery.operator', 'on', false)").await.unwrap();
    assert_eq!(seen(&gateway, OF_OPERATORS, "tenant_id").await, both);
    assert_eq!(gateway.query_one(letter, &[]).await.unwrap().get::<_, i64>(0), 1);
    for sql in ["UPDATE deadletter_actions SET actor = 'nobody'", "DELETE FROM deadletter_actions", "DELETE FROM consumer_parked"] {
        assert!(gateway.batch_execute(sql).await.is_err(), "{sql}");
    }
    for function in ["parked_letter('audit', 1, NULL)", "redrive_parked('audit', 1, 0)", "discard_parked('audit', 1, 0)"] {
        let others = login(&stack, "chancery_audit").await;
        assert!(others.batch_execute(&format!("SELECT {function}")).await.is_err(), "{function}");
    }
}

/// The table that is for platform operators, whichever tenant they name.
const OF_OPERATORS: &str = "deadletter_actions";

/// What a reactor sees of a table, by a column.
const PARTS: [(&str, &str, &str, &[&str]); 6] = [
    ("chancery_guests", "aggregates", "kind", &["membership", "user"]),
    ("chancery_guests", "claims", "scope", &["user"]),
    ("chancery_guests", "commands", "actor", &["system"]),
    ("chancery_onboarding", "commands", "actor", &["system"]),
    ("chancery_withdrawals", "aggregates", "kind", &["invitation"]),
    ("chancery_withdrawals", "commands", "actor", &["system"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_reactor_sees_the_rows_that_it_decides_by_and_no_others() {
    let stack = Stack::builder().consumers(&[Consumer::Onboarding]).start().await;
    filled(&stack).await;
    let superuser = stack.db().await;
    wait_until("a command of the system", async || seen(&superuser, "commands", "actor").await.contains("system")).await;
    for (role, table, column, expected) in PARTS {
        let expected: BTreeSet<String> = expected.iter().map(|value| (*value).to_owned()).collect();
        let all = seen(&superuser, table, column).await;
        assert!(expected.is_subset(&all) && all.len() > expected.len(), "{table} has {all:?}: nothing would be proved");
        assert_eq!(seen(&login(&stack, role).await, table, column).await, expected, "{role} {table}");
    }
}
