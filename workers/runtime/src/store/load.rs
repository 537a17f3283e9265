//! What a batch reads before it is decided: outcomes, tenants, states, claims and what names what, each in one statement, all in one
//! round trip.

use std::collections::{BTreeSet, HashMap, HashSet};

use aggregates::{Claim, Holder, Key, Roster, State, Versioned, World};
use subjects::{CommandId, TeamId, TenantId};
use time::OffsetDateTime;
use tokio_postgres::{Client, Error, Statement};
use uuid::Uuid;

/// The sequence and clock of a tenant, which are those of its last event; its roster is in the [`World`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TenantHead {
    /// The tenant's last event.
    pub sequence: u64,
    /// When that was.
    pub last_event_at: OffsetDateTime,
}

/// Why a batch could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The connection or the server.
    #[error(transparent)]
    Database(#[from] Error),
    /// A stored state that this version cannot read: a newer one wrote it, or it is damaged.
    #[error("the stored state of {0} cannot be read: {1}")]
    State(String, serde_json::Error),
}

/// The prepared statements of [`load`]. A lateral subquery with `OFFSET 0` is looked up by index row by row, whatever the planner
/// believes about tables without statistics.
#[derive(Debug)]
pub struct Statements {
    outcomes: Statement,
    tenants: Statement,
    states: Statement,
    claims: Statement,
    naming: Statement,
}

impl Statements {
    /// Prepares.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn prepare(client: &Client) -> Result<Self, Error> {
        Ok(Self {
            outcomes: client
                .prepare("SELECT u.id, c.outcome::text FROM unnest($1::uuid[]) u (id) CROSS JOIN LATERAL (SELECT outcome FROM commands WHERE id = u.id OFFSET 0) c")
                .await?,
            tenants: client
                .prepare(
                    "SELECT u.id, e.sequence, e.occurred_at, t.roster::text FROM unnest($1::uuid[]) u (id)
                     CROSS JOIN LATERAL (SELECT roster FROM tenants WHERE tenant_id = u.id OFFSET 0) t
                     CROSS JOIN LATERAL (SELECT sequence, occurred_at FROM events WHERE tenant_id = u.id ORDER BY sequence DESC LIMIT 1) e",
                )
                .await?,
            states: client
                .prepare(
                    "SELECT u.ord, a.version, a.state::text, a.created_at
                     FROM unnest($1::uuid[], $2::text[], $3::uuid[]) WITH ORDINALITY u (tenant, kind, id, ord)
                     CROSS JOIN LATERAL (SELECT version, state, created_at FROM aggregates
                                         WHERE tenant_id = u.tenant AND kind = u.kind AND id = u.id OFFSET 0) a",
                )
                .await?,
            claims: client
                .prepare(
                    "SELECT u.ord, c.tenant_id, c.holder FROM unnest($1::text[], $2::text[]) WITH ORDINALITY u (scope, value, ord)
                     CROSS JOIN LATERAL (SELECT tenant_id, holder FROM claims WHERE scope = u.scope AND value = u.value OFFSET 0) c",
                )
                .await?,
            naming: client
                .prepare(
                    "SELECT u.ord, n.team_id FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY u (tenant, id, ord)
                     CROSS JOIN LATERAL (SELECT team_id FROM team_names WHERE tenant_id = u.tenant AND named = u.id OFFSET 0) n",
                )
                .await?,
        })
    }
}

/// What a batch wants to know. Only what is not in the world already needs to be asked for.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Commands whose outcome may exist.
    pub commands: Vec<Uuid>,
    /// Tenants without a head.
    pub tenants: HashSet<TenantId>,
    /// States not in the world.
    pub states: HashSet<Key>,
    /// Claims; always asked for, as other tenants' owners change them too.
    pub claims: HashSet<Claim>,
    /// People and teams of which the world does not know which teams name them.
    pub naming: HashSet<(TenantId, Uuid)>,
}

