//! What clients want: a mix of the catalogue, chosen by the seed and by what is known of the world.

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    kinds::{Kinds, WEIGHTS, catalogued},
    pursue::Wish,
    world::{Tenant, World},
};
use crate::chaos::history::{Effect, Request};

/// Of the wishes that meet at one person, so many (of ten) meet at the very first tenant's first.
const HOTTEST: u32 = 6;
/// Members that a team of the load gets at most.
const TEAM: usize = 12;

/// A wish, and what its success teaches.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) kind: Kinds,
    pub(super) tenant: Option<Uuid>,
    pub(super) wish: Wish,
}

/// Chooses wishes. One for the whole load, so that the seed decides.
#[derive(Debug)]
pub(super) struct Mix {
    rng: StdRng,
    /// In every name, key and address: unlike in any other run on the same data.
    run: String,
    operator: String,
    count: u64,
}

impl Mix {
    pub(super) fn new(rng: StdRng, run: String, operator: String) -> Self {
        Self { rng, run, operator, count: 0 }
    }

    /// Letters that no other wish has.
    fn fresh(&mut self) -> String {
        self.count += 1;
        format!("{}n{}", self.run, self.count)
    }

    /// A tenant with this marker as its slug.
    pub(super) fn tenant(&mut self, marker: &str) -> Wanted {
        let fresh = self.fresh();
        let owner = json!({ "email": format!("o{fresh}.{marker}@example.com"), "fullName": format!("Owner {fresh} {marker}") });
        let body = json!({ "slug": marker, "name": format!("Tenant {marker}"), "plan": "enterprise", "owner": owner });
        let effect = Effect { event_type: "tenant.created", value: marker.to_owned() };
        let token = self.operator.clone();
        self.wanted(Kinds::CreateTenant, None, token, "POST", "/v1/tenants".into(), Some(body), "create", Some(effect))
    }

    /// The next wish. None when what it would need is not known yet.
    pub(super) fn next(&mut self, world: &World, client: usize) -> Option<Wanted> {
        let tenants = world.tenants();
        let kind = WEIGHTS.choose_weighted(&mut self.rng, |(_, weight)| *weight).ok()?.0;
        let hottest = matches!(kind, Kinds::RenameHot | Kinds::ReadHot) && self.rng.random_ratio(HOTTEST, 10);
        let place = if hottest { 0 } else { self.rng.random_range(0..tenants.len().max(1)) };
        let tenant = tenants.get(place)?;
        let mut wanted = match kind {
            Kinds::CreateTenant => {
                drop(tenants);
                self.tenant(&super::world::marker())
            }
            Kinds::TakenSlug => {
                let mut wanted = self.tenant(&tenant.marker.clone());
                (wanted.kind, wanted.wish.request.must_refuse) = (kind, true);
                wanted.wish.request.effects.clear();
                wanted
            }
            Kinds::InviteGuest => {
                let other = tenants.get((place + 1) % tenants.len())?;
                let guests: Vec<_> = other.users.iter().filter(|user| user.guest).collect();
                let guest = guests.choose(&mut self.rng)?;
                self.invite(kind, tenant, &guest.email)
            }
            _ => self.within(kind, tenant)?,
        };
        let request = &mut wanted.wish.request;
        request.client = client;
        // Most clients know how to ask again; some do not.
        if request.method == "GET" || self.rng.random_ratio(1, 12) {
            request.key = None;
        }
        Some(wanted)
    }

