//! What an answer teaches, and the reads right after it.

use std::collections::VecDeque;

use serde_json::Value;
use subjects::{TenantId, UserId};
use uuid::Uuid;

use super::{
    Shared,
    client::{Client, Try, uuid},
    kinds::Kinds,
    mix::Wanted,
    pursue::Ended,
    world::{Hot, Invitation, Team, Tenant, User, remember},
};
use crate::chaos::history::{Answer, End, OpId, Request, What};

/// How often the members of a new tenant are asked for, to learn who owns it.
const TRIES: u32 = 200;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// Records what an answer has of other tenants.
pub(super) fn strangers(shared: &Shared, wanted: &Wanted, text: &str) {
    // The request that makes a tenant has its marker before anybody knows the tenant.
    for marker in shared.world.strangers(text, wanted.tenant) {
        shared.history.add(What::Leak { marker, place: format!("answer to {} {}", wanted.wish.request.method, wanted.wish.request.path) });
    }
}

/// Takes in what a wish's end teaches.
pub(super) async fn learn(shared: &Shared, client: &Client, wanted: &Wanted, op: OpId, ended: &Ended) {
    if ended.end != End::Succeeded {
        return;
    }
    let (body, sent) = (&ended.said.body, wanted.wish.body.as_ref());
    let (Some(id), version) = (uuid(body.get("aggregateId")), body.get("version").and_then(Value::as_u64).unwrap_or_default()) else { return };
    let text = |name: &str| sent.and_then(|sent| sent.get(name)).and_then(Value::as_str).unwrap_or_default().to_owned();
    if wanted.kind == Kinds::CreateTenant {
        return new_tenant(shared, client, id, version, text("slug")).await;
    }
    let Some(tenant) = wanted.tenant else { return };
    match wanted.kind {
        Kinds::CreateUser | Kinds::CreateGuest => {
            let user = User { id, email: text("email"), guest: wanted.kind == Kinds::CreateGuest };
            shared.world.with(tenant, |tenant| remember(&mut tenant.users, user));
            read_own_write(shared, client, tenant, Some(id), version, op).await;
        }
        Kinds::CreateHot => shared.world.with(tenant, |tenant| tenant.hot.push(Hot { id, version })),
        Kinds::RenameHot => {
            shared.world.with(tenant, |tenant| {
                if let Some(hot) = tenant.hot.iter_mut().find(|hot| hot.id == id) {
                    hot.version = hot.version.max(version);
                }
            });
            if rand::random_bool(0.3) {
                read_register(shared, client, tenant, id).await;
            }
        }
        Kinds::Rename => read_own_write(shared, client, tenant, Some(id), version, op).await,
        Kinds::RenameTenant => {
            shared.world.with(tenant, |tenant| tenant.version = tenant.version.max(version));
            read_own_write(shared, client, tenant, None, version, op).await;
        }
        Kinds::Deactivate => shared.world.with(tenant, |tenant| tenant.users.retain(|user| user.id != id)),
        Kinds::Invite | Kinds::InviteGuest => {
            // An answer that was read later carries no link: it is shown once.
            let Some(token) = body.get("link").and_then(Value::as_str).and_then(|link| link.split_once("#token=")).map(|(_, token)| token.to_owned())
            else {
                return;
            };
            let email = text("email");
            let guest = if wanted.kind == Kinds::InviteGuest { guest_token(shared, &email) } else { None };
            shared.world.with(tenant, |tenant| remember(&mut tenant.invitations, Invitation { id, token, email, guest, tried: false }));
        }
        // Some are tried again all the same: `invalid_state` is a right answer.
        Kinds::Accept | Kinds::Decline | Kinds::Withdraw if rand::random_bool(0.8) => {
            shared.world.with(tenant, |tenant| tenant.invitations.retain(|invitation| invitation.id != id));
        }
        Kinds::CreateTeam => shared.world.with(tenant, |tenant| remember(&mut tenant.teams, Team { id, members: Vec::new() })),
        Kinds::JoinTeam => {
            let members = sent.and_then(|sent| sent.get("userIds")).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let members: Vec<Uuid> = members.iter().filter_map(|id| uuid(Some(id))).collect();
            shared.world.with(tenant, |tenant| {
                if let Some(team) = tenant.teams.iter_mut().find(|team| team.id == id) {
                    team.members.extend(members);
                    team.members.sort_unstable();
                    team.members.dedup();
                }
            });
        }
        Kinds::DeleteTeam => shared.world.with(tenant, |tenant| tenant.teams.retain(|team| team.id != id)),
        _ => {}
    }
}

