//! The product on the stand: migrated, provisioned, every role a process of its own, filled through its own pipeline, checked at the end.

use std::{
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use hyper::{Method, Uri};
use runtime::{Config, Stop, config::Secret};
use serde_json::json;
use uuid::Uuid;

use super::{
    Consumers, Options,
    contender::Contender,
    load::{self, Order, Pace},
    stand::Stand,
};
use crate::{
    migrate,
    privilege::nats::User,
    provision,
    role::{Consumer, Role},
    servers::{place, port, postgres::Postgres},
    token::{self, Claims},
};

/// The database of the product.
const DATABASE: &str = "chancery";
/// What the names of the product's processes begin with.
const PREFIX: &str = "product ";
/// Connections that fill the product.
const FILLERS: usize = 256;
/// How long filling may take.
const FILL_LIMIT: Duration = Duration::from_secs(300);
/// How long the operator's token is valid.
const TOKEN_LIFETIME: Duration = Duration::from_secs(86_400);
/// Event ids without an audit row.
const MISSING: &str = "SELECT u.id FROM unnest($1::uuid[]) u (id) WHERE NOT EXISTS (SELECT FROM audit_log a WHERE a.event_id = u.id OFFSET 0)";

/// A product that is ready, and where it is reached.
pub(super) struct Product {
    listen: SocketAddr,
    token: String,
    database_url: String,
}

impl Product {
    /// How a superuser reaches its database.
    pub(super) fn database_url(&self) -> String {
        self.database_url.clone()
    }

    /// How a role reaches it.
    pub(super) fn database_url_as(&self, server: &Postgres, role: &str, password: &str) -> String {
        server.url_as(role, password, DATABASE)
    }
}

/// Migrates, provisions and starts every role. Blocking.
///
/// # Errors
/// A part cannot be started.
pub(super) fn start(config: &Config, options: &Options, stand: &mut Stand, stop: &Stop) -> anyhow::Result<Product> {
    let roles_password = token::secret();
    stand.postgres.create_database(DATABASE)?;
    let database_url = stand.postgres.url(DATABASE);
    migrate::run(&database_url, Some(&roles_password))?;
    let mut provisioning = config.clone();
    provisioning.nats_url = Secret::new(stand.nats.url_as(User::Provisioner));
    provision::run(&provisioning).context("creating the streams")?;

    let folder = stand.folder.root.join("keys");
    std::fs::create_dir_all(&folder)?;
    let file = |name: &str, content: &str| -> anyhow::Result<String> {
        let path: PathBuf = folder.join(name);
        place::write_private(&path, content)?;
        Ok(path.display().to_string())
    };
    let (private, public) = token::keygen()?;
    let (private_file, public_file) = (file("token.pem", &private)?, file("token.pub.pem", &public)?);
    let (link_file, fingerprint_file) = (file("link", &token::secret())?, file("fingerprint", &token::secret())?);
    let listen = SocketAddr::from(([127, 0, 0, 1], port::free(None)?));

    let mut roles = vec![(Role::Gateway, "product gateway".to_owned())];
    roles.extend(
        (1..=options.workers)
            .map(|number| (Role::Worker, format!("product worker{}", if options.workers > 1 { number.to_string() } else { String::new() }))),
    );
    roles.extend(consumers(options.consumers).iter().map(|consumer| (Role::Consumer(*consumer), format!("product {}", consumer.name()))));
    for (role, name) in roles {
        let admin = SocketAddr::from(([127, 0, 0, 1], port::free(None)?));
        let mut environment = vec![
            ("DATABASE_URL", stand.postgres.url_as(role.database_role(), &roles_password, DATABASE)),
            ("CHANCERY_NATS_URL", stand.nats.url_as(User::of(role))),
            ("CHANCERY_PUBLIC_URL", format!("http://{listen}")),
        ];
        match role {
            Role::Gateway => environment.extend([
                ("CHANCERY_LISTEN", listen.to_string()),
                ("CHANCERY_TOKEN_PUBLIC_KEY_FILE", public_file.clone()),
                ("CHANCERY_TOKEN_PRIVATE_KEY_FILE", private_file.clone()),
                ("CHANCERY_LINK_KEY_FILE", link_file.clone()),
                ("CHANCERY_FINGERPRINT_KEY_FILE", fingerprint_file.clone()),
                ("CHANCERY_RATE_PER_SECOND", "0".into()),
                ("CHANCERY_IN_FLIGHT", "8192".into()),
                ("CHANCERY_GROUP_COMMIT", options.group_commit().to_string()),
            ]),
            Role::Worker | Role::Consumer(_) => environment.push(("CHANCERY_ADMIN_LISTEN", admin.to_string())),
        }
        if role == Role::Consumer(Consumer::Notifications) {
            let mail = stand.folder.root.join("mail");
            std::fs::create_dir_all(&mail)?;
            environment.extend([
                ("CHANCERY_MAIL", format!("file://{}", mail.display())),
                ("CHANCERY_LINK_KEY_FILE", link_file.clone()),
                // All are welcomed at once, however few the tenants.
                ("CHANCERY_MAILS_PER_TENANT_HOUR", u32::MAX.to_string()),
            ]);
        }
        let address = if role == Role::Gateway { listen } else { admin };
        stand.spawn(&name, &role.arguments(), &environment, Some(address), stop)?;
    }
    let operator = Claims::new(&format!("svc_{}", Uuid::now_v7()), "platform", "operator", TOKEN_LIFETIME);
    Ok(Product { listen, token: token::mint(&private, &operator)?, database_url })
}

fn consumers(consumers: Consumers) -> &'static [Consumer] {
    match consumers {
        Consumers::Audit => &[Consumer::Audit],
        Consumers::All => &Consumer::ALL,
    }
}

