//! Reading: short read-only transactions, each seeing one tenant only.

use std::{fmt::Write as _, time::Duration};

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, PoolError, RecyclingMethod, Runtime, Timeouts};
use futures_util::{
    FutureExt as _,
    future::{join, join_all},
};
use runtime::Config;
use subjects::{Actor, CommandId, Outcome, TenantId};
use tokio_postgres::{NoTls, Row, types::ToSql};

use crate::problem::{Code, Problem};

/// How long a request waits for a connection before the database counts as out of reach.
const PATIENCE: Duration = Duration::from_secs(2);
/// Outcomes asked for with one query at most.
pub(crate) const OUTCOMES: usize = 1_000;

/// Why nothing could be read. The text is for logs, never for callers.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot read from PostgreSQL: {0}")]
pub(crate) struct StoreError(String);

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        tracing::warn!(%error, "a query failed");
        Self::new(Code::Unavailable)
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self(error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
    }
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> Self {
        Self(error.to_string())
    }
}

/// Whose rows a transaction sees; what is not named is not seen.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Sight {
    /// The rows of a tenant.
    pub(crate) tenant: Option<TenantId>,
    /// Every tenant's own row, and every outcome.
    pub(crate) operator: bool,
    /// The outcomes of a person's or program's commands.
    pub(crate) actor: Option<Actor>,
}

impl Sight {
    /// The rows of one tenant.
    pub(crate) const fn of(tenant: TenantId) -> Self {
        Self { tenant: Some(tenant), operator: false, actor: None }
    }

    /// The statement that begins such a transaction. Every value is an id of ours, so nothing needs quoting.
    fn begin(&self) -> String {
        let mut text = "BEGIN READ ONLY".to_owned();
        let mut set = |name: &str, value: &dyn std::fmt::Display| {
            let _ = write!(text, "; SELECT set_config('chancery.{name}', '{value}', true)");
        };
        if let Some(tenant) = self.tenant {
            set("tenant", &tenant.uuid());
        }
        if self.operator {
            set("operator", &"on");
        }
        if let Some(actor) = self.actor {
            set("actor", &actor);
        }
        text
    }
}

/// One statement with its parameters.
pub(crate) struct Query<'a> {
    /// The statement.
    pub(crate) sql: &'a str,
    /// Its parameters.
    pub(crate) params: &'a [&'a (dyn ToSql + Sync)],
}

/// The database as the gateway sees it.
#[derive(Clone)]
pub(crate) struct Store {
    pool: Pool,
    limit: Duration,
}