/// The token of the person with this address, whoever's tenant it is.
fn guest_token(shared: &Shared, email: &str) -> Option<String> {
    let found = shared.world.tenants().iter().find_map(|tenant| Some((tenant.id, tenant.users.iter().find(|user| user.email == email)?.id)));
    let (home, user) = found?;
    shared.token(&UserId::new(user).to_string(), &TenantId::new(home).to_string()).ok()
}

/// A tenant that was made: its owner must be known before anybody can act in it.
async fn new_tenant(shared: &Shared, client: &Client, id: Uuid, version: u64, slug: String) {
    let path = format!("/v1/tenants/{}/members", TenantId::new(id));
    for _ in 0..TRIES {
        let said = client.send(&Try::get(&path, &shared.operator)).await;
        let owner = said.body.pointer("/items/0/userId");
        if let Some(owner) = uuid(owner)
            && let Ok(token) = shared.token(&UserId::new(owner).to_string(), &TenantId::new(id).to_string())
        {
            let tenant = Tenant {
                id,
                marker: slug,
                owner,
                token,
                version,
                hot: Vec::new(),
                users: VecDeque::new(),
                invitations: VecDeque::new(),
                teams: VecDeque::new(),
            };
            shared.world.add(tenant);
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Reads what was just written: it must show at least the version that was answered. A read that cannot be answered shows nothing.
async fn read_own_write(shared: &Shared, client: &Client, tenant: Uuid, user: Option<Uuid>, version: u64, op: OpId) {
    let Some((path, answer)) = read(shared, client, tenant, user, false).await else { return };
    let right = match answer.status {
        Some(200) => answer.version.is_some_and(|shown| shown >= version),
        Some(404) => false,
        _ => true,
    };
    if !right {
        let detail = format!("GET {path} answered {:?} with version {:?} after version {version} had been answered", answer.status, answer.version);
        shared.history.add(What::Stale { op, detail });
    }
}

/// Reads the name of somebody whom others are renaming.
pub(super) async fn read_register(shared: &Shared, client: &Client, tenant: Uuid, user: Uuid) {
    read(shared, client, tenant, Some(user), true).await;
}

/// One read of a user, or of the tenant itself; its path and its answer. None where nothing is known of the tenant.
async fn read(shared: &Shared, client: &Client, tenant: Uuid, user: Option<Uuid>, register: bool) -> Option<(String, Answer)> {
    let token = shared.world.tenants().iter().find(|known| known.id == tenant).map(|known| known.token.clone())?;
    let base = format!("/v1/tenants/{}", TenantId::new(tenant));
    let path = user.map_or_else(|| base.clone(), |user| format!("{base}/users/{}", UserId::new(user)));
    let request = Request {
        kind: "read",
        tenant: Some(tenant),
        method: "GET".into(),
        path: path.clone(),
        register: user.filter(|_| register),
        ..Request::default()
    };
    let op = shared.history.invoke(shared.history.now(), request);
    let said = client.send(&Try::get(&path, &token)).await;
    for marker in shared.world.strangers(&said.text, Some(tenant)) {
        shared.history.add(What::Leak { marker, place: format!("answer to GET {path}") });
    }
    let name = if user.is_some() { "fullName" } else { "name" };
    let answer = Answer { value: said.body.get(name).and_then(Value::as_str).map(str::to_owned), ..said.answer };
    shared.history.answer(op, answer.clone());
    shared.history.end(op, if matches!(answer.status, Some(200 | 404)) { End::Read } else { End::Unknown });
    Some((path, answer))
}