/// Creates tenants, then users, through the pipeline; that is the first warm-up, too.
///
/// # Errors
/// One of them is refused.
pub(super) async fn fill(product: &Product, options: &Options) -> anyhow::Result<Contender> {
    let (mut contender, tenants) = with_tenants(product, options).await?;
    let user = |number: usize| {
        let tenant = tenants[number % tenants.len()];
        let body = json!({ "email": format!("user{number}@bench.example"), "fullName": format!("User {number}") });
        order(&format!("/v1/tenants/tenant_{tenant}/users"), &body)
    };
    let orders = (0..options.aggregates).map(user).collect::<anyhow::Result<Vec<_>>>()?;
    let users = create(&contender, &orders, "users").await?;
    let path = |(number, user): (usize, &Uuid)| Uri::try_from(format!("/v1/tenants/tenant_{}/users/user_{user}", tenants[number % tenants.len()]));
    contender.paths = users.iter().enumerate().map(path).collect::<Result<_, _>>()?;
    contender.door.method = Method::PATCH;
    if options.consumers == Consumers::All {
        mails_sent(&contender, options.aggregates).await?;
    }
    Ok(contender)
}

/// Creates the tenants.
///
/// # Errors
/// One of them is refused.
pub(super) async fn with_tenants(product: &Product, options: &Options) -> anyhow::Result<(Contender, Vec<Uuid>)> {
    let door = (product.listen, Method::POST, Some(product.token.as_str()));
    let contender = Contender::connect("product", PREFIX, door, &product.database_url, MISSING).await?;
    let tenant = |number: usize| {
        let owner = json!({ "email": format!("owner{number}@bench.example"), "fullName": format!("Owner {number}") });
        order("/v1/tenants", &json!({ "slug": format!("bench-{number}"), "name": format!("Bench {number}"), "plan": "enterprise", "owner": owner }))
    };
    let orders = (0..options.tenants).map(tenant).collect::<anyhow::Result<Vec<_>>>()?;
    let tenants = create(&contender, &orders, "tenants").await?;
    Ok((contender, tenants))
}

