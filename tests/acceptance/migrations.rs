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
