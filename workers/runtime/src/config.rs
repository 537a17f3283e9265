//! The configuration: one struct, read once at start from the environment.
//!
//! Every field names its variable. A secret also has a `…_FILE` variant that names a file holding it. Roles read nothing else from the
//! environment. The doc line of a field is its documentation everywhere: `docs/configuration.md` is made from these.

mod documented;
mod lookup;
mod sampler;
mod secret;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use documented::documented;
pub use documented::{Variable, variables};
use lookup::{Lookup, member_limits};
pub use lookup::{Setting, Source};
pub use sampler::Sampler;
pub use secret::Secret;

documented! {
/// Everything a role needs to know from outside.
#[derive(Debug, Clone)]
pub struct Config {
    /// `CHANCERY_NATS_URL` (`_FILE`): where nats-server listens, `nats://host:port` or `tls://host:port`, every server of a cluster with
    /// commas between them; may carry user and password. Default `nats://127.0.0.1:4222`.
    pub nats_url: Secret,
    /// `CHANCERY_NATS_USER`: the user at NATS, which is the role's name; goes before one in the address.
    pub nats_user: Option<String>,
    /// `CHANCERY_NATS_PASSWORD` (`_FILE`): that user's password.
    pub nats_password: Option<Secret>,
    /// `CHANCERY_NATS_CA_FILE`: a file with the certificates (PEM) that sign nats-server's; when set, no connection is made without TLS.
    pub nats_ca_file: Option<PathBuf>,
    /// `DATABASE_URL` (`DATABASE_URL_FILE`): PostgreSQL as `postgres://user:password@host:port/database`, with this role's user.
    pub database_url: Secret,
    /// `CHANCERY_DATABASE_POOL`: connections this process may hold. Default 8.
    pub database_pool: usize,
    /// `CHANCERY_DATABASE_TIMEOUT_MS`: how long one statement may take before the server ends it. Default 10000.
    pub database_timeout: Duration,
    /// `CHANCERY_PARTITIONS`: command partitions; fixed for the life of the COMMANDS stream. Default 64.
    pub partitions: u16,
    /// `CHANCERY_REPLICAS`: replicas of every stream (1, 3 or 5). Default 1.
    pub replicas: usize,
    /// `CHANCERY_COMMANDS_MAX_BYTES`: size at which COMMANDS refuses more (503). Default 1 GiB.
    pub commands_max_bytes: i64,
    /// `CHANCERY_EVENTS_MAX_BYTES`: size at which EVENTS refuses more (the outbox waits). Default -1: the account's or server's own limit.
    pub events_max_bytes: i64,
    /// `CHANCERY_EVENTS_MAX_AGE_S`: age after which EVENTS forgets; 0 keeps for ever. Default 0.
    pub events_max_age: Duration,
    /// `CHANCERY_DEADLETTERS_MAX_BYTES`: size of the dead-letter stream. Default 256 MiB.
    pub deadletters_max_bytes: i64,
    /// `CHANCERY_ADVISORIES_MAX_BYTES`: size at which ADVISORIES forgets the oldest. Default 16 MiB.
    pub advisories_max_bytes: i64,
    /// `CHANCERY_ADVISORIES_MAX_AGE_S`: how long ADVISORIES remembers what nats-server gave up delivering. Default 7 days.
    pub advisories_max_age: Duration,
    /// `CHANCERY_ADVISORIES_LOOK_MS`: how often a worker looks for something new there. Default 10000.
    pub advisories_look: Duration,
    /// `CHANCERY_AUTHZ_AGE_S`: how long what a member may is remembered at most, by the bucket and by gateways; 300 at most. Default 300.
    pub authz_age: Duration,
    /// `CHANCERY_AUTHZ_MAX_BYTES`: size at which the bucket `authz` refuses more; gateways then ask PostgreSQL. Default 64 MiB.
    pub authz_max_bytes: i64,
    /// `CHANCERY_AUTHZ_REMEMBERED`: members whose standing a gateway remembers at most. Default 100000.
    pub authz_remembered: u64,
    /// `CHANCERY_AUTHZ_BEAT_MS`: how often the consumer `authz-cache` says that everything is dropped; a gateway that misses two of them
    /// and a half believes only PostgreSQL. The same everywhere. Default 200.
    pub authz_beat: Duration,
    /// `CHANCERY_PUBLISH_TIMEOUT_MS`: how long one publish may wait for its PubAck before it counts as unknown. Default 5000.
    pub publish_timeout: Duration,
    /// `CHANCERY_PROVISION_WAIT_MS`: how long a worker or consumer that starts waits for `chancery provision` to have made its stream or
    /// consumer before it gives up. Default 60000.
    pub provision_wait: Duration,
    /// `CHANCERY_MANIFEST`: a file that declares the consumers of other teams (docs/manifest.md). Read by what makes things for them:
    /// `provision`, `up` and `init`.
    pub manifest: Option<PathBuf>,
    /// `CHANCERY_SCHEMA_LOOK_MS`: how often a role looks whether it still may work on the database's tables. Default 30000.
    pub schema_look: Duration,
    /// `CHANCERY_DRAIN_MS`: how long a role may take to finish its work after SIGTERM. Default 10000.
    pub drain: Duration,

    /// `CHANCERY_WORKER_ID`: a name for logs; the lease uses an id of its own, fresh with every start. Default: the process id.
    pub worker_name: String,
    /// `CHANCERY_LEASE_MS`: how long a silent worker or consumer keeps its lease. Default 5000.
    pub lease: Duration,
    /// `CHANCERY_BATCH_COMMANDS`: commands decided in one transaction at most. Default 256.
    pub batch_commands: usize,
    /// `CHANCERY_BATCH_BYTES`: bytes of command messages in one transaction at most. Default 4 MiB.
    pub batch_bytes: usize,
    /// `CHANCERY_READER_BUFFER`: commands read ahead for each partition at most. Default 256.
    pub reader_buffer: usize,
    /// `CHANCERY_STATE_CACHE`: aggregates a worker remembers between batches at most. Default 100000.
    pub state_cache: u64,
    /// `CHANCERY_CRASH_LIMIT`: crashes at one command, or at one event of a consumer, after which it is condemned. Default 3.
    pub crash_limit: i32,
    /// `CHANCERY_JANITOR_LAG_S`: how long a decided command stays in COMMANDS. Default 3600.
    pub janitor_lag: Duration,
    /// `CHANCERY_UNDECIDED_AFTER_MS`: how long an accepted command may be undecided before that is an alarm (docs/observability.md). Default 30000.
    pub undecided_after: Duration,
    /// `CHANCERY_BACKLOG_LOOK_MS`: how often a worker looks what is undecided and unpublished. Default 5000.
    pub backlog_look: Duration,
    /// `CHANCERY_OUTCOME_RETENTION_S`: how long an outcome without an Idempotency-Key is remembered. Default 30 days.
    pub outcome_retention: Duration,

    /// `CHANCERY_LISTEN`: address of the gateway's HTTP. Default `127.0.0.1:8080`.
    pub listen: SocketAddr,
    /// `CHANCERY_ADMIN_LISTEN`: address of `/livez`, `/readyz`, `/metrics` of a worker or consumer; none when unset.
    pub admin_listen: Option<SocketAddr>,
    /// `CHANCERY_PUBLIC_URL`: how people reach the gateway; links in mails start with it. Default `http://127.0.0.1:8080`.
    pub public_url: String,
    /// `CHANCERY_TOKEN_PUBLIC_KEY` (`_FILE`): Ed25519 public key (PEM) that signs access tokens. Needed by the gateway.
    pub token_public_key: Option<Secret>,
    /// `CHANCERY_TOKEN_PRIVATE_KEY` (`_FILE`): Ed25519 private key (PKCS#8 PEM); needed to mint tokens, and by the gateway for the
    /// short token that follows an accepted invitation.
    pub token_private_key: Option<Secret>,
    /// `CHANCERY_LINK_KEY` (`_FILE`): key of mailed tokens; held by gateway and notifier only. At least 32 characters.
    pub link_key: Option<Secret>,
    /// `CHANCERY_FINGERPRINT_KEY` (`_FILE`): key of the request fingerprints; held by gateways only. At least 32 characters.
    pub fingerprint_key: Option<Secret>,
    /// `CHANCERY_BODY_LIMIT`: bytes of a request body at most. Default 64 KiB.
    pub body_limit: usize,
    /// `CHANCERY_IN_FLIGHT`: requests a gateway works on at once; more get 503. Default 1024.
    pub in_flight: usize,
    /// `CHANCERY_REQUEST_TIMEOUT_MS`: how long one request may take in all. Default 30000.
    pub request_timeout: Duration,
    /// `CHANCERY_ACCEPT_DEADLINE_MS`: how long the gateway retries to get one command stored. Default 20000.
    pub accept_deadline: Duration,
    /// `CHANCERY_WAIT_MS`: how long a command's answer is awaited without a `Prefer` header. Default 5000.
    pub wait: Duration,
    /// `CHANCERY_RATE_PER_SECOND`: requests a principal in a tenant may make per second, in a burst of as many; 0 for no limit. Default 1000.
    pub rate_per_second: u32,
    /// `CHANCERY_PUBLIC_RATE_PER_MINUTE`: requests an address may make per minute on the routes without a token. Default 60.
    pub public_rate_per_minute: u32,
    /// `CHANCERY_GROUP_COMMIT`: commands that must be waiting before the gateway sends them as one atomic batch; 0 never. Set it to 16
    /// where nats-server runs one replica with `sync_interval: always`. Default 0.
    pub group_commit: usize,

    /// `CHANCERY_HISTORY_EVENTS`: events of one aggregate that are followed to show what it was before and after each; of later ones only
    /// the event is shown. Default 2000.
    pub history_events: u32,
    /// `CHANCERY_STREAMS`: event streams (SSE) a gateway serves at once; more get 503. Default 1000.
    pub streams: usize,
    /// `CHANCERY_STREAMS_PER_CALLER`: event streams one caller may have open at a gateway; more get 429. Default 8.
    pub streams_per_caller: usize,
    /// `CHANCERY_STREAMS_PER_TENANT`: event streams of one tenant that may be open at a gateway; more get 429. Default 200.
    pub streams_per_tenant: usize,
    /// `CHANCERY_STREAM_HEARTBEAT_MS`: an event stream shows life this often. Default 15000.
    pub stream_heartbeat: Duration,
    /// `CHANCERY_STREAM_RETRY_MS`: how long a client whose event stream ended is told to wait before it comes again. Default 2000.
    pub stream_retry: Duration,
    /// `CHANCERY_STREAM_STALL_MS`: a client that reads nothing of its event stream for so long is disconnected. Default 30000.
    pub stream_stall: Duration,
    /// `CHANCERY_STREAM_BUFFER`: events a gateway holds for the event streams of one tenant at most; who is further behind reads from the
    /// table. Default 128.
    pub stream_buffer: usize,
    /// `CHANCERY_NOTE_EVERY_MS`: how often a consumer notes what it has handled, for the timeline of commands; 0 never. Default 1000.
    pub note_every: Duration,
    /// `CHANCERY_NOTE_RETENTION_S`: how long such notes are kept. Default 7 days.
    pub note_retention: Duration,

    /// `CHANCERY_MAIL` (`_FILE`): where mail goes: `smtp://host:port`, `smtps://user:password@host:port`, or `file:///directory`.
    pub mail: Option<Secret>,
    /// `CHANCERY_MAIL_FROM`: the sender of every mail. Default `Chancery <no-reply@localhost>`.
    pub mail_from: String,
    /// `CHANCERY_MAILS_PER_USER_HOUR`: mails one recipient may get an hour; more wait. Default 100.
    pub mails_per_user_hour: u32,
    /// `CHANCERY_MAILS_PER_TENANT_HOUR`: mails one tenant may cause an hour; more wait. Default 1000.
    pub mails_per_tenant_hour: u32,
    /// `CHANCERY_MAIL_PAGE`: recipients of one event that are entered at once; more of them follow when fewer of the tenant's mails wait.
    /// Default 500.
    pub mail_page: u32,
    /// `CHANCERY_CONSUMER_BATCH`: events a consumer handles in one call at most. Default 256.
    pub consumer_batch: usize,
    /// `CHANCERY_REACTIONS_AT_ONCE`: commands of a reactor that are under way at once, and events it answers at once, at most. Default 64.
    pub reactions_at_once: usize,
    /// `CHANCERY_REACTION_PAGE`: memberships or invitations that a reactor reads at once to answer one event. Default 256.
    pub reaction_page: usize,

    /// `CHANCERY_MEMBER_LIMITS`: members a tenant may have by plan, `free=…,starter=…,professional=…,enterprise=…`.
    /// Default `free=10,starter=100,professional=1000,enterprise=100000`.
    pub member_limits: [u32; 4],
    /// `CHANCERY_PENDING_INVITATIONS`: invitations of a tenant that may be pending; more are refused with `seat_limit`. Default 10000.
    pub pending_invitations: u32,
    /// `CHANCERY_TEAMS`: teams a tenant may have. Default 1000.
    pub teams: u32,
    /// `CHANCERY_TEAM_MEMBERS`: members a team may have; each change of a team writes all of them. Default 1000.
    pub team_members: u32,
    /// `CHANCERY_TEAMS_PER_MEMBER`: teams a member may be in; leaving the tenant tells an event of each. Default 64.
    pub teams_per_member: u32,
    /// `CHANCERY_SOFT_DELETION_S`: how long a deactivated user stays before deletion is allowed. Default 90 days.
    pub soft_deletion: Duration,

    /// `CHANCERY_GUARDED`: 1 where a process ends when its standard input does, because whoever has started it has ended. Default 0.
    pub guarded: bool,
    /// `CHANCERY_THREADS`: threads of this process. Default: one for a worker or consumer, as many as there are processors for a gateway.
    pub threads: Option<usize>,
    /// `CHANCERY_PUBLISH_PACE_MS`: from the start of one batch of events to that of the next, a worker lets eight times as long pass as the
    /// batch took, but no longer than this; a full batch does not wait. 0 publishes as soon as the last batch is stored. Default 25.
    pub publish_pace: Duration,
    /// `CHANCERY_LOG`: a `tracing` filter for the log. Default `info`.
    pub log: String,
    /// `CHANCERY_LOG_FORMAT`: `text` or `json`. Default `text`.
    pub log_json: bool,
    /// `OTEL_EXPORTER_OTLP_ENDPOINT`: where spans and metrics go over OTLP/HTTP; no export when unset.
    pub otlp_endpoint: Option<String>,
    /// `OTEL_METRIC_EXPORT_INTERVAL`: milliseconds between two messages with the metrics; 0 sends none. Default 60000.
    pub otlp_metrics_every: Duration,
    /// `CHANCERY_TRACE`: a `tracing` filter for spans, whatever the log shows. Default `chancery=info,command_gateway=info,runtime=info`.
    pub trace: String,
    /// `OTEL_TRACES_SAMPLER`: which traces that begin here are kept: `parentbased_always_on`, `parentbased_always_off` or
    /// `parentbased_traceidratio`. One that a caller began is kept where its `traceparent` says so. Default `parentbased_always_on`.
    pub sampler: Sampler,
    /// `OTEL_TRACES_SAMPLER_ARG`: the share of them that `parentbased_traceidratio` keeps, from 0 to 1. Default 1.
    pub sampled: f64,
    /// `CHANCERY_DATA`: folder of `up`'s data and of fetched servers. Default `.chancery`.
    pub data: PathBuf,
    /// `CHANCERY_FAILPOINT`: for crash tests in debug builds only: `<point>=<abort|stop|error>[@nth]`, several with `,`.
    pub failpoint: Option<String>,
}
}

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A variable has a value that cannot be read as what it means.
    #[error("{name} is not {expected}: {value:?}")]
    Invalid {
        /// The variable.
        name: &'static str,
        /// What it should hold.
        expected: &'static str,
        /// What it holds; never the value of a secret.
        value: String,
    },
    /// A variable this role cannot do without is not set.
    #[error("{0} is not set")]
    Missing(&'static str),
    /// A `…_FILE` variable names a file that cannot be read.
    #[error("{name} names {path}, which cannot be read: {source}")]
    File {
        /// The variable.
        name: String,
        /// The file.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
}

impl Config {
    /// Whether spans go somewhere. Where they do not, making them would only cost time.
    pub const fn makes_spans(&self) -> bool {
        self.otlp_endpoint.is_some()
    }

    /// Reads the process's environment. The one place where it is read.
    ///
    /// # Errors
    /// [`ConfigError`] names the first variable that is missing or cannot be understood.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(&|name| std::env::var(name).ok())
    }

    /// Reads from any source of variables; tests pass a map.
    ///
    /// # Errors
    /// See [`Config::from_env`].
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        Self::read(&Lookup::new(lookup))
    }

    /// What every variable comes to, in the order of the fields, and where from. Secrets are not shown.
    ///
    /// # Errors
    /// See [`Config::from_env`].
    pub fn settings(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Vec<Setting>, ConfigError> {
        let env = Lookup::new(lookup);
        Self::read(&env)?;
        Ok(env.settings())
    }

    fn read(env: &Lookup<'_>) -> Result<Self, ConfigError> {
        const COUNT: &str = "a positive whole number";
        const BYTES: &str = "a number of bytes";
        const ADDRESS: &str = "an address as host:port";
        const SECONDS: &str = "a number of seconds";
        Ok(Self {
            nats_url: env.secret_or("CHANCERY_NATS_URL", "nats://127.0.0.1:4222")?,
            nats_user: env.text("CHANCERY_NATS_USER"),
            nats_password: env.secret("CHANCERY_NATS_PASSWORD")?,
            nats_ca_file: env.text("CHANCERY_NATS_CA_FILE").map(PathBuf::from),
            database_url: env.secret("DATABASE_URL")?.unwrap_or_else(|| Secret::new("")),
            database_pool: env.at_least("CHANCERY_DATABASE_POOL", COUNT, 1, 8)?,
            database_timeout: env.millis("CHANCERY_DATABASE_TIMEOUT_MS", 10_000)?,
            partitions: env.at_least("CHANCERY_PARTITIONS", "a number from 1 to 1024", 1, 64)?.min(1024),
            replicas: env.at_least("CHANCERY_REPLICAS", "1, 3 or 5", 1, 1)?,
            commands_max_bytes: env.parsed("CHANCERY_COMMANDS_MAX_BYTES", BYTES, 1 << 30)?,
            events_max_bytes: env.parsed("CHANCERY_EVENTS_MAX_BYTES", BYTES, -1)?,
            events_max_age: Duration::from_secs(env.parsed("CHANCERY_EVENTS_MAX_AGE_S", SECONDS, 0)?),
            deadletters_max_bytes: env.parsed("CHANCERY_DEADLETTERS_MAX_BYTES", BYTES, 256 << 20)?,
            advisories_max_bytes: env.at_least("CHANCERY_ADVISORIES_MAX_BYTES", BYTES, 1, 16 << 20)?,
            advisories_max_age: Duration::from_secs(env.at_least("CHANCERY_ADVISORIES_MAX_AGE_S", SECONDS, 1, 7 * 24 * 3_600)?),
            advisories_look: env.millis("CHANCERY_ADVISORIES_LOOK_MS", 10_000)?,
            authz_age: Duration::from_secs(env.at_least("CHANCERY_AUTHZ_AGE_S", "a number of seconds from 1 to 300", 1, 300)?.min(300)),
            authz_max_bytes: env.at_least("CHANCERY_AUTHZ_MAX_BYTES", BYTES, 1, 64 << 20)?,
            authz_remembered: env.at_least("CHANCERY_AUTHZ_REMEMBERED", COUNT, 1, 100_000)?,
            authz_beat: env.millis("CHANCERY_AUTHZ_BEAT_MS", 200)?,
            publish_timeout: env.millis("CHANCERY_PUBLISH_TIMEOUT_MS", 5_000)?,
            provision_wait: env.millis("CHANCERY_PROVISION_WAIT_MS", 60_000)?,
            manifest: env.text("CHANCERY_MANIFEST").map(PathBuf::from),
            schema_look: env.millis("CHANCERY_SCHEMA_LOOK_MS", 30_000)?,
            drain: env.millis("CHANCERY_DRAIN_MS", 10_000)?,
            worker_name: env.text_or("CHANCERY_WORKER_ID", &std::process::id().to_string()),
            lease: env.millis("CHANCERY_LEASE_MS", 5_000)?,
            batch_commands: env.at_least("CHANCERY_BATCH_COMMANDS", COUNT, 1, 256)?,
            batch_bytes: env.at_least("CHANCERY_BATCH_BYTES", BYTES, 1, 4 << 20)?,
            reader_buffer: env.at_least("CHANCERY_READER_BUFFER", COUNT, 1, 256)?,
            state_cache: env.parsed("CHANCERY_STATE_CACHE", COUNT, 100_000)?,
            crash_limit: env.at_least("CHANCERY_CRASH_LIMIT", COUNT, 1, 3)?,
            janitor_lag: Duration::from_secs(env.parsed("CHANCERY_JANITOR_LAG_S", SECONDS, 3_600)?),
            undecided_after: env.millis("CHANCERY_UNDECIDED_AFTER_MS", 30_000)?,
            backlog_look: env.millis("CHANCERY_BACKLOG_LOOK_MS", 5_000)?,
            outcome_retention: Duration::from_secs(env.parsed("CHANCERY_OUTCOME_RETENTION_S", SECONDS, 30 * 86_400)?),
            listen: env.parsed("CHANCERY_LISTEN", ADDRESS, SocketAddr::from(([127, 0, 0, 1], 8080)))?,
            admin_listen: env.optional("CHANCERY_ADMIN_LISTEN", ADDRESS)?,
            public_url: env.text_or("CHANCERY_PUBLIC_URL", "http://127.0.0.1:8080"),
            token_public_key: env.secret("CHANCERY_TOKEN_PUBLIC_KEY")?,
            token_private_key: env.secret("CHANCERY_TOKEN_PRIVATE_KEY")?,
            link_key: env.key("CHANCERY_LINK_KEY")?,
            fingerprint_key: env.key("CHANCERY_FINGERPRINT_KEY")?,
            body_limit: env.at_least("CHANCERY_BODY_LIMIT", BYTES, 1, 64 << 10)?,
            in_flight: env.at_least("CHANCERY_IN_FLIGHT", COUNT, 1, 1_024)?,
            request_timeout: env.millis("CHANCERY_REQUEST_TIMEOUT_MS", 30_000)?,
            accept_deadline: env.millis("CHANCERY_ACCEPT_DEADLINE_MS", 20_000)?,
            wait: env.millis("CHANCERY_WAIT_MS", 5_000)?,
            rate_per_second: env.parsed("CHANCERY_RATE_PER_SECOND", "a number", 1_000)?,
            public_rate_per_minute: env.at_least("CHANCERY_PUBLIC_RATE_PER_MINUTE", COUNT, 1, 60)?,
            group_commit: env.parsed("CHANCERY_GROUP_COMMIT", "a number", 0)?,
            history_events: env.at_least("CHANCERY_HISTORY_EVENTS", COUNT, 1, 2_000)?,
            streams: env.at_least("CHANCERY_STREAMS", COUNT, 1, 1_000)?,
            streams_per_caller: env.at_least("CHANCERY_STREAMS_PER_CALLER", COUNT, 1, 8)?,
            streams_per_tenant: env.at_least("CHANCERY_STREAMS_PER_TENANT", COUNT, 1, 200)?,
            stream_heartbeat: env.millis("CHANCERY_STREAM_HEARTBEAT_MS", 15_000)?,
            stream_retry: env.millis("CHANCERY_STREAM_RETRY_MS", 2_000)?,
            stream_stall: env.millis("CHANCERY_STREAM_STALL_MS", 30_000)?,
            stream_buffer: env.at_least("CHANCERY_STREAM_BUFFER", COUNT, 1, 128)?,
            note_every: Duration::from_millis(env.parsed("CHANCERY_NOTE_EVERY_MS", "a number of milliseconds", 1_000)?),
            note_retention: Duration::from_secs(env.parsed("CHANCERY_NOTE_RETENTION_S", SECONDS, 7 * 86_400)?),
            mail: env.secret("CHANCERY_MAIL")?,
            mail_from: env.text_or("CHANCERY_MAIL_FROM", "Chancery <no-reply@localhost>"),
            mails_per_user_hour: env.at_least("CHANCERY_MAILS_PER_USER_HOUR", COUNT, 1, 100)?,
            mails_per_tenant_hour: env.at_least("CHANCERY_MAILS_PER_TENANT_HOUR", COUNT, 1, 1_000)?,
            mail_page: env.at_least("CHANCERY_MAIL_PAGE", COUNT, 1, 500)?,
            consumer_batch: env.at_least("CHANCERY_CONSUMER_BATCH", COUNT, 1, 256)?,
            reactions_at_once: env.at_least("CHANCERY_REACTIONS_AT_ONCE", COUNT, 1, 64)?,
            reaction_page: env.at_least("CHANCERY_REACTION_PAGE", COUNT, 1, 256)?,
            member_limits: member_limits(env)?,
            pending_invitations: env.at_least("CHANCERY_PENDING_INVITATIONS", COUNT, 1, 10_000)?,
            teams: env.at_least("CHANCERY_TEAMS", COUNT, 1, 1_000)?,
            team_members: env.at_least("CHANCERY_TEAM_MEMBERS", COUNT, 1, 1_000)?,
            teams_per_member: env.at_least("CHANCERY_TEAMS_PER_MEMBER", COUNT, 1, 64)?,
            soft_deletion: Duration::from_secs(env.parsed("CHANCERY_SOFT_DELETION_S", SECONDS, 90 * 86_400)?),
            guarded: env.text_or("CHANCERY_GUARDED", "0") == "1",
            threads: env.optional::<std::num::NonZeroUsize>("CHANCERY_THREADS", COUNT)?.map(std::num::NonZeroUsize::get),
            publish_pace: Duration::from_millis(env.parsed("CHANCERY_PUBLISH_PACE_MS", "a number of milliseconds", 25)?),
            log: env.text_or("CHANCERY_LOG", "info"),
            log_json: env.text_or("CHANCERY_LOG_FORMAT", "text") == "json",
            otlp_endpoint: env.text("OTEL_EXPORTER_OTLP_ENDPOINT"),
            otlp_metrics_every: Duration::from_millis(env.parsed("OTEL_METRIC_EXPORT_INTERVAL", "a number of milliseconds", 60_000)?),
            trace: env.text_or("CHANCERY_TRACE", "chancery=info,command_gateway=info,runtime=info"),
            sampler: env.parsed("OTEL_TRACES_SAMPLER", Sampler::EXPECTED, Sampler::All)?,
            sampled: env.at_least("OTEL_TRACES_SAMPLER_ARG", "a number from 0 to 1", 0.0_f64, 1.0)?.min(1.0),
            data: env.text_or("CHANCERY_DATA", ".chancery").into(),
            failpoint: env.text("CHANCERY_FAILPOINT"),
        })
    }
}
