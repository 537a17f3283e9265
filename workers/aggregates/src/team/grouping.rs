//! Who is in a team: put in and taken out by an admin, put in by accepting an invitation, and out when they leave the tenant.

use std::collections::BTreeSet;

use subjects::{InvitationId, TeamId, UserId};

use super::{Event, People, State};
use crate::{About, Emitted, Reason, Surroundings, membership, text::Line};

fn is_member(user: UserId, surroundings: &Surroundings<'_>) -> bool {
    surroundings.membership(user).is_some_and(membership::State::is_active)
}

/// Everybody, or nobody. Who is in it already stays so.
pub(super) fn decide_addition(people: &People, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    if !people.user_ids.iter().all(|user| is_member(*user, surroundings)) {
        return Err(Reason::NotAMember);
    }
    let user_ids: Vec<UserId> = people.user_ids.difference(&state.members).copied().collect();
    if user_ids.is_empty() {
        return Ok(Vec::new());
    }
    let settings = surroundings.settings();
    let is_in_too_many = |user: &UserId| surroundings.naming(user.uuid()).count() >= settings.teams_per_member as usize;
    if state.members.len() + user_ids.len() > settings.team_members as usize || user_ids.iter().any(is_in_too_many) {
        return Err(Reason::TeamFull);
    }
    let (tenant_id, team_id, name) = (about.tenant, TeamId::new(about.target), Line::stored(&state.name));
    let event = Event::MembersAdded { tenant_id, team_id, name, user_ids, added_by: about.by(), invitation_id: None };
    Ok(vec![Emitted::new(about.target, event)])
}

/// Who is not in it stays out; who was never a member of the tenant was meant by mistake.
pub(super) fn decide_removal(people: &People, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    if !people.user_ids.iter().all(|user| state.members.contains(user) || surroundings.membership(*user).is_some()) {
        return Err(Reason::NotAMember);
    }
    let user_ids: Vec<UserId> = people.user_ids.intersection(&state.members).copied().collect();
    if user_ids.is_empty() {
        return Ok(Vec::new());
    }
    let (tenant_id, team_id, name) = (about.tenant, TeamId::new(about.target), Line::stored(&state.name));
    Ok(vec![Emitted::new(about.target, Event::MembersRemoved { tenant_id, team_id, name, user_ids, removed_by: about.by() })])
}

/// The teams of an invitation that its acceptance leads to: those that are still there and have a place. The person has no team yet,
/// as they were no member.
pub(crate) fn added_with(
    invitation_id: InvitationId,
    teams: &[TeamId],
    user_id: UserId,
    surroundings: &Surroundings<'_>,
    about: &About,
) -> Vec<(TeamId, Emitted)> {
    let settings = surroundings.settings();
    let has_place = |team: &&State| team.is_active() && team.members.len() < settings.team_members as usize;
    // One invitation of the past may name a team twice.
    let mut seen = BTreeSet::new();
    let open = teams
        .iter()
        .filter(|team_id| seen.insert(**team_id))
        .filter_map(|team_id| surroundings.team(*team_id).filter(has_place).map(|team| (*team_id, team)));
    let added = |(team_id, team): (TeamId, &State)| {
        let (tenant_id, name) = (about.tenant, Line::stored(&team.name));
        let event =
            Event::MembersAdded { tenant_id, team_id, name, user_ids: vec![user_id], added_by: about.by(), invitation_id: Some(invitation_id) };
        (team_id, Emitted::new(team_id.uuid(), event))
    };
    open.take(settings.teams_per_member as usize).map(added).collect()
}

/// Somebody leaves the tenant, and so every team they are in.
pub(crate) fn left(user_id: UserId, surroundings: &Surroundings<'_>, about: &About) -> Vec<Emitted> {
    let teams = surroundings.naming(user_id.uuid()).filter_map(|team_id| surroundings.team(team_id).map(|team| (team_id, team)));
    let removed = |(team_id, team): (TeamId, &State)| {
        let (tenant_id, name) = (about.tenant, Line::stored(&team.name));
        let event = Event::MembersRemoved { tenant_id, team_id, name, user_ids: vec![user_id], removed_by: about.by() };
        Emitted::new(team_id.uuid(), event)
    };
    teams.map(removed).collect()
}