    /// A wish within one tenant.
    fn within(&mut self, kind: Kinds, tenant: &Tenant) -> Option<Wanted> {
        let fresh = self.fresh();
        let (base, marker) = (format!("/v1/tenants/tenant_{}", tenant.id), tenant.marker.as_str());
        let post = |mix: &mut Self, path: String, body: Value, command| mix.owned(kind, tenant, "POST", path, Some(body), command, None);
        Some(match kind {
            Kinds::RenameTenant => {
                let name = format!("Name {fresh} {marker}");
                let effect = Effect { event_type: "tenant.updated", value: name.clone() };
                let mut wanted = self.owned(kind, tenant, "PATCH", base, Some(json!({ "name": name })), "update", Some(effect));
                self.sometimes_expecting(&mut wanted, tenant.version);
                wanted
            }
            Kinds::CreateUser | Kinds::CreateHot | Kinds::CreateGuest => {
                let mark = if kind == Kinds::CreateGuest { "guest" } else { marker };
                let email = format!("u{fresh}.{mark}@example.com");
                let body = json!({ "email": email, "fullName": format!("Person {fresh} {mark}"), "role": "member" });
                let effect = Effect { event_type: "user.created", value: email };
                self.owned(kind, tenant, "POST", format!("{base}/users"), Some(body), "create", Some(effect))
            }
            Kinds::TakenAddress => {
                let email = &tenant.users.choose_one(&mut self.rng)?.email;
                let body = json!({ "email": email, "fullName": format!("Twin {fresh} {marker}") });
                let mut wanted = self.owned(kind, tenant, "POST", format!("{base}/users"), Some(body), "create", None);
                wanted.wish.request.must_refuse = true;
                wanted
            }
            Kinds::Rename => {
                let user = tenant.users.choose_one(&mut self.rng)?;
                let mark = if user.guest { "guest" } else { marker };
                self.rename(kind, tenant, user.id, format!("Renamed {fresh} {mark}"))
            }
            Kinds::RenameHot => {
                let hot = tenant.hot.choose(&mut self.rng)?;
                let mut wanted = self.rename(kind, tenant, hot.id, format!("Renamed {fresh} {marker}"));
                wanted.wish.request.register = Some(hot.id);
                self.sometimes_expecting(&mut wanted, hot.version);
                wanted
            }
            Kinds::ReadHot => {
                let hot = tenant.hot.choose(&mut self.rng)?.id;
                let mut wanted = self.owned(kind, tenant, "GET", format!("{base}/users/user_{hot}"), None, "update_profile", None);
                (wanted.wish.request.register, wanted.wish.request.kind) = (Some(hot), "read");
                wanted
            }
            Kinds::AssignRole => {
                let role = *["admin", "member", "readonly"].choose(&mut self.rng)?;
                let user = tenant.users.choose_one(&mut self.rng)?.id;
                post(self, format!("{base}/members/user_{user}/role"), json!({ "role": role }), "assign_role")
            }
            Kinds::RevokeRole => {
                let role = *["admin", "member", "readonly"].choose(&mut self.rng)?;
                let user = tenant.users.choose_one(&mut self.rng)?.id;
                post(self, format!("{base}/members/user_{user}/role/revoke"), json!({ "role": role, "reason": "load" }), "revoke_role")
            }
            Kinds::LastOwner => {
                let path = format!("{base}/members/user_{}/role/revoke", tenant.owner);
                let mut wanted = post(self, path, json!({ "role": "owner" }), "revoke_role");
                wanted.wish.request.must_refuse = true;
                wanted
            }
            Kinds::Suspend => {
                let user = tenant.users.choose_one(&mut self.rng)?.id;
                let reason = format!("Load {fresh}");
                let effect = Effect { event_type: "user.suspended", value: reason.clone() };
                let path = format!("{base}/users/user_{user}/suspend");
                self.owned(kind, tenant, "POST", path, Some(json!({ "reason": reason })), "suspend", Some(effect))
            }
            Kinds::Reactivate | Kinds::Deactivate => {
                let user = tenant.users.choose_one(&mut self.rng)?.id;
                let command = if kind == Kinds::Reactivate { "reactivate" } else { "deactivate" };
                post(self, format!("{base}/users/user_{user}/{command}"), json!({}), command)
            }
            Kinds::Invite | Kinds::InviteByMail => self.invite(kind, tenant, &format!("i{fresh}.{marker}@example.com")),
            Kinds::Accept => {
                let invitation = tenant.invitations.choose_one(&mut self.rng)?.clone();
                let mut body = json!({ "token": invitation.token });
                let mut effect = None;
                if invitation.guest.is_none() {
                    body["fullName"] = format!("Invited {fresh} {marker}").into();
                    // A person is created once, by whoever tries first or later: only the first try may claim it.
                    effect = (!invitation.tried).then(|| Effect { event_type: "user.created", value: invitation.email.clone() });
                }
                let mut wanted = self.owned(kind, tenant, "POST", "/v1/invitations/accept".into(), Some(body), "accept", effect);
                wanted.wish.token.clone_from(&invitation.guest);
                wanted
            }
            Kinds::Decline => {
                let body = json!({ "token": tenant.invitations.choose_one(&mut self.rng)?.token });
                let mut wanted = post(self, "/v1/invitations/decline".into(), body, "decline");
                wanted.wish.token = None;
                wanted
            }
            Kinds::SetAttribute => {
                let invitation = tenant.invitations.choose_one(&mut self.rng)?.id;
                let path = format!("{base}/invitations/inv_{invitation}/attributes/load");
                let value = format!("{fresh} {marker}");
                let effect = Effect { event_type: "invitation.attribute_set", value: value.clone() };
                self.owned(kind, tenant, "PUT", path, Some(json!({ "value": value })), "set_attribute", Some(effect))
            }
            Kinds::Withdraw => {
                let invitation = tenant.invitations.choose_one(&mut self.rng)?.id;
                self.owned(kind, tenant, "DELETE", format!("{base}/invitations/inv_{invitation}"), None, "remove", None)
            }
            Kinds::CreateTeam => {
                let name = format!("Team {fresh} {marker}");
                let parent = if self.rng.random_bool(0.3) { tenant.teams.choose_one(&mut self.rng) } else { None };
                let mut body = json!({ "name": name });
                if let Some(parent) = parent {
                    body["parentTeamId"] = format!("team_{}", parent.id).into();
                }
                let effect = Effect { event_type: "team.created", value: name };
                self.owned(kind, tenant, "POST", format!("{base}/teams"), Some(body), "create", Some(effect))
            }
            Kinds::JoinTeam => {
                let team = tenant.teams.choose_one(&mut self.rng).filter(|team| team.members.len() < TEAM)?.id;
                let users = [tenant.users.choose_one(&mut self.rng)?.id, tenant.users.choose_one(&mut self.rng)?.id];
                let body = json!({ "userIds": users.map(|user| format!("user_{user}")) });
                post(self, format!("{base}/teams/team_{team}/members"), body, "add_members")
            }
            Kinds::LeaveTeam => {
                let team = tenant.teams.choose_one(&mut self.rng)?;
                let user = *team.members.choose(&mut self.rng)?;
                self.owned(kind, tenant, "DELETE", format!("{base}/teams/team_{}/members/user_{user}", team.id), None, "remove_members", None)
            }
            Kinds::DeleteTeam => {
                let team = tenant.teams.choose_one(&mut self.rng)?.id;
                self.owned(kind, tenant, "DELETE", format!("{base}/teams/team_{team}"), None, "delete", None)
            }
            Kinds::CreateTenant | Kinds::TakenSlug | Kinds::InviteGuest => return None,
        })
    }

