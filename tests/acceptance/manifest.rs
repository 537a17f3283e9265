//! Consumers that other teams declare: planned, made, verified; and what such a consumer can then do, and what not.

use std::{fs, path::PathBuf};

use async_nats::jetstream;
use chancery::{manifest::Manifest, migrate, privilege::nats::User};
use runtime::{
    Config, Failure,
    config::Secret,
    consume::{Event, Order, Transaction, judge},
};
use tokio_postgres::{Client, error::SqlState};

use crate::{
    consumers::{
        count, in_order,
        in_order::{FOLLOWER, Follower},
        tenant,
    },
    harness::{PASSWORD, Stack, wait_until},
    recovery::{Ran, run_with},
};

/// A consumer with a schema that asks for order, and one that keeps nothing.
const TEAMS: &str = r#"
[[consumer]]
name = "billing"
owner = "Billing <billing@example.org>"
about = "Counts seats."
filters = ["evt.*.user.created"]
order = "aggregate"
start = "all"
ack_wait_s = 30
max_deliver = 3
max_ack_pending = 256
backoff_s = [0.05]
schema = "billing"

[[consumer]]
name = "sales"
owner = "Sales <sales@example.org>"
about = "Looks at new tenants."
filters = ["evt.*.tenant.created", "evt.*.tenant.cancelled"]
order = "none"
start = "new"
ack_wait_s = 30
max_deliver = 8
max_ack_pending = 64
backoff_s = [1, 5]
"#;

/// A manifest in a file that is gone with the test.
struct File(PathBuf);