/// Loads into the world; what does not exist is entered as known not to. Returns the outcomes found, as stored.
///
/// # Errors
/// [`LoadError`].
pub async fn load(
    client: &Client,
    statements: &Statements,
    wanted: &Wanted,
    world: &mut World,
    heads: &mut HashMap<TenantId, TenantHead>,
) -> Result<HashMap<CommandId, String>, LoadError> {
    let tenants: Vec<Uuid> = wanted.tenants.iter().map(|tenant| tenant.uuid()).collect();
    let keys: Vec<Key> = wanted.states.iter().copied().collect();
    let key_tenants: Vec<Uuid> = keys.iter().map(|key| key.tenant.uuid()).collect();
    let key_kinds: Vec<&str> = keys.iter().map(|key| key.kind.name()).collect();
    let key_ids: Vec<Uuid> = keys.iter().map(|key| key.id).collect();
    let claims: Vec<&Claim> = wanted.claims.iter().collect();
    let scopes: Vec<&str> = claims.iter().map(|claim| claim.scope.name()).collect();
    let values: Vec<&str> = claims.iter().map(|claim| claim.value.as_str()).collect();
    let named: Vec<(TenantId, Uuid)> = wanted.naming.iter().copied().collect();
    let named_tenants: Vec<Uuid> = named.iter().map(|(tenant, _)| tenant.uuid()).collect();
    let named_ids: Vec<Uuid> = named.iter().map(|(_, id)| *id).collect();

    // An empty question is not asked. The others are sent together and answered in one round trip.
    let outcome_values: [Parameter<'_>; 1] = [&wanted.commands];
    let tenant_values: [Parameter<'_>; 1] = [&tenants];
    let state_values: [Parameter<'_>; 3] = [&key_tenants, &key_kinds, &key_ids];
    let claim_values: [Parameter<'_>; 2] = [&scopes, &values];
    let naming_values: [Parameter<'_>; 2] = [&named_tenants, &named_ids];
    let (outcome_rows, tenant_rows, state_rows, claim_rows, naming_rows) = tokio::try_join!(
        query(client, &statements.outcomes, &outcome_values, wanted.commands.is_empty()),
        query(client, &statements.tenants, &tenant_values, tenants.is_empty()),
        query(client, &statements.states, &state_values, keys.is_empty()),
        query(client, &statements.claims, &claim_values, claims.is_empty()),
        query(client, &statements.naming, &naming_values, named.is_empty()),
    )?;

    for row in tenant_rows {
        let tenant = TenantId::new(row.get(0));
        let head = TenantHead { sequence: row.get::<_, i64>(1) as u64, last_event_at: row.get(2) };
        let roster: Roster = serde_json::from_str(row.get(3)).map_err(|error| LoadError::State(format!("roster of {tenant}"), error))?;
        heads.insert(tenant, head);
        world.rosters.insert(tenant, roster);
    }
    for tenant in &wanted.tenants {
        heads.entry(*tenant).or_insert(TenantHead { sequence: 0, last_event_at: OffsetDateTime::UNIX_EPOCH });
        world.rosters.entry(*tenant).or_default();
    }
    for key in &keys {
        world.states.insert(*key, None);
    }
    for row in state_rows {
        let key = keys[row.get::<_, i64>(0) as usize - 1];
        let state = State::parse(key.kind, row.get(2)).map_err(|error| LoadError::State(format!("{} {}", key.kind, key.id_text()), error))?;
        world.states.insert(key, Some(Versioned { version: row.get::<_, i64>(1) as u64, state, created_at: row.get(3) }));
    }
    for claim in &claims {
        world.claims.insert((*claim).clone(), None);
    }
    for row in claim_rows {
        let claim = claims[row.get::<_, i64>(0) as usize - 1].clone();
        world.claims.insert(claim, Some(Holder { tenant: TenantId::new(row.get(1)), id: row.get(2) }));
    }
    for key in &named {
        world.naming.insert(*key, BTreeSet::new());
    }
    for row in naming_rows {
        let key = named[row.get::<_, i64>(0) as usize - 1];
        world.naming.entry(key).or_default().insert(TeamId::new(row.get(1)));
    }
    Ok(outcome_rows.iter().map(|row| (CommandId::new(row.get(0)), row.get(1))).collect())
}

/// A value of a statement.
type Parameter<'a> = &'a (dyn tokio_postgres::types::ToSql + Sync);

async fn query(client: &Client, statement: &Statement, parameters: &[Parameter<'_>], nothing_asked: bool) -> Result<Vec<tokio_postgres::Row>, Error> {
    if nothing_asked { Ok(Vec::new()) } else { client.query(statement, parameters).await }
}
