//! Asking: NATS and its monitoring, PostgreSQL, the roles.

use std::{
    net::{SocketAddr, ToSocketAddrs as _},
    time::Duration,
};

use anyhow::Context as _;
use postgres::NoTls;
use runtime::{Config, nats::Access};
use serde::Deserialize;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Finding, Level, Options, judge};
use crate::{
    connect, migrate,
    overview::{Observer, Overview},
    provision, schema,
    servers::port,
};

/// How long a monitoring port or a role may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Looks at the consumers: a busy one asks for nothing for moments, so only what is never seen asking counts.
const LOOKS: usize = 6;
/// The pause between two.
const PAUSE: Duration = Duration::from_millis(400);

/// Everything that was looked at, in the order in which it was.
pub(super) fn everything(config: &Config, options: &Options) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let has_database = database(config, &mut findings)?;
    let has_nats = nats(config, &mut findings)?;
    monitors(options, &mut findings)?;
    if has_nats && has_database {
        traffic(config, options, &mut findings)?;
    }
    roles(options, &mut findings)?;
    Ok(findings)
}

/// PostgreSQL: reachable, safe, up to date, with the manifest's roles, and with the right time. False when it cannot be asked.
fn database(config: &Config, findings: &mut Vec<Finding>) -> anyhow::Result<bool> {
    let url = config.database_url.expose();
    if url.is_empty() {
        findings.push(Finding::wrong("PostgreSQL", "DATABASE_URL is not set", "set it; `. .chancery/env` does for `up`"));
        return Ok(false);
    }
    let mut client = match connect::database_session(url, "chancery-doctor")?.connect(NoTls) {
        Ok(client) => client,
        Err(error) => {
            let found = runtime::store::describe(&error);
            findings.push(Finding::wrong("PostgreSQL", found, "start it, or correct DATABASE_URL; commands wait meanwhile, and are not lost"));
            return Ok(false);
        }
    };
    let asked = client.query_one(
        "SELECT current_setting('server_version_num')::int, current_setting('server_version'), current_setting('fsync'),
                current_setting('full_page_writes'), current_setting('synchronous_commit'), extract(epoch FROM clock_timestamp())::float8",
        &[],
    );
    let row = asked.map_err(|error| anyhow::anyhow!("asking PostgreSQL: {}", runtime::store::describe(&error)))?;
    let settings = judge::Database {
        version: row.get(0),
        called: row.get(1),
        unsafe_settings: [("fsync", 2), ("full_page_writes", 3), ("synchronous_commit", 4)]
            .into_iter()
            .filter(|(_, column)| row.get::<_, &str>(*column) == "off")
            .map(|(name, _)| name)
            .collect(),
    };
    findings.extend(judge::database(&settings));
    findings.push(judge::clock("clock of PostgreSQL", row.get::<_, f64>(5), now()));
    match schema::versions(&mut client) {
        Ok(found) => {
            for owner in migrate::owner_names() {
                if let Some(known) = migrate::known(owner)? {
                    let found = found.iter().find(|(name, _)| name == owner).map(|(_, versions)| (versions.version, versions.oldest));
                    findings.extend(judge::schema(owner, known.version, found));
                }
            }
        }
        Err(error) => findings.push(Finding::wrong("schema", format!("{error:#}"), "run `chancery migrate`")),
    }
    let checked = client.query_one("SELECT history_is_checked()", &[]).ok().map(|row| row.get::<_, bool>(0));
    findings.extend(judge::history(checked));
    match provision::plan_database(&mut client, config) {
        Ok(items) => findings.extend(judge::plan(&items, "roles of the manifest")),
        Err(error) => findings.push(Finding::wrong("roles of the manifest", format!("{error:#}"), "run `chancery migrate`")),
    }
    Ok(true)
}

