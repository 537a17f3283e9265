//! Every role of PostgreSQL, every table, every kind of statement.

use std::collections::{BTreeMap, BTreeSet};

use chancery::migrate::ROLES;
use tokio_postgres::{Client, error::SqlState};

use super::table::{STATEMENTS, TABLES, rights};
use crate::harness::{PASSWORD, Stack};

/// A relation with rows: `schema.name`, whether it is a view, and one of its columns.
async fn relations(superuser: &Client) -> BTreeMap<String, (bool, String)> {
    let sql = "SELECT n.nspname || '.' || c.relname, c.relkind IN ('v', 'm'),
             (SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attgenerated = '' ORDER BY a.attnum LIMIT 1)::text
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg_toast%'";
    superuser.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

/// Whether the server lets this session do it: `*` for everything, `some` for some columns, `-` for nothing.
async fn tried(client: &Client, kind: &str, relation: &str, view: bool, column: &str) -> &'static str {
    let quoted = relation.split('.').map(|part| format!("\"{part}\"")).collect::<Vec<_>>().join(".");
    // Explained, a statement is checked and not done. An INSERT without columns would not be enough for one with some.
    let (all, some) = match kind {
        "SELECT" => (format!("EXPLAIN SELECT * FROM {quoted}"), Some(format!("EXPLAIN SELECT FROM {quoted}"))),
        "INSERT" => (format!("EXPLAIN INSERT INTO {quoted} (\"{column}\") VALUES (DEFAULT)"), None),
        "UPDATE" => (format!("EXPLAIN UPDATE {quoted} SET \"{column}\" = DEFAULT"), None),
        "DELETE" => (format!("EXPLAIN DELETE FROM {quoted}"), None),
        _ => (format!("TRUNCATE {quoted}"), None),
    };
    for (sql, answer) in [Some((all, "*")), some.map(|some| (some, "some"))].into_iter().flatten() {
        client.batch_execute("BEGIN").await.unwrap();
        let result = client.batch_execute(&sql).await;
        client.batch_execute("ROLLBACK").await.unwrap();
        match result {
            Ok(()) => return answer,
            Err(error) if *error.code().unwrap() == SqlState::INSUFFICIENT_PRIVILEGE => {}
            // A view that cannot be written, whoever asks.
            Err(_) if view && kind != "SELECT" => {}
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
    "-"
}

pub(super) async fn login(stack: &Stack, role: &str) -> Client {
    let mut config: tokio_postgres::Config = stack.database_url().parse().unwrap();
    config.user(role).password(PASSWORD);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_may_do_in_postgresql_what_the_table_says_and_nothing_else() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let superuser = stack.db().await;
    let relations = relations(&superuser).await;
    let listed: BTreeSet<&str> = TABLES.iter().map(|(name, _)| *name).collect();
    assert_eq!(
        relations.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        listed,
        "tables that the table of rights does not have, or has too many"
    );
    let mut wrong = Vec::new();
    for role in ROLES {
        let client = login(&stack, role).await;
        for (relation, (view, column)) in &relations {
            for (place, kind) in STATEMENTS.iter().enumerate() {
                let found = tried(&client, kind, relation, *view, column).await;
                let expected = rights(relation, role)[place];
                if found != expected {
                    wrong.push(format!("{role}: {kind} on {relation} is {found} and should be {expected}"));
                }
            }
        }
    }
    println!("{} roles, {} tables, {} kinds of statements", ROLES.len(), relations.len(), STATEMENTS.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_tenants_stand_under_forced_row_level_security_and_an_owner_that_it_binds() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let superuser = stack.db().await;
    let sql = "SELECT n.nspname || '.' || c.relname, c.relrowsecurity, c.relforcerowsecurity, r.rolname::text, r.rolsuper OR r.rolbypassrls,
             EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND NOT a.attisdropped)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
         WHERE c.relkind IN ('r', 'p') AND n.nspname IN ('public', 'notifications') AND c.relname NOT LIKE 'refinery%'";
    let mut wrong = Vec::new();
    for row in superuser.query(sql, &[]).await.unwrap() {
        let (name, on, forced, owner, free, of_tenants): (String, bool, bool, String, bool, bool) =
            (row.get(0), row.get(1), row.get(2), row.get(3), row.get(4), row.get(5));
        if of_tenants && !(on && forced) {
            wrong.push(format!("{name} has rows of tenants and no forced row level security"));
        }
        if free {
            wrong.push(format!("{name} belongs to {owner}, whom no policy binds"));
        }
    }
    // A view reads with its caller's rights, but for the one with which platform operators list tenants.
    let views = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relkind = 'v' AND c.relname <> 'all_tenant_views' AND n.nspname IN ('public', 'notifications') AND NOT coalesce(c.reloptions::text LIKE '%security_invoker=true%'
            OR c.reloptions::text LIKE '%security_invoker=on%', false)";
    wrong.extend(superuser.query(views, &[]).await.unwrap().iter().map(|row| format!("{} reads with its owner's rights", row.get::<_, String>(0))));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_is_more_than_its_grants() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let superuser = stack.db().await;
    let sql = "SELECT rolname::text, rolsuper OR rolbypassrls OR rolcreatedb OR rolcreaterole OR rolreplication,
             (SELECT count(*) FROM pg_auth_members m WHERE m.member = r.oid), rolcanlogin
         FROM pg_roles r WHERE rolname LIKE 'chancery\\_%'";
    let rows = superuser.query(sql, &[]).await.unwrap();
    // And whose the tables are, and what the consumers of other teams have together.
    let nobody = ["chancery_owner", "chancery_consumers"];
    assert_eq!(rows.len(), ROLES.len() + nobody.len());
    for row in rows {
        let (name, more, member, login): (String, bool, i64, bool) = (row.get(0), row.get(1), row.get(2), row.get(3));
        assert!(!more && member == 0, "{name}");
        assert_eq!(login, !nobody.contains(&name.as_str()), "{name}");
    }
    // What is granted to everybody is granted to each of them.
    let everybody = "SELECT n.nspname || '.' || c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) a
         WHERE a.grantee = 0 AND n.nspname IN ('public', 'notifications')";
    assert!(superuser.query(everybody, &[]).await.unwrap().is_empty());
    for role in ROLES {
        let client = login(&stack, role).await;
        for sql in [
            "CREATE TABLE public.mine (a int)",
            "CREATE SCHEMA mine",
            "CREATE FUNCTION public.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "SET ROLE chancery_owner",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT pg_read_file('/etc/hostname')",
            "ALTER TABLE public.events DISABLE ROW LEVEL SECURITY",
            "SET session_replication_role = replica",
        ] {
            let error = client.batch_execute(sql).await.map_err(|error| error.code().cloned());
            assert_eq!(error, Err(Some(SqlState::INSUFFICIENT_PRIVILEGE)), "{role}: {sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_role_logs_in_with_its_own_password_alone() {
    use chancery::migrate::{Passwords, with_passwords};
    // Roles belong to the whole server, so it is one of its own.
    let stack = Stack::builder().own_postgres().gateways(0).workers(0).start().await;
    let url = stack.database_url();
    let of = |role: &str| format!("the password of {role}");
    let each = Passwords::Each(ROLES.into_iter().map(|role| (role.to_owned(), of(role))).collect());
    crate::harness::blocking(|| with_passwords(&url, &each).unwrap());
    for role in ROLES {
        for other in ROLES {
            let mut config: tokio_postgres::Config = url.parse().unwrap();
            let result = config.user(role).password(of(other)).connect(tokio_postgres::NoTls).await;
            assert_eq!(result.is_ok(), role == other, "{role} with the password of {other}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_sees_and_changes_only_what_it_keeps_about_itself() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let superuser = stack.db().await;
    let rows = "INSERT INTO consumer_leases (consumer, lease_until) SELECT c, now() FROM unnest(ARRAY['audit', 'authz-cache']) c;
         INSERT INTO consumer_positions (consumer, epoch, position, incarnation) SELECT c, 1, 7, 'x' FROM unnest(ARRAY['audit', 'authz-cache']) c;
         INSERT INTO consumer_suspects SELECT c, 1, 1 FROM unnest(ARRAY['audit', 'authz-cache']) c;
         INSERT INTO consumer_marks SELECT c, gen_random_uuid(), 1 FROM unnest(ARRAY['audit', 'authz-cache']) c;
         INSERT INTO consumer_feeds (consumer, since, started_at) SELECT c, now(), now() FROM unnest(ARRAY['audit', 'authz-cache']) c;
         INSERT INTO consumer_parked (consumer, stream_sequence, aggregate, tenant_id, envelope, attempts, next_at, error)
             SELECT c, 1, 'a', gen_random_uuid(), '{}', 1, now(), '' FROM unnest(ARRAY['audit', 'authz-cache']) c";
    superuser.batch_execute(rows).await.unwrap();
    for (role, own, other) in [("chancery_audit", "audit", "authz-cache"), ("chancery_authz_cache", "authz-cache", "audit")] {
        let client = login(&stack, role).await;
        for table in ["consumer_leases", "consumer_positions", "consumer_suspects", "consumer_marks", "consumer_feeds", "consumer_parked"] {
            let seen = client.query(&format!("SELECT consumer FROM {table}"), &[]).await.unwrap();
            assert_eq!(seen.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), [own], "{role} {table}");
            let changed = client.execute(&format!("UPDATE {table} SET consumer = consumer WHERE consumer = $1"), &[&other]).await.unwrap();
            assert_eq!(changed, 0, "{role} {table}");
        }
        let note = "INSERT INTO consumer_notes VALUES ($1, 'x', 1, 1, 'handled', 1, now())";
        assert_eq!(client.execute(note, &[&own]).await.unwrap(), 1);
        let refused = client.execute(note, &[&other]).await.map_err(|error| error.code().cloned());
        assert_eq!(refused, Err(Some(SqlState::INSUFFICIENT_PRIVILEGE)), "{role}");
    }
    let read = login(&stack, "chancery_gateway").await.query("SELECT consumer FROM consumer_positions", &[]).await.unwrap();
    assert_eq!(read.len(), 2);
}
