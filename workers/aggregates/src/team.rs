//! A team groups members of a tenant. Teams nest: each may have a parent; names are unique in the tenant; who leaves the tenant leaves
//! its teams.

mod grouping;

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de};
use subjects::{Actor, InvitationId, Kind, Role, TeamId, TenantId, UserId};

use crate::{
    About, Claim, ClaimChange, Decision, Emitted, Follow, Holder, Key, Needs, Reason, Surroundings,
    tenant::{Change, Nothing},
    text::Line,
};

pub(crate) use grouping::{added_with, left};

/// How many people one command may add or remove.
pub const MAX_PEOPLE: usize = 100;
/// How many teams may stand above a team.
pub const MAX_DEPTH: usize = 16;

/// Creates a team; the target is the new team's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Create {
    /// Its name, unique in the tenant whatever the case of its letters.
    pub name: Line,
    /// The team it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_team_id: Option<TeamId>,
}

/// Changes what is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Update {
    /// New name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Line>,
    /// New parent; `null` for none.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "given")]
    pub parent_team_id: Option<Option<TeamId>>,
}

/// Tells `null` from what is missing.
///
/// # Errors
/// What is neither `null` nor a team's id.
pub fn given<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<TeamId>>, D::Error> {
    Option::<TeamId>::deserialize(deserializer).map(Some)
}

/// People of the tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct People {
    /// Who; at most [`MAX_PEOPLE`].
    #[serde(deserialize_with = "people")]
    pub user_ids: BTreeSet<UserId>,
}

fn people<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeSet<UserId>, D::Error> {
    let ids = BTreeSet::<UserId>::deserialize(deserializer)?;
    if (1..=MAX_PEOPLE).contains(&ids.len()) { Ok(ids) } else { Err(de::Error::custom("must be 1 to 100 users")) }
}

/// What can be asked of a team.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Command {
    /// Create it.
    Create(Create),
    /// Change its name or its parent.
    Update(Update),
    /// End it.
    Delete(Nothing),
    /// Put people in.
    AddMembers(People),
    /// Take people out.
    RemoveMembers(People),
}

/// What can happen to a team.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", content = "data", rename_all_fields = "camelCase")]
pub enum Event {
    /// It came to be.
    #[serde(rename = "team.created")]
    Created {
        /// The tenant.
        tenant_id: TenantId,
        /// The team.
        team_id: TeamId,
        /// Its name.
        name: Line,
        /// The team it belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_team_id: Option<TeamId>,
    },
    /// Its name or its parent changed.
    #[serde(rename = "team.updated")]
    Updated {
        /// The tenant.
        tenant_id: TenantId,
        /// The team.
        team_id: TeamId,
        /// What changed.
        changes: Changes,
    },
    /// It ended, and with it everybody's belonging to it.
    #[serde(rename = "team.deleted")]
    Deleted {
        /// The tenant.
        tenant_id: TenantId,
        /// The team.
        team_id: TeamId,
        /// Its last name.
        name: Line,
        /// The team it belonged to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent_team_id: Option<TeamId>,
    },
    /// People were put in.
    #[serde(rename = "team.members_added")]
    MembersAdded {
        /// The tenant.
        tenant_id: TenantId,
        /// The team.
        team_id: TeamId,
        /// The team's name.
        name: Line,
        /// Who is in it now and was not before.
        user_ids: Vec<UserId>,
        /// Who did it.
        added_by: Option<Actor>,
        /// The invitation by whose acceptance it happened.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        invitation_id: Option<InvitationId>,
    },
    /// People were taken out, or left the tenant.
    #[serde(rename = "team.members_removed")]
    MembersRemoved {
        /// The tenant.
        tenant_id: TenantId,
        /// The team.
        team_id: TeamId,
        /// The team's name.
        name: Line,
        /// Who is no longer in it.
        user_ids: Vec<UserId>,
        /// Who did it.
        removed_by: Option<Actor>,
    },
}

/// The fields of a team that changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changes {
    /// The name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Change<Line>>,
    /// The team it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_team_id: Option<Change<Option<TeamId>>>,
}

/// Where a team stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In use.
    #[default]
    Active,
    /// Gone.
    Deleted,
}

/// A team as stored, also after its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Its name.
    pub name: String,
    /// The team it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_team_id: Option<TeamId>,
    /// Who is in it.
    #[serde(default)]
    pub members: BTreeSet<UserId>,
    /// Where it stands.
    pub status: Status,
}

impl State {
    pub(crate) fn empty() -> Self {
        Self { name: String::new(), parent_team_id: None, members: BTreeSet::new(), status: Status::Active }
    }