    fn invite(&mut self, kind: Kinds, tenant: &Tenant, email: &str) -> Wanted {
        let how = if kind == Kinds::InviteByMail { "email" } else { "link" };
        let teams: Vec<String> = tenant
            .teams
            .choose_one(&mut self.rng)
            .filter(|team| team.members.len() < TEAM)
            .map(|team| format!("team_{}", team.id))
            .into_iter()
            .collect();
        let body = json!({ "email": email, "invitationType": how, "role": "member", "teamIds": teams, "attributes": { "load": tenant.marker } });
        // A guest may be invited again and again.
        let effect = (kind != Kinds::InviteGuest).then(|| Effect { event_type: "invitation.created", value: email.to_owned() });
        self.owned(kind, tenant, "POST", format!("/v1/tenants/tenant_{}/invitations", tenant.id), Some(body), "create", effect)
    }

    fn rename(&mut self, kind: Kinds, tenant: &Tenant, user: Uuid, name: String) -> Wanted {
        let effect = Effect { event_type: "user.profile_updated", value: name.clone() };
        let path = format!("/v1/tenants/tenant_{}/users/user_{user}", tenant.id);
        self.owned(kind, tenant, "PATCH", path, Some(json!({ "fullName": name })), "update_profile", Some(effect))
    }

