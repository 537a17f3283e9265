//! The invited person's side: an invitation is accepted or declined by whoever has its token.

use serde::{Deserialize, Serialize};
use subjects::{Actor, InvitationId, UserId, derive};

use super::{Event, InvitationType, State, Status, token_hash};
use crate::{
    About, Claim, Emitted, Reason, Surroundings, membership, team,
    text::{Email, Line},
    user,
};

/// Makes the invited person a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accept {
    /// SHA-256 of the token they followed.
    #[serde(deserialize_with = "token_hash")]
    pub token_hash: String,
    /// The address invited, as found by the token.
    pub email: Email,
    /// Who is signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
    /// Name of a new user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub full_name: Option<Line>,
}

/// Says no.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decline {
    /// SHA-256 of the token they followed.
    #[serde(deserialize_with = "token_hash")]
    pub token_hash: String,
    /// Who is signed in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<UserId>,
}

/// The user an acceptance creates.
pub(super) fn new_user(about: &About) -> UserId {
    derive(about.command.uuid(), "user")
}

pub(super) fn decide_accept(accept: &Accept, state: &State, surroundings: &Surroundings<'_>, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    // Nobody is made a member by somebody else.
    let for_another = match about.actor {
        Actor::User(actor) => accept.user_id.is_some_and(|user| user != actor),
        Actor::Service(_) => accept.user_id.is_some(),
        Actor::System => false,
    };
    if for_another {
        return Err(Reason::Forbidden);
    }
    state.require_token(&accept.token_hash)?;
    if state.status == Status::Accepted && accept.user_id.is_some() && accept.user_id == state.account_id {
        return Ok(Vec::new());
    }
    state.require_open(about.now)?;
    if state.status == Status::Created && state.invitation_type == InvitationType::Email {
        return Err(Reason::InvalidState);
    }
    surroundings.require_active_tenant()?;
    let has_address = surroundings.claim(&Claim::email(&accept.email)).map(|holder| UserId::new(holder.id));
    let is_new = match (accept.user_id, has_address) {
        _ if accept.email.as_str() != state.email => return Err(Reason::EmailMismatch),
        (Some(user), Some(holder)) if user == holder => false,
        (Some(_), _) => return Err(Reason::EmailMismatch),
        (None, Some(_)) => return Err(Reason::SignInRequired),
        (None, None) => true,
    };
    let user_id = accept.user_id.unwrap_or_else(|| new_user(about));
    if surroundings.user(user_id).is_some_and(|user| !user.is_active()) {
        return Err(Reason::Forbidden);
    }
    if surroundings.membership(user_id).is_some_and(membership::State::is_active) {
        return Err(Reason::AlreadyAMember);
    }
    if !surroundings.has_free_seat() {
        return Err(Reason::SeatLimit);
    }
    let email = accept.email.clone();
    let (team_ids, added): (Vec<_>, Vec<_>) = team::added_with(invitation_id, &state.team_ids, user_id, surroundings, about).into_iter().unzip();
    let accepted = Event::Accepted {
        tenant_id,
        invitation_id,
        account_id: user_id,
        identity_id: user_id,
        email: email.clone(),
        role: state.role,
        team_ids,
        created_by: state.created_by,
    };
    let mut events = vec![Emitted::new(invitation_id.uuid(), accepted)];
    if is_new {
        // Whoever does not say their name goes by the first part of their address until they do.
        let full_name = accept.full_name.clone().unwrap_or_else(|| Line::stored(email.local_part()));
        let created = user::Event::Created { tenant_id, user_id, email: email.clone(), full_name, email_verified: true };
        events.push(Emitted::new(user_id.uuid(), created));
    }
    events.push(membership::joined(tenant_id, user_id, email, state.role, Some(invitation_id)));
    events.extend(added);
    Ok(events)
}

pub(super) fn decide_decline(decline: &Decline, state: &State, about: &About) -> Result<Vec<Emitted>, Reason> {
    let (tenant_id, invitation_id) = (about.tenant, InvitationId::new(about.target));
    state.require_token(&decline.token_hash)?;
    if state.status == Status::Declined {
        return Ok(Vec::new());
    }
    state.require_open(about.now)?;
    Ok(vec![Emitted::new(invitation_id.uuid(), Event::Declined { tenant_id, invitation_id, account_id: decline.user_id })])
}