/// NATS: reachable, and with the streams and durables that are declared. False when it cannot be asked.
fn nats(config: &Config, findings: &mut Vec<Finding>) -> anyhow::Result<bool> {
    let server = chancery_kit::process::runtime_on(Some(1))?.block_on(async {
        let client = connect::nats_with(&Access::of(config), "chancery doctor").await.map_err(anyhow::Error::from_boxed)?;
        let info = client.server_info();
        let servers = info.connect_urls.len().max(1);
        // The stream's answer says what time it is there.
        let request = format!("STREAM.INFO.{}", subjects::stream::EVENTS);
        let answer = runtime::nats::ask_api(&request, client.request(format!("$JS.API.{request}"), "".into())).await;
        let answer = answer.map_err(anyhow::Error::msg).context("JetStream does not answer")?;
        let time = serde_json::from_slice::<Stamped>(&answer.payload).ok().and_then(|stamped| stamped.seconds());
        anyhow::Ok((info.version, servers, time))
    });
    let servers = match server {
        Ok((version, servers, time)) => {
            findings.push(Finding::fine("NATS", format!("nats-server {version}, {servers} known")));
            if let Some(time) = time {
                findings.push(judge::clock("clock of nats-server", time, now()));
            }
            servers
        }
        Err(error) => {
            findings.push(Finding::wrong(
                "NATS",
                format!("{error:#}"),
                "start nats-server, or correct CHANCERY_NATS_URL: the user must be `operator`",
            ));
            return Ok(false);
        }
    };
    match provision::plan_nats(config) {
        Ok(items) => findings.extend(judge::plan(&items, "streams and durables")),
        Err(error) => findings.push(Finding::wrong("streams and durables", format!("{error:#}"), "the user must be `operator`, or the provisioner")),
    }
    findings.extend(judge::copies(config.replicas, servers));
    Ok(true)
}

#[derive(Deserialize)]
struct Stamped {
    ts: Option<String>,
}

impl Stamped {
    fn seconds(&self) -> Option<f64> {
        let parsed = OffsetDateTime::parse(self.ts.as_deref()?, &Rfc3339).ok()?;
        Some((parsed - OffsetDateTime::UNIX_EPOCH).as_seconds_f64())
    }
}

fn now() -> f64 {
    (OffsetDateTime::now_utc() - OffsetDateTime::UNIX_EPOCH).as_seconds_f64()
}

/// When each nats-server writes to its disk.
fn monitors(options: &Options, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    if options.monitors.is_empty() {
        findings.push(Finding::new(Level::Unknown, "fsync of nats-server", "no monitoring port is named", "name each with --monitor HOST:PORT"));
    }
    for name in &options.monitors {
        let what = format!("fsync of {name}");
        match port::get(address(name)?, "/jsz?config=true", LIMIT) {
            Ok((200, body)) => findings.push(judge::sync(&what, &body)),
            Ok((status, _)) => findings.push(Finding::wrong(what, format!("its monitoring answers {status}"), "see that server's log")),
            Err(error) => findings.push(Finding::wrong(what, format!("nobody answers: {error}"), "start that server")),
        }
    }
    Ok(())
}

/// What moves: partitions, what waits, consumers.
fn traffic(config: &Config, options: &Options, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    let looked = chancery_kit::process::runtime_on(Some(1))?.block_on(async {
        let mut observer = Observer::connect(config).await?;
        let mut looks: Vec<Overview> = Vec::new();
        while looks.len() < LOOKS {
            if !looks.is_empty() {
                tokio::time::sleep(PAUSE).await;
            }
            looks.push(observer.look().await?);
            if looks.iter().any(judge::everybody_asks) {
                break;
            }
        }
        anyhow::Ok(looks)
    });
    match looked {
        Ok(looks) => findings.extend(judge::traffic(&looks, f64::from(options.patience))),
        Err(error) => findings.push(Finding::wrong("traffic", format!("{error:#}"), "see the findings above")),
    }
    Ok(())
}

/// What every named role says of itself.
fn roles(options: &Options, findings: &mut Vec<Finding>) -> anyhow::Result<()> {
    if options.roles.is_empty() {
        findings.push(Finding::new(Level::Unknown, "roles", "no role is named", "name each with --role NAME=HOST:PORT"));
    }
    for role in &options.roles {
        let (name, place) = role.split_once('=').with_context(|| format!("--role {role}: NAME=HOST:PORT is wanted"))?;
        match port::get(address(place)?, "/readyz", LIMIT) {
            Ok((status, body)) => findings.push(judge::role(name, status, &body)),
            Err(error) => findings.push(Finding::wrong(name, format!("nobody answers at {place}: {error}"), "start it, and see its log")),
        }
    }
    Ok(())
}

fn address(text: &str) -> anyhow::Result<SocketAddr> {
    let mut found = text.to_socket_addrs().with_context(|| format!("{text} is no HOST:PORT"))?;
    found.next().with_context(|| format!("{text} is unknown"))
}