    /// Whether it is in use.
    pub fn is_active(&self) -> bool {
        self.status == Status::Active
    }

    /// What it names: its members and its parent. By this the teams of a person, and those below a team, are found.
    pub(crate) fn names(&self) -> BTreeSet<uuid::Uuid> {
        self.members.iter().map(|user| user.uuid()).chain(self.parent_team_id.map(|parent| parent.uuid())).collect()
    }
}

impl Command {
    /// Every command's name.
    pub const NAMES: [&'static str; 5] = ["create", "update", "delete", "add_members", "remove_members"];

    /// The last token of the subject.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Update(_) => "update",
            Self::Delete(_) => "delete",
            Self::AddMembers(_) => "add_members",
            Self::RemoveMembers(_) => "remove_members",
        }
    }

    /// Reads a command's data; `None` for a name this version does not know.
    pub fn parse(name: &str, data: &str) -> Option<serde_json::Result<Self>> {
        Some(match name {
            "create" => serde_json::from_str(data).map(Self::Create),
            "update" => serde_json::from_str(data).map(Self::Update),
            "delete" => serde_json::from_str(data).map(Self::Delete),
            "add_members" => serde_json::from_str(data).map(Self::AddMembers),
            "remove_members" => serde_json::from_str(data).map(Self::RemoveMembers),
            _ => return None,
        })
    }

    /// What must be loaded to decide it: the claim of a name, everything above a parent, whoever is below, and memberships.
    pub fn needs(&self, about: &About) -> Needs {
        let tenant = about.tenant;
        let above = |parent: Option<TeamId>| parent.map(|team| Follow::Above { tenant, team: team.uuid() }).into_iter().collect();
        let named = |name: Option<&Line>| name.map(|name| Claim::team_name(tenant, name.as_str())).into_iter().collect();
        let membership = |user: &UserId| Key { tenant, kind: Kind::Membership, id: user.uuid() };
        match self {
            Self::Create(create) => Needs { claims: named(Some(&create.name)), follow: above(create.parent_team_id), ..Needs::default() },
            Self::Update(update) => Needs { claims: named(update.name.as_ref()), follow: above(update.parent_team_id.flatten()), ..Needs::default() },
            Self::Delete(_) => Needs { follow: vec![Follow::Naming { tenant, id: about.target }], ..Needs::default() },
            // The teams each of them is in are counted; their states matter to nobody.
            Self::AddMembers(people) => Needs {
                states: people.user_ids.iter().map(membership).collect(),
                naming: people.user_ids.iter().map(|user| (tenant, user.uuid())).collect(),
                ..Needs::default()
            },
            Self::RemoveMembers(people) => Needs { states: people.user_ids.iter().map(membership).collect(), ..Needs::default() },
        }
    }
}

impl Event {
    /// Every type.
    pub const TYPES: [&'static str; 5] = ["team.created", "team.updated", "team.deleted", "team.members_added", "team.members_removed"];

    /// `<topic>.<event>`.
    pub const fn event_type(&self) -> &'static str {
        match self {
            Self::Created { .. } => "team.created",
            Self::Updated { .. } => "team.updated",
            Self::Deleted { .. } => "team.deleted",
            Self::MembersAdded { .. } => "team.members_added",
            Self::MembersRemoved { .. } => "team.members_removed",
        }
    }

    /// What it does to claims. The name of a deleted team is free.
    pub fn claims(&self, before: Option<&State>, tenant: TenantId) -> Vec<ClaimChange> {
        let claim = |name: &str| Claim::team_name(tenant, name);
        match self {
            Self::Created { team_id, name, .. } => vec![ClaimChange::Take(claim(name.as_str()), Holder { tenant, id: team_id.uuid() })],
            Self::Updated { team_id, changes: Changes { name: Some(Change { old, new }), .. }, .. } if claim(old.as_str()) != claim(new.as_str()) => {
                let holder = Holder { tenant, id: team_id.uuid() };
                vec![ClaimChange::Release(claim(old.as_str())), ClaimChange::Take(claim(new.as_str()), holder)]
            }
            Self::Deleted { .. } => before.map(|state| ClaimChange::Release(claim(&state.name))).into_iter().collect(),
            Self::Updated { .. } | Self::MembersAdded { .. } | Self::MembersRemoved { .. } => Vec::new(),
        }
    }
}