    /// A person of a tenant whose name is a register.
    pub(super) fn hot(&mut self, tenant: &Tenant) -> Option<Wanted> {
        self.within(Kinds::CreateHot, tenant)
    }

    /// A wish of the tenant's owner.
    #[expect(clippy::too_many_arguments, reason = "each is one part of a request")]
    fn owned(
        &mut self,
        kind: Kinds,
        tenant: &Tenant,
        method: &str,
        path: String,
        body: Option<Value>,
        command: &'static str,
        effect: Option<Effect>,
    ) -> Wanted {
        self.wanted(kind, Some(tenant.id), tenant.token.clone(), method, path, body, command, effect)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one part of a request")]
    fn wanted(
        &mut self,
        kind: Kinds,
        tenant: Option<Uuid>,
        token: String,
        method: &str,
        path: String,
        body: Option<Value>,
        command: &'static str,
        effect: Option<Effect>,
    ) -> Wanted {
        let (name, refusals) = catalogued(kind, command);
        let request = Request {
            kind: name,
            tenant,
            method: method.to_owned(),
            path,
            key: Some(format!("chaos-{}", self.fresh())),
            effects: effect.into_iter().collect(),
            refusals,
            ..Request::default()
        };
        // Whoever accepts an invitation has no account that could look at the command; an operator may.
        Wanted { kind, tenant, wish: Wish { request, token: Some(token), body, reader: self.operator.clone() } }
    }

    /// Now and then a client changes only what it has seen.
    fn sometimes_expecting(&mut self, wanted: &mut Wanted, version: u64) {
        if self.rng.random_ratio(1, 4) {
            wanted.wish.request.if_match = Some(version);
        }
    }

    /// The same wish once more under its key, after its end; or another under that key. `None` without a key.
    pub(super) fn once_more(&mut self, wanted: &Wanted, op: crate::chaos::history::OpId) -> Option<Wish> {
        wanted.wish.request.key.as_ref()?;
        let mut wish = wanted.wish.clone();
        wish.request.repeats = Some(op);
        if self.rng.random_ratio(3, 4) {
            wish.request.same = true;
            return Some(wish);
        }
        let body = wish.body.as_mut().and_then(Value::as_object_mut)?;
        // Another wish by any reading: every body of the load has one of these.
        let changed = ["name", "fullName", "reason", "value", "role"].into_iter().find(|name| body.get(*name).is_some_and(Value::is_string))?;
        let other = if changed == "role" {
            json!(if body.get("role") == Some(&json!("admin")) { "member" } else { "admin" })
        } else {
            json!(format!("Another {}", self.fresh()))
        };
        body.insert(changed.to_owned(), other);
        wish.request.effects.clear();
        (wish.request.must_refuse, wish.request.refusals) = (true, vec!["idempotency_key_reused"]);
        Some(wish)
    }

    /// Whether to ask once more at all.
    pub(super) fn asks_once_more(&mut self) -> bool {
        self.rng.random_ratio(1, 8)
    }
}

/// One of the things in a deque.
trait ChooseOne<T> {
    fn choose_one(&self, rng: &mut StdRng) -> Option<&T>;
}

impl<T> ChooseOne<T> for std::collections::VecDeque<T> {
    fn choose_one(&self, rng: &mut StdRng) -> Option<&T> {
        if self.is_empty() { None } else { self.get(rng.random_range(0..self.len())) }
    }
}