/// Waits until everybody is welcomed: that is work of the filling, and would be measured with what follows.
async fn mails_sent(contender: &Contender, users: usize) -> anyhow::Result<()> {
    let deadline = Instant::now() + FILL_LIMIT;
    loop {
        let count = "SELECT count(*), count(*) FILTER (WHERE state = 'pending') FROM notifications.ledger";
        let row = contender.database.query_one(count, &[]).await?;
        let (mails, pending): (i64, i64) = (row.get(0), row.get(1));
        if usize::try_from(mails).is_ok_and(|mails| mails >= users) && pending == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{pending} of {mails} mails are not sent after {} s", FILL_LIMIT.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn order(path: &str, body: &serde_json::Value) -> anyhow::Result<Order> {
    Ok(Order { uri: Uri::try_from(path)?, body: Bytes::from(serde_json::to_vec(body)?) })
}

/// Creates things and returns their ids in the order of the orders.
async fn create(contender: &Contender, orders: &[Order], what: &str) -> anyhow::Result<Vec<Uuid>> {
    let tally = load::run(&contender.door, orders, Pace::Closed, FILLERS.min(orders.len()), FILL_LIMIT).await?;
    if let Some(trouble) = tally.trouble() {
        bail!("creating {} {what}: {trouble}", orders.len());
    }
    let mut made: Vec<(usize, Option<Uuid>)> = tally.accepted.iter().map(|(index, accepted)| (*index, accepted.aggregate)).collect();
    made.sort_unstable();
    let events: Vec<Uuid> = tally.accepted.iter().filter_map(|(_, accepted)| accepted.event).collect();
    let rows = contender.audited(&events, FILL_LIMIT).await?;
    if rows.missing > 0 {
        bail!("creating {} {what}: {} audit rows are missing after {} s", orders.len(), rows.missing, FILL_LIMIT.as_secs());
    }
    made.into_iter().map(|(_, id)| id.with_context(|| format!("an answer without an aggregateId while creating {what}"))).collect()
}

/// Looks at every row of the product: whatever is wrong, in words, and how many events have no audit row.
///
/// # Errors
/// The database fails.
pub(super) async fn check(contender: &Contender) -> anyhow::Result<(usize, Vec<String>)> {
    let database = &contender.database;
    let count = async |query: &str| -> anyhow::Result<i64> { Ok(database.query_one(query, &[]).await?.try_get(0)?) };
    let mut findings = Vec::new();
    let lost = "SELECT count(*) FROM unnest($1::uuid[]) u (id) LEFT JOIN commands c ON c.id = u.id WHERE c.id IS NULL";
    let lost: i64 = database.query_one(lost, &[&contender.accepted]).await?.try_get(0)?;
    let unaudited = count("SELECT count(*) FROM events e LEFT JOIN audit_log a ON a.event_id = e.id WHERE a.event_id IS NULL").await?;
    for (number, what) in [
        (lost, "accepted commands have no outcome"),
        (unaudited, "events have no audit row"),
        (count("SELECT count(*) FROM commands WHERE outcome ->> 'status' <> 'succeeded'").await?, "commands did not succeed"),
        (
            count("SELECT count(*) FROM (SELECT FROM events GROUP BY tenant_id HAVING count(*) <> max(sequence) OR min(sequence) <> 1) gaps").await?,
            "tenants have a gap in their sequence",
        ),
        (
            count("SELECT count(*) FROM (SELECT FROM audit_log GROUP BY event_id HAVING count(*) > 1) twice").await?,
            "events have more than one audit row",
        ),
        (count("SELECT count(*) FROM deadletters").await?, "dead letters"),
    ] {
        if number > 0 {
            findings.push(format!("{number} {what}"));
        }
    }
    Ok((usize::try_from(lost + unaudited)?, findings))
}