/// Decides.
pub fn decide(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Decision {
    decide_any(command, surroundings, about).into()
}

fn decide_any(command: &Command, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    surroundings.tenant().ok_or(Reason::NotFound)?;
    about.require(Role::Admin, surroundings)?;
    let team_id = TeamId::new(about.target);
    if let Command::Create(create) = command {
        return decide_create(create, team_id, surroundings, about);
    }
    let state = surroundings.team(team_id).filter(|team| team.is_active()).ok_or(Reason::NotFound)?;
    match command {
        Command::Create(_) => Err(Reason::NameTaken),
        Command::Update(update) => decide_update(update, state, surroundings, about),
        Command::Delete(_) => decide_delete(state, surroundings, about),
        Command::AddMembers(people) => grouping::decide_addition(people, state, surroundings, about),
        Command::RemoveMembers(people) => grouping::decide_removal(people, state, surroundings, about),
    }
}

/// Whether the name is another team's.
fn require_free(name: &Line, surroundings: &Surroundings<'_>, about: &About) -> Result<(), Reason> {
    let holder = surroundings.claim(&Claim::team_name(about.tenant, name.as_str()));
    if holder.is_none_or(|holder| holder.id == about.target) { Ok(()) } else { Err(Reason::NameTaken) }
}

/// Whether the team may stand below this one: it is there, not the team itself or below it, and not too deep.
fn require_above(parent: TeamId, surroundings: &Surroundings<'_>, about: &About) -> Result<(), Reason> {
    let mut above = parent;
    for _ in 0..MAX_DEPTH {
        if above.uuid() == about.target {
            return Err(Reason::ParentCycle);
        }
        let team = surroundings.team(above).filter(|team| team.is_active()).ok_or(Reason::NotFound)?;
        match team.parent_team_id {
            Some(next) => above = next,
            None => return Ok(()),
        }
    }
    Err(Reason::ParentCycle)
}

fn decide_create(create: &Create, team_id: TeamId, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    if let Some(parent) = create.parent_team_id {
        require_above(parent, surroundings, about)?;
    }
    if surroundings.team(team_id).is_some() {
        return Err(Reason::NameTaken);
    }
    require_free(&create.name, surroundings, about)?;
    if !surroundings.has_place_for_a_team() {
        return Err(Reason::TeamFull);
    }
    let event = Event::Created { tenant_id: about.tenant, team_id, name: create.name.clone(), parent_team_id: create.parent_team_id };
    Ok(vec![Emitted::new(team_id.uuid(), event)])
}

fn decide_update(update: &Update, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    if let Some(parent) = update.parent_team_id.flatten() {
        require_above(parent, surroundings, about)?;
    }
    if let Some(name) = &update.name {
        require_free(name, surroundings, about)?;
    }
    let name = update.name.clone().filter(|name| name.as_str() != state.name);
    let parent = update.parent_team_id.filter(|parent| *parent != state.parent_team_id);
    if name.is_none() && parent.is_none() {
        return Ok(Vec::new());
    }
    let changes = Changes {
        name: name.map(|new| Change { old: Line::stored(&state.name), new }),
        parent_team_id: parent.map(|new| Change { old: state.parent_team_id, new }),
    };
    Ok(vec![Emitted::new(about.target, Event::Updated { tenant_id: about.tenant, team_id: TeamId::new(about.target), changes })])
}

fn decide_delete(state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    // Whatever names a team has it as its parent.
    if surroundings.naming(about.target).next().is_some() {
        return Err(Reason::HasSubteams);
    }
    let (tenant_id, team_id, parent_team_id) = (about.tenant, TeamId::new(about.target), state.parent_team_id);
    Ok(vec![Emitted::new(about.target, Event::Deleted { tenant_id, team_id, name: Line::stored(&state.name), parent_team_id })])
}

/// Applies. Cannot fail and contains no rule.
pub fn apply(state: &mut State, event: &Event) {
    match event {
        Event::Created { name, parent_team_id, .. } => {
            *state = State { name: name.to_string(), parent_team_id: *parent_team_id, ..State::empty() };
        }
        Event::Updated { changes, .. } => {
            if let Some(name) = &changes.name {
                state.name = name.new.to_string();
            }
            if let Some(parent) = &changes.parent_team_id {
                state.parent_team_id = parent.new;
            }
        }
        Event::Deleted { name, .. } => *state = State { name: name.to_string(), status: Status::Deleted, ..State::empty() },
        Event::MembersAdded { user_ids, .. } => state.members.extend(user_ids),
        Event::MembersRemoved { user_ids, .. } => state.members.retain(|user| !user_ids.contains(user)),
    }
}

#[cfg(test)]
mod tests;
