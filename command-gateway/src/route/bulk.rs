//! Many invitations in one request: one command each, and a result per item. A bad item costs the others nothing.

use std::collections::HashSet;

use axum::{extract::State, response::Response};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use subjects::{CommandId, InvitationId, Kind, derive};
use utoipa::ToSchema;

use super::{
    Endpoint, Order,
    invitation::{CreateInvitation, invite},
};
use crate::{
    answer::{CommandState, CommandView, EventRef, json},
    body::{Body, Fields, Form, read},
    gateway::Gateway,
    guard::Access,
    policy::{Policy, Verb},
    problem::{Code, FieldError, Problem, ProblemBody},
    request::Meta,
    submit::Fate,
};

/// Invitations in one request at most.
const ITEMS: usize = 100;

static BULK: Policy = Policy::command(Verb::Post, "/v1/tenants/{t}/invitations/bulk", Kind::Invitation, "create", "invitations:write");

/// The route of many invitations.
pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![Endpoint::new(&BULK, bulk)]
}

/// Several new invitations.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BulkInvitations {
    /// Each as one would be made out alone; they are checked one by one.
    #[schema(value_type = Vec<CreateInvitation>, min_items = 1, max_items = 100)]
    invitations: Vec<Value>,
}

impl Form for BulkInvitations {
    const PIECEMEAL: bool = true;

    fn check(fields: &mut Fields<'_>) {
        fields.required::<Vec<Value>>("invitations");
    }
}

/// What became of each item, in their order.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkResults {
    /// One result an item.
    results: Vec<BulkResult>,
}

/// What became of one item.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BulkResult {
    /// Which item, from 0.
    index: usize,
    /// The HTTP status it would have had alone: 201, 202 where it is not decided yet, or its problem's.
    status: u16,
    /// Its command.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    command_id: Option<CommandId>,
    /// The new invitation.
    #[serde(skip_serializing_if = "Option::is_none")]
    aggregate_id: Option<String>,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    /// The tenant's last sequence after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// The events it caused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    events: Vec<EventRef>,
    /// The link of an invitation of type `link`, once.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<String>,
    /// Why there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody>,
}

impl BulkResult {
    fn of(index: usize, id: Option<CommandId>, done: Result<(Fate, Option<String>), Problem>) -> Self {
        let (view, link) = match done {
            Ok((Fate::Pending, _)) => (None, None),
            Ok((Fate::Decided(outcome), link)) => (Some(CommandView::decided(&outcome)), link),
            Err(problem) => {
                let body = problem.body();
                let id = body.command_id.or(id);
                return Self { index, status: body.status, command_id: id, problem: Some(body), ..Self::empty() };
            }
        };
        let Some(view) = view else { return Self { index, status: 202, command_id: id, ..Self::empty() } };
        let succeeded = view.status == CommandState::Succeeded;
        Self {
            index,
            status: view.problem.as_ref().map_or(201, |problem| problem.status),
            command_id: id,
            aggregate_id: view.aggregate_id.filter(|_| succeeded),
            version: view.version,
            sequence: view.sequence,
            events: view.events,
            link: link.filter(|_| succeeded),
            problem: view.problem,
        }
    }

    const fn empty() -> Self {
        Self {
            index: 0,
            status: 0,
            command_id: None,
            aggregate_id: None,
            version: None,
            sequence: None,
            events: Vec::new(),
            link: None,
            problem: None,
        }
    }
}

/// Invite several people: one command each.
#[utoipa::path(post, path = "/v1/tenants/{t}/invitations/bulk", tag = "invitation", request_body = BulkInvitations,
    responses((status = 200, body = BulkResults)))]
pub(crate) async fn bulk(State(gateway): State<Gateway>, access: Access, meta: Meta, body: Body<BulkInvitations>) -> Result<Response, Problem> {
    let items = &body.data.invitations;
    if !(1..=ITEMS).contains(&items.len()) {
        let count = FieldError::new("/invitations", format!("must be 1 to {ITEMS} invitations"));
        return Err(Problem::new(Code::ValidationFailed).errors(vec![count]));
    }
    let base = meta.command_id(&access.tenant.to_string(), &access.caller.principal);
    // Under a key the same item has the same command; the whole body is what the key stands for.
    let ids: Vec<CommandId> = (0..ITEMS).map(|index| derive(base.uuid(), &format!("bulk/{index}"))).collect();
    let known = decided(&gateway, &meta, &body.bytes, &ids).await?;
    let each = items.iter().zip(&ids).enumerate().map(async |(index, (item, id))| {
        // The request has counted as one already, and what was decided before does not count again.
        if index > 0
            && !known.contains(id)
            && let Err(problem) = gateway.limits.caller(&access.caller)
        {
            return BulkResult::of(index, None, Err(problem));
        }
        match read::<CreateInvitation>(item.to_string().as_bytes()) {
            Err(problem) => BulkResult::of(index, None, Err(problem)),
            Ok(form) => BulkResult::of(index, Some(*id), send(&gateway, &access, &meta, &body.bytes, *id, form).await),
        }
    });
    let results = BulkResults { results: join_all(each).await };
    Ok(json(serde_json::to_vec(&results).map_err(|_| Problem::new(Code::Internal))?))
}

/// Which commands of the key were decided before.
///
/// # Errors
/// Another body was sent under the key: it has no effect, not even where this one has more items.
async fn decided(gateway: &Gateway, meta: &Meta, bytes: &[u8], ids: &[CommandId]) -> Result<HashSet<CommandId>, Problem> {
    let Some(fingerprint) = gateway.commands.fingerprint(meta, bytes) else { return Ok(HashSet::new()) };
    let outcomes = gateway.store.outcomes(ids).await?;
    if let Some(other) = outcomes.iter().find(|outcome| outcome.fingerprint.as_ref().is_some_and(|theirs| *theirs != fingerprint)) {
        return Err(Problem::new(Code::IdempotencyKeyReused).about(other.command_id));
    }
    Ok(outcomes.into_iter().map(|outcome| outcome.command_id).collect())
}

async fn send(
    gateway: &Gateway,
    access: &Access,
    meta: &Meta,
    bytes: &[u8],
    id: CommandId,
    form: CreateInvitation,
) -> Result<(Fate, Option<String>), Problem> {
    let invitation: InvitationId = derive(id.uuid(), "invitation");
    let (data, link) = invite(gateway, invitation, form)?;
    let order = Order { id, aggregate: invitation.to_string(), ..Order::to(access, meta, String::new()) };
    Ok((order.carry_out(gateway, meta, bytes, &data).await?, link))
}
