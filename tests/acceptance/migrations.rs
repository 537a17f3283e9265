//! Migrations: at once in several databases of one cluster, and again and again.

use chancery::migrate;

use crate::harness::{PASSWORD, Stack, blocking};

#[tokio::test(flavor = "multi_thread")]
async fn several_databases_of_one_cluster_migrate_at_once() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let names: Vec<String> = (0..4).map(|number| format!("at_once_{}_{number}", std::process::id())).collect();
    for name in &names {
        stack.db().await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
    }
    let urls: Vec<String> = names.iter().map(|name| with_database(&stack.database_url(), name)).collect();
    let reports = blocking(|| {
        std::thread::scope(|scope| {
            // Each database twice: the second waits for the first and finds nothing left to do.
            let threads: Vec<_> = urls.iter().chain(&urls).map(|url| scope.spawn(|| migrate::run(url, Some(PASSWORD)))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap().applied.len()).collect::<Vec<_>>()
        })
    });
    let all = reports.iter().max().copied().unwrap_or(0);
    assert!(all > 0, "there are migrations");
    for (first, second) in reports.iter().zip(&reports[4..]) {
        assert_eq!((first + second, first * second), (all, 0), "each database was migrated once: {reports:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_owner_says_how_far_it_is_and_no_migration_takes_that_back() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    let db = stack.db().await;
    let mut counted = 0;
    for row in db.query("SELECT owner, version, oldest FROM schema_versions ORDER BY owner", &[]).await.unwrap() {
        let (owner, version, oldest): (String, i32, i32) = (row.get(0), row.get(1), row.get(2));
        let last = db.query_one(&format!("SELECT max(version) FROM refinery_{owner}"), &[]).await.unwrap();
        assert_eq!((version, oldest), (last.get(0), 0), "{owner}");
        counted += 1;
    }
    let histories = "SELECT count(*) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'refinery%'";
    assert_eq!(db.query_one(histories, &[]).await.unwrap().get::<_, i64>(0), counted);
    // A newer release was here, and contracted.
    db.batch_execute("UPDATE schema_versions SET version = 99, oldest = 98 WHERE owner = 'audit'").await.unwrap();
    blocking(|| migrate::run(&stack.database_url(), None)).unwrap();
    let row = db.query_one("SELECT version, oldest FROM schema_versions WHERE owner = 'audit'", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, i32>(1)), (99, 98));
    let newer = "INSERT INTO refinery_audit SELECT 99, 'later', applied_on, checksum FROM refinery_audit WHERE version = 1";
    db.batch_execute(newer).await.unwrap();
    let error = blocking(|| migrate::run(&stack.database_url(), None)).unwrap_err();
    assert!(format!("{error:#}").starts_with("a newer release has migrated this database"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_can_log_in_and_none_is_a_superuser() {
    let stack = Stack::builder().gateways(0).workers(0).start().await;
    for role in migrate::ROLES {
        let url = stack.database_url().replacen("chancery:", &format!("{role}:"), 1);
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let row = client.query_one("SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = current_user", &[]).await.unwrap();
        assert!(!row.get::<_, bool>(0), "{role} has rights that no role should have");
    }
}

fn with_database(url: &str, name: &str) -> String {
    url.rsplit_once('/').map(|(server, _)| format!("{server}/{name}")).unwrap()
}
