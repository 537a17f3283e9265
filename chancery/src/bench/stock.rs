//! Invitations by the hundred thousand: states as the domain serialises them, written past the pipeline (it would be busy with that for
//! minutes), and what they are then found by.

use aggregates::{
    State,
    invitation::{self, InvitationType, Status},
};
use anyhow::Context as _;
use serde_json::json;
use subjects::{Kind, Role, TenantId, UserId};
use time::{Duration, OffsetDateTime};
use tokio_postgres::Client;
use uuid::Uuid;

/// Departments that the attribute `department` names, each as often.
pub const DEPARTMENTS: usize = 500;
/// Rows written by one statement.
const CHUNK: usize = 1_000;

/// The state of an invitation by its number: one of six states, a department and a floor.
fn state(number: usize, now: OffsetDateTime, inviter: UserId) -> anyhow::Result<invitation::State> {
    const STATES: [Status; 6] = [Status::Created, Status::Sent, Status::Accepted, Status::Declined, Status::Removed, Status::Expired];
    Ok(invitation::State {
        email: format!("invited{number}@stock.example"),
        invitation_type: InvitationType::Email,
        role: Role::Member,
        team_ids: Vec::new(),
        attributes: serde_json::from_value(json!({ "department": format!("d{}", number % DEPARTMENTS), "floor": number % 7 }))?,
        status: STATES[number % STATES.len()],
        expires_at: now + Duration::days(1) + Duration::seconds(i64::try_from(number * 7_919 % 500_000)?),
        token_hash: format!("{number:064x}"),
        token_version: 1,
        resend_count: 0,
        created_by: Some(subjects::Actor::User(inviter)),
        account_id: None,
    })
}

/// Writes so many invitations of a tenant, and lets the planner know. As a superuser: row level security is in the way of everybody else.
///
/// # Errors
/// The database refuses.
pub async fn fill(client: &Client, tenant: TenantId, inviter: UserId, count: usize) -> anyhow::Result<()> {
    const INSERT: &str = "INSERT INTO aggregates (tenant_id, kind, id, version, schema_version, state, due_at, created_at, updated_at)
        SELECT $1, $2, i, 1, $3, s::jsonb, NULL, c, c FROM unnest($4::uuid[], $5::text[], $6::timestamptz[]) u (i, s, c)";
    let now = OffsetDateTime::now_utc();
    for chunk in (0..count).collect::<Vec<_>>().chunks(CHUNK) {
        let states = chunk.iter().map(|number| Ok(serde_json::to_string(&State::from(state(*number, now, inviter)?))?));
        let states = states.collect::<anyhow::Result<Vec<String>>>()?;
        let ids: Vec<Uuid> = chunk.iter().map(|_| Uuid::now_v7()).collect();
        let times: Vec<OffsetDateTime> = chunk.iter().map(|number| now - Duration::milliseconds((count - number) as i64)).collect();
        let kind = Kind::Invitation.to_string();
        client.execute(INSERT, &[&tenant.uuid(), &kind, &State::SCHEMA_VERSION, &ids, &states, &times]).await.context("writing invitations")?;
    }
    client.batch_execute("VACUUM ANALYZE aggregates").await.context("counting for the planner")
}

/// What a list of invitations is asked for: by state, by order, by attribute, and together.
pub const QUESTIONS: [&[(&str, &str)]; 9] = [
    &[],
    &[("state", "sent")],
    &[("state", "sent"), ("page", "100")],
    &[("orderBy", "createdAt")],
    &[("orderBy", "email")],
    &[("orderBy", "-state")],
    &[("orderBy", "expiresAt")],
    &[("attr.department", "d7")],
    &[("attr.department", "d7"), ("attr.floor", "3"), ("state", "sent"), ("orderBy", "-email")],
];

/// How the rows of the invitations themselves are reached in the plan of each question: node types and indexes, from the top down.
///
/// # Errors
/// The database refuses.
pub async fn plans(client: &Client, tenant: TenantId, question: &[(&str, &str)]) -> anyhow::Result<Vec<String>> {
    let as_gateway = format!("BEGIN READ ONLY; SET LOCAL ROLE chancery_gateway; SELECT set_config('chancery.tenant', '{}', true)", tenant.uuid());
    client.batch_execute(&as_gateway).await?;
    let plans = command_gateway::explain_invitations(client, question).await;
    client.batch_execute("ROLLBACK").await?;
    let plans = plans.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(plans.iter().map(|plan| path(&plan[0]["Plan"])).collect())
}

/// The nodes from the top down, along the first child. What is looked up for the rows shown hangs beside it.
fn path(node: &serde_json::Value) -> String {
    let name = node["Node Type"].as_str().unwrap_or("?");
    let index = node["Index Name"].as_str().map(|index| format!(" {index}")).unwrap_or_default();
    let children = node["Plans"].as_array().map(Vec::as_slice).unwrap_or_default();
    let main = children.iter().find(|child| child["Parent Relationship"] == "Outer" || child["Parent Relationship"] == "Subquery");
    let below = main.map(|child| format!(" < {}", path(child))).unwrap_or_default();
    format!("{name}{index}{below}")
}