impl Store {
    /// Prepares a pool; no connection is made before the first query.
    ///
    /// # Errors
    /// An address that cannot be read.
    pub(crate) fn new(config: &Config) -> Result<Self, StoreError> {
        let mut options: tokio_postgres::Config = config.database_url.expose().parse().map_err(StoreError::from)?;
        let millis = config.database_timeout.as_millis();
        options
            .application_name("chancery gateway")
            .connect_timeout(config.database_timeout)
            .tcp_user_timeout(config.database_timeout)
            .keepalives_idle(Duration::from_secs(15))
            .options(format!("-c statement_timeout={millis} -c default_transaction_read_only=on -c idle_in_transaction_session_timeout={millis}"));
        let manager = Manager::from_config(options, NoTls, ManagerConfig { recycling_method: RecyclingMethod::Fast });
        let pool = Pool::builder(manager)
            .max_size(config.database_pool)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts { wait: Some(PATIENCE), create: Some(config.database_timeout), recycle: Some(PATIENCE) })
            .build()
            .map_err(|error| StoreError(error.to_string()))?;
        // A server that stopped answering is noticed here; one that answers slowly ends the statement itself, a little earlier.
        Ok(Self { pool, limit: config.database_timeout + Duration::from_millis(500) })
    }

    /// Runs statements in one transaction, with one round trip once they are prepared.
    pub(crate) async fn read(&self, sight: Sight, queries: &[Query<'_>]) -> Result<Vec<Vec<Row>>, StoreError> {
        tokio::time::timeout(self.limit, self.pipelined(sight, queries)).await.map_err(|_| StoreError("no answer in time".into()))?
    }

    /// Runs one statement; its rows.
    pub(crate) async fn rows(&self, sight: Sight, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        Ok(self.read(sight, &[Query { sql, params }]).await?.pop().unwrap_or_default())
    }

    /// Runs one statement that selects one text; the first row's.
    pub(crate) async fn text(&self, sight: Sight, sql: &str, params: &[&(dyn ToSql + Sync)]) -> Result<Option<String>, StoreError> {
        self.rows(sight, sql, params).await?.first().map(|row| row.try_get(0)).transpose().map_err(StoreError::from)
    }

    /// A connection. One that has to be made goes on being made when whoever asked has lost patience: given up each time, none would ever
    /// be there on a machine where making one takes longer, and it is the next request's otherwise.
    async fn client(&self) -> Result<Object, StoreError> {
        let pool = self.pool.clone();
        let mut getting = Box::pin(async move { pool.get().await });
        if let Some(idle) = getting.as_mut().now_or_never() {
            return Ok(idle?);
        }
        let making = tokio::spawn(getting);
        let made = tokio::time::timeout(PATIENCE, making).await.map_err(|_| StoreError("no connection in time".into()))?;
        Ok(made.map_err(|error| StoreError(error.to_string()))??)
    }

    async fn pipelined(&self, sight: Sight, queries: &[Query<'_>]) -> Result<Vec<Vec<Row>>, StoreError> {
        let client = self.client().await?;
        let mut statements = Vec::with_capacity(queries.len());
        for query in queries {
            statements.push(client.prepare_cached(query.sql).await?);
        }
        // All messages are handed over at the first poll and in this order, so that a request that is given up still ends its
        // transaction; without the settings of a failed BEGIN a statement sees no rows.
        let begin = sight.begin();
        let rows = queries.iter().zip(&statements).map(|(query, statement)| client.query(statement, query.params));
        let (begun, (rows, ended)) = join(client.batch_execute(&begin), join(join_all(rows), client.batch_execute("COMMIT"))).await;
        begun?;
        let rows = rows.into_iter().collect::<Result<Vec<_>, _>>()?;
        ended?;
        Ok(rows)
    }

    /// The outcomes among these commands, whoever gave them: only those who wait for them are told.
    pub(crate) async fn outcomes(&self, commands: &[CommandId]) -> Result<Vec<Outcome>, StoreError> {
        const SQL: &str = "SELECT c.outcome::text FROM unnest($1::uuid[]) AS asked (id) JOIN commands c ON c.id = asked.id";
        let ids: Vec<uuid::Uuid> = commands.iter().map(|id| id.uuid()).collect();
        let rows = self.rows(Sight { operator: true, ..Sight::default() }, SQL, &[&ids]).await?;
        let read = |row: &Row| {
            let text: &str = row.try_get(0)?;
            serde_json::from_str(text).map_err(|error| StoreError(error.to_string()))
        };
        rows.iter().map(read).collect()
    }

    /// Whether the database answers.
    pub(crate) async fn answers(&self) -> bool {
        self.rows(Sight::default(), "SELECT 1", &[]).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_sees_what_it_names_and_nothing_else() {
        let tenant: TenantId = "tenant_01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(Sight::default().begin(), "BEGIN READ ONLY");
        assert_eq!(Sight::of(tenant).begin(), "BEGIN READ ONLY; SELECT set_config('chancery.tenant', '01890a5d-ac96-774b-bcce-b302099a8057', true)");
        let all = Sight { operator: true, actor: Some(Actor::System), ..Sight::default() };
        assert_eq!(
            all.begin(),
            "BEGIN READ ONLY; SELECT set_config('chancery.operator', 'on', true); SELECT set_config('chancery.actor', 'system', true)"
        );
    }
}