impl File {
    fn new(what: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("chancery-manifest-{what}-{}.toml", std::process::id()));
        fs::write(&path, text).unwrap();
        Self(path)
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }

    async fn provision(&self, stack: &Stack, what: &str) -> Ran {
        let manifest = self.0.to_str().unwrap();
        let provisioner = stack.nats.url_as(User::Provisioner);
        let environment = [
            ("CHANCERY_MANIFEST", manifest),
            ("CHANCERY_NATS_URL", provisioner.as_str()),
            ("CHANCERY_ROLE_PASSWORD", PASSWORD),
            ("CHANCERY_EVENTS_MAX_AGE_S", "3600"),
        ];
        run_with(stack, &["provision", what], &environment).await
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Roles belong to the whole server, so it is one of its own.
async fn stack_for(file: &File, workers: usize) -> Stack {
    let manifest = Manifest::load(&file.0).unwrap();
    Stack::builder().own_postgres().manifest(manifest).gateways(workers).workers(workers).env("CHANCERY_EVENTS_MAX_AGE_S", 3_600).start().await
}

/// The lines of a plan that say more than "as declared".
fn open(plan: &Ran) -> Vec<&str> {
    plan.out.lines().filter(|line| ["+ ", "~ ", "! ", "? "].iter().any(|sign| line.starts_with(sign))).collect()
}

fn has(plan: &Ran, sign: char, what: &str, detail: &str) -> bool {
    open(plan).iter().any(|line| line.starts_with(&format!("{sign} {what} ")) && line.contains(detail))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_teams_declare_is_planned_made_and_verified() {
    let file = File::new("plan", TEAMS);
    let stack = stack_for(&file, 0).await;
    let plan = file.provision(&stack, "plan").await.expect(0);
    assert_eq!(open(&plan).len(), 4, "{}", plan.out);
    assert!(has(&plan, '+', "durable sales", "evt.*.tenant.created, evt.*.tenant.cancelled"), "{}", plan.out);
    for (what, detail) in [
        ("role chancery_billing", "password"),
        ("schema billing", "owned by chancery_billing"),
        ("events for chancery_billing", "evt.*.user.created"),
    ] {
        assert!(has(&plan, '+', what, detail), "{what}: {}", plan.out);
    }
    // A plan changes nothing.
    let verified = file.provision(&stack, "verify").await.expect(1);
    assert_eq!(open(&verified), open(&plan));
    let made = file.provision(&stack, "apply").await.expect(0);
    assert!(made.out.starts_with("0 streams and 1 consumers created"), "{}", made.out);
    assert!(open(&file.provision(&stack, "verify").await.expect(0)).is_empty());
    let again = file.provision(&stack, "apply").await.expect(0);
    assert!(again.out.starts_with("0 streams and 0 consumers created, 0 widened, 0 changed"), "{}", again.out);

    // What may be changed in place is.
    let later = TEAMS
        .replace("max_ack_pending = 64", "max_ack_pending = 128")
        .replace("\"evt.*.tenant.cancelled\"]", "\"evt.*.tenant.cancelled\", \"evt.*.tenant.suspended\"]")
        .replace("evt.*.user.created", "evt.*.user.>");
    file.write(&later);
    let plan = file.provision(&stack, "plan").await.expect(0);
    assert_eq!(open(&plan).len(), 2, "{}", plan.out);
    assert!(has(&plan, '~', "durable sales", "max ack pending should be 128 and is 64; it does not take evt.*.tenant.suspended yet"), "{}", plan.out);
    assert!(has(&plan, '~', "events for chancery_billing", "evt.*.user.>"), "{}", plan.out);
    file.provision(&stack, "apply").await.expect(0);
    file.provision(&stack, "verify").await.expect(0);
    let durable: jetstream::consumer::PullConsumer = stack.jetstream().await.get_consumer_from_stream("sales", "EVENTS").await.unwrap();
    let found = &durable.cached_info().config;
    // Its own redrives are one.
    assert_eq!((found.max_ack_pending, found.filter_subjects.len()), (128, 4));

    // Filters stay, whatever else is changed: a replica of the version before may be running.
    file.write(&later.replace(", \"evt.*.tenant.suspended\"", "").replace("max_ack_pending = 128", "max_ack_pending = 32"));
    let plan = file.provision(&stack, "plan").await.expect(0);
    assert!(has(&plan, '~', "durable sales", "max ack pending should be 32 and is 128"), "{}", plan.out);
    assert!(has(&plan, '?', "durable sales", "takes evt.*.tenant.suspended besides; nothing narrows it"), "{}", plan.out);
    file.provision(&stack, "apply").await.expect(0);
    let durable: jetstream::consumer::PullConsumer = stack.jetstream().await.get_consumer_from_stream("sales", "EVENTS").await.unwrap();
    let found = &durable.cached_info().config;
    assert_eq!((found.max_ack_pending, found.filter_subjects.len()), (32, 4));

    // What may not is named, and then nothing is done at all.
    file.write(&later.replace("start = \"new\"", "start = \"all\"").replace("name = \"billing\"", "name = \"invoices\""));
    let plan = file.provision(&stack, "plan").await.expect(0);
    assert!(has(&plan, '!', "durable sales", "start should be All and is New"), "{}", plan.out);
    assert!(has(&plan, '!', "schema billing", "belongs to chancery_billing"), "{}", plan.out);
    assert!(has(&plan, '?', "role chancery_billing", "in no manifest"), "{}", plan.out);
    let refused = file.provision(&stack, "apply").await.expect(1);
    assert!(refused.err.contains("schema billing: it is there and belongs to chancery_billing"), "{}", refused.err);
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname = 'chancery_invoices'";
    assert_eq!(count(&stack, roles).await, 0);

    // What is declared no more is named and stays.
    file.write("");
    let plan = file.provision(&stack, "verify").await.expect(0);
    assert_eq!(open(&plan).len(), 2, "{}", plan.out);
    assert!(has(&plan, '?', "durable sales", "in no manifest") && has(&plan, '?', "role chancery_billing", "in no manifest"), "{}", plan.out);
    // nats-server has not been told of this one yet.
    file.write(&TEAMS.replace("name = \"sales\"", "name = \"marketing\""));
    let refused = file.provision(&stack, "plan").await.expect(1);
    assert!(refused.err.contains("NATS does not let user provisioner publish to $JS.API.CONSUMER.INFO.EVENTS.marketing"), "{}", refused.err);
    // What is wrong with a manifest is told, and nothing is asked of any server.
    file.write(&TEAMS.replace("user.created", "user.craeted").replace("start = \"new\"", "start = \"new\"\nack_policy = \"none\""));
    let wrong = file.provision(&stack, "plan").await.expect(1);
    assert!(
        wrong.err.contains("the nearest is user.created") && wrong.err.contains("sales: ack_policy: acknowledgements are always explicit"),
        "{}",
        wrong.err
    );
}

/// How the team's program is started.
fn as_team(stack: &Stack) -> Config {
    let mut config = stack.config();
    config.nats_url = Secret::new(stack.nats.url_as(User::Team("billing")));
    config.database_url = Secret::new(stack.database_url().replacen("chancery:", "chancery_billing:", 1));
    config
}

async fn database(config: &Config) -> Client {
    let (client, connection) = tokio_postgres::connect(config.database_url.expose(), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn seat(transaction: &Transaction<'_>, event: &Event) -> Result<(), Failure> {
    let insert = "INSERT INTO billing.seats (event_id, type) VALUES ($1, $2)";
    let envelope = &event.envelope;
    transaction.execute(insert, &[&envelope.id.uuid(), &envelope.event_type]).await.map(|_| ()).map_err(|error| judge(&error))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teams_consumer_has_its_events_and_its_schema_and_nothing_of_anybody_elses() {
    let file = File::new("team", TEAMS);
    let stack = stack_for(&file, 1).await;
    file.provision(&stack, "apply").await.expect(0);
    let config = as_team(&stack);
    let own = database(&config).await;
    own.batch_execute("CREATE TABLE billing.seats (n bigserial PRIMARY KEY, event_id uuid UNIQUE, type text)").await.unwrap();
    let created = "SELECT count(*) FROM events WHERE type = 'user.created'";
    let taken = async || own.query_one("SELECT count(*) FROM billing.seats", &[]).await.unwrap().get::<_, i64>(0);
    // Older events come from the table, where it sees no others, and then those of the stream.
    for _ in 0..3 {
        tenant(&stack).await;
    }
    in_order::forget(&stack).await;
    tenant(&stack).await;
    let durable = runtime::consume::Durable { name: "billing", filters: &["evt.*.user.created"], order: Order::Aggregate, ..FOLLOWER };
    let follower = Follower::of(durable, config.clone(), seat);
    wait_until("every seat is counted", async || taken().await == count(&stack, created).await).await;
    tenant(&stack).await;
    wait_until("the next seat is counted", async || taken().await == count(&stack, created).await).await;
    follower.end();
    assert_eq!(count(&stack, "SELECT count(*) FROM billing.seats WHERE type <> 'user.created'").await, 0);
    assert!(count(&stack, "SELECT count(*) FROM events").await > count(&stack, created).await);
    let seen = own.query("SELECT DISTINCT type FROM events", &[]).await.unwrap();
    assert_eq!(seen.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["user.created"]);
    for sql in [
        "SELECT 1 FROM aggregates",
        "SELECT 1 FROM commands",
        "SELECT 1 FROM audit_log",
        "SELECT 1 FROM notifications.people",
        "INSERT INTO events DEFAULT VALUES",
        "DELETE FROM events",
        "CREATE TABLE public.mine ()",
        "CREATE SCHEMA mine",
        "SET ROLE chancery_owner",
    ] {
        let error = own.batch_execute(sql).await.map_err(|error| error.code().cloned());
        assert_eq!(error, Err(Some(SqlState::INSUFFICIENT_PRIVILEGE)), "{sql}");
    }
    // Its own row, and not ours.
    let positions = own.query("SELECT consumer FROM consumer_positions", &[]).await.unwrap();
    assert_eq!(positions.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["billing"]);

    // At NATS: its filter, through a reader of its own, and no other.
    let team = chancery::connect::nats(config.nats_url.expose(), "test").await.unwrap();
    let stream = jetstream::new(team.clone()).get_stream("EVENTS").await.unwrap();
    let reader = |filter: &str| jetstream::consumer::pull::Config {
        name: Some(format!("r{}", uuid::Uuid::now_v7().simple())),
        filter_subject: filter.into(),
        inactive_threshold: std::time::Duration::from_secs(30),
        ..jetstream::consumer::pull::Config::default()
    };
    stream.create_consumer(reader("evt.*.user.created")).await.unwrap();
    for filter in ["evt.>", "evt.*.user.>", "evt.*.tenant.created"] {
        let refused = runtime::nats::ask_api("", stream.create_consumer(reader(filter)));
        // A refusal is no answer.
        let answered = tokio::time::timeout(std::time::Duration::from_secs(1), refused).await.is_ok_and(|answer| answer.is_ok());
        assert!(!answered, "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_makes_the_roles_of_a_manifest_and_lets_them_log_in_with_their_own_passwords() {
    let file = File::new("migrate", TEAMS);
    let stack = stack_for(&file, 0).await;
    let folder = std::env::temp_dir().join(format!("chancery-passwords-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    for role in migrate::ROLES.into_iter().chain(["chancery_billing"]) {
        fs::write(folder.join(role), format!("of-{role}")).unwrap();
    }
    let arguments = ["migrate", "--passwords", folder.to_str().unwrap()];
    let environment = [("CHANCERY_MANIFEST", file.0.to_str().unwrap())];
    let ran = run_with(&stack, &arguments, &environment).await.expect(0);
    assert!(ran.out.contains("3 of the manifest's roles, schemas and policies made or changed"), "{}", ran.out);
    let url = stack.database_url().replacen("chancery:", "chancery_billing:", 1);
    let url = url.replacen(PASSWORD, "of-chancery_billing", 1);
    assert!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_ok());
    fs::remove_file(folder.join("chancery_billing")).unwrap();
    let missing = run_with(&stack, &arguments, &environment).await.expect(1);
    assert!(missing.err.contains("chancery_billing"), "{}", missing.err);
    fs::remove_dir_all(&folder).unwrap();
}
