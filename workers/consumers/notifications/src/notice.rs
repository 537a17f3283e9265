//! Who is told what: the rules of the catalogue, from one event, without looking anything up.

use aggregates::{
    invitation::{self, InvitationType},
    membership::{self, RemovalReason},
    registry, team, tenant,
    user::{self, DeactivationReason},
};
use runtime::Failure;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use subjects::{Actor, Envelope, InvitationId, Kind, Role, UserId, timestamp};

/// Who is to be told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Audience {
    /// A user, wherever their address is known from.
    User(UserId),
    /// A member of the event's tenant.
    Member(UserId),
    /// Who invited somebody, if they are a member of the event's tenant.
    Inviter(UserId),
    /// The tenant's owners and admins.
    Managers,
    /// Every member.
    Everyone,
    /// This address, of a user if one is known.
    Address(String, Option<UserId>),
    /// The owner who joined by the command that created the tenant.
    FirstOwner,
}

/// What a tenant must have switched on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Switch {
    /// Nothing: always told.
    Always,
    /// Confirmations of changed profiles.
    ProfileUpdated,
    /// Notices of expired invitations.
    InvitationExpired,
}

/// One thing to be told.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Notice {
    /// The template, and the effect's name in the ledger.
    pub(crate) effect: &'static str,
    pub(crate) audience: Audience,
    pub(crate) switch: Switch,
    /// What the template needs besides the recipient and the tenant. `by` is a user id until it is looked up; `invitation` and
    /// `tokenVersion` become a link when the mail is made: the secret is never stored.
    pub(crate) context: Map<String, Value>,
}

fn notice(effect: &'static str, audience: Audience, context: Value) -> Notice {
    let context = if let Value::Object(context) = context { context } else { Map::new() };
    Notice { effect, audience, switch: Switch::Always, context }
}

/// The notices of an event. Events that this version does not know tell nobody anything.
///
/// # Errors
/// A known event with data that is not its own.
pub(crate) fn notices(envelope: &Envelope) -> Result<Vec<Notice>, Failure> {
    if registry::event(&envelope.event_type).is_none() {
        return Ok(Vec::new());
    }
    Ok(match envelope.aggregate {
        Kind::Tenant => of_tenant(typed(envelope)?),
        Kind::User => of_user(typed(envelope)?),
        Kind::Membership => of_membership(typed(envelope)?),
        Kind::Invitation => of_invitation(typed(envelope)?),
        Kind::Team => of_team(typed(envelope)?),
    })
}

/// Reads the data as the event it is.
pub(crate) fn typed<E: DeserializeOwned>(envelope: &Envelope) -> Result<E, Failure> {
    #[derive(Serialize)]
    struct Tagged<'a> {
        r#type: &'a str,
        data: &'a Value,
    }
    let tagged = serde_json::to_value(Tagged { r#type: &envelope.event_type, data: &envelope.data }).map_err(Failure::poison)?;
    // The error's own text may quote what is personal.
    serde_json::from_value(tagged).map_err(|_| Failure::poison("the data is not the event's own"))
}

fn of_tenant(event: tenant::Event) -> Vec<Notice> {
    use tenant::Event;
    match event {
        Event::Created { .. } => vec![notice("tenant_welcome", Audience::FirstOwner, json!({}))],
        Event::Updated { .. } => Vec::new(),
        Event::SsoConfigured { provider, issuer, .. } => {
            vec![notice("tenant_sso_configured", Audience::Managers, json!({ "provider": provider, "issuer": issuer }))]
        }
        Event::SsoDisabled { .. } => vec![notice("tenant_sso_disabled", Audience::Managers, json!({}))],
        Event::Activated { .. } => vec![notice("tenant_activated", Audience::Managers, json!({}))],
        Event::Suspended { reason, .. } => vec![notice("tenant_suspended", Audience::Everyone, json!({ "reason": reason }))],
        Event::Cancelled { reason, .. } => vec![notice("tenant_cancelled", Audience::Managers, json!({ "reason": reason }))],
        Event::PlanUpgraded { old_plan, new_plan, .. } => {
            vec![notice("tenant_plan_upgraded", Audience::Managers, json!({ "old": old_plan, "new": new_plan }))]
        }
    }
}

fn of_user(event: user::Event) -> Vec<Notice> {
    use user::Event;
    match event {
        // An address that is known to be theirs came from an accepted invitation: the welcome of the tenant covers it.
        Event::Created { email_verified: true, .. } => Vec::new(),
        Event::Created { user_id, email, .. } => vec![notice("user_welcome", Audience::Address(email.to_string(), Some(user_id)), json!({}))],
        Event::ProfileUpdated { user_id, .. } => {
            vec![Notice { switch: Switch::ProfileUpdated, ..notice("profile_updated", Audience::User(user_id), json!({})) }]
        }
        Event::Suspended { user_id, reason, .. } => vec![notice("user_suspended", Audience::User(user_id), json!({ "reason": reason }))],
        Event::Deactivated { user_id, reason, .. } => {
            let mut notices = vec![notice("user_deactivated", Audience::User(user_id), json!({}))];
            if reason == DeactivationReason::Admin {
                notices.push(notice("user_deactivated_alert", Audience::User(user_id), json!({})));
            }
            notices
        }
        Event::Reactivated { user_id, .. } => vec![notice("user_reactivated", Audience::User(user_id), json!({}))],
        Event::Deleted { user_id, .. } => vec![notice("user_deleted", Audience::User(user_id), json!({}))],
    }
}

fn of_membership(event: membership::Event) -> Vec<Notice> {
    use membership::Event;
    match event {
        Event::Joined { user_id, email, role_name, .. } => {
            let mut notices = vec![notice("member_welcome", Audience::Address(email.to_string(), Some(user_id)), json!({ "role": role_name }))];
            if role_name == Role::Owner {
                notices.push(notice("tenant_welcome", Audience::FirstOwner, json!({})));
            }
            notices
        }
        Event::RoleChanged { user_id, old_role_name, new_role_name, changed_by, .. } => {
            let context = json!({ "old": old_role_name, "new": new_role_name, "by": changed_by });
            vec![notice("member_role_changed", Audience::Member(user_id), context)]
        }
        Event::Removed { user_id, email, reason, .. } => {
            let effect = match reason {
                RemovalReason::Removed => "member_removed",
                RemovalReason::Left => "member_left",
                // The deletion has a mail of its own.
                RemovalReason::UserDeleted => return Vec::new(),
            };
            vec![notice(effect, Audience::Address(email.to_string(), Some(user_id)), json!({}))]
        }
        // The home tenant's own event tells the person.
        Event::Suspended { .. }
        | Event::Reactivated { .. }
        | Event::AssignmentAttempted { .. }
        | Event::AssignmentSucceeded { .. }
        | Event::AssignmentFailed { .. }
        | Event::RevocationAttempted { .. }
        | Event::RevocationSucceeded { .. }
        | Event::RevocationFailed { .. } => Vec::new(),
    }
}

fn of_invitation(event: invitation::Event) -> Vec<Notice> {
    use invitation::Event;
    let inviter = |created_by: Option<Actor>| created_by.and_then(Actor::user).map(Audience::Inviter);
    match event {
        Event::Sent { invitation_id, email, invitation_type: InvitationType::Email, role, expires_at, token_version, .. } => {
            let context =
                json!({ "role": role, "expires": timestamp::format(expires_at), "invitation": invitation_id, "tokenVersion": token_version });
            vec![notice("invitation", Audience::Address(email.to_string(), None), context)]
        }
        Event::Accepted { email, role, created_by, .. } => {
            let told = inviter(created_by).map(|audience| notice("invitation_accepted", audience, json!({ "email": email, "role": role })));
            told.into_iter().collect()
        }
        Event::Expired { email, created_by, .. } => {
            let told = inviter(created_by).map(|audience| notice("invitation_expired", audience, json!({ "email": email })));
            told.into_iter().map(|notice| Notice { switch: Switch::InvitationExpired, ..notice }).collect()
        }
        Event::Sent { .. }
        | Event::Created { .. }
        | Event::Declined { .. }
        | Event::Removed { .. }
        | Event::AttributeSet { .. }
        | Event::AttributeRemoved { .. }
        | Event::Updated { .. } => Vec::new(),
    }
}

fn of_team(event: team::Event) -> Vec<Notice> {
    use team::Event;
    match event {
        // Who joined by the same acceptance is welcomed by the tenant.
        Event::MembersAdded { name, user_ids, added_by, invitation_id: None, .. } => {
            let told = |user| notice("team_welcome", Audience::Member(user), json!({ "team": name, "by": added_by }));
            user_ids.into_iter().map(told).collect()
        }
        Event::MembersAdded { .. } | Event::MembersRemoved { .. } | Event::Created { .. } | Event::Updated { .. } | Event::Deleted { .. } => {
            Vec::new()
        }
    }
}

/// What a stored context says about a link.
pub(crate) fn link_of(context: &Map<String, Value>) -> Option<(InvitationId, u64)> {
    Some((context.get("invitation")?.as_str()?.parse().ok()?, context.get("tokenVersion")?.as_u64()?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An event of this type with this data.
    pub(crate) fn envelope(event_type: &str, data: Value) -> Envelope {
        let entry = registry::event(event_type).unwrap();
        serde_json::from_value(json!({
            "id": "evt_00000000-0000-7000-8000-000000000001", "type": event_type, "timestamp": "2026-11-22T10:00:00.123Z", "version": "1.0",
            "source": "chancery", "tenantId": "tenant_00000000-0000-7000-8000-000000000002", "userId": null, "aggregate": entry.kind,
            "aggregateId": "x", "aggregateVersion": 1, "sequence": 1, "correlationId": "c",
            "causationId": "cmd_00000000-0000-7000-8000-000000000003", "data": data
        }))
        .unwrap()
    }

    const TENANT: &str = "tenant_00000000-0000-7000-8000-000000000002";
    const USER: &str = "user_00000000-0000-7000-8000-000000000004";
    const INVITATION: &str = "inv_00000000-0000-7000-8000-000000000005";

    fn effects(event_type: &str, data: Value) -> Vec<&'static str> {
        notices(&envelope(event_type, data)).unwrap().into_iter().map(|notice| notice.effect).collect()
    }

    #[test]
    fn a_user_created_by_an_acceptance_gets_no_second_welcome() {
        let data = |verified| json!({ "tenantId": TENANT, "userId": USER, "email": "ann@example.com", "fullName": "Ann", "emailVerified": verified });
        assert_eq!(effects("user.created", data(false)), ["user_welcome"]);
        assert!(effects("user.created", data(true)).is_empty());
    }

    #[test]
    fn only_a_deactivation_by_somebody_else_alerts() {
        let data = |reason| json!({ "tenantId": TENANT, "userId": USER, "deactivatedBy": USER, "reason": reason, "deactivatedAt": "2026-11-22T10:00:00.123Z" });
        assert_eq!(effects("user.deactivated", data("self")), ["user_deactivated"]);
        assert_eq!(effects("user.deactivated", data("admin")), ["user_deactivated", "user_deactivated_alert"]);
    }

    #[test]
    fn leaving_and_being_removed_are_told_apart_and_a_deletion_is_told_once() {
        let data = |reason| json!({ "tenantId": TENANT, "userId": USER, "email": "ann@example.com", "removedBy": null, "reason": reason });
        assert_eq!(effects("tenant.member_removed", data("removed")), ["member_removed"]);
        assert_eq!(effects("tenant.member_removed", data("left")), ["member_left"]);
        assert!(effects("tenant.member_removed", data("user_deleted")).is_empty());
    }

    #[test]
    fn a_suspension_of_the_tenant_reaches_everyone_and_its_end_the_managers() {
        let audience = |event_type, data| notices(&envelope(event_type, data)).unwrap()[0].audience.clone();
        assert_eq!(audience("tenant.suspended", json!({ "tenantId": TENANT, "reason": null })), Audience::Everyone);
        assert_eq!(audience("tenant.activated", json!({ "tenantId": TENANT })), Audience::Managers);
    }

    #[test]
    fn only_an_invitation_of_type_email_is_mailed_and_its_secret_is_not_stored() {
        let data = |kind| {
            json!({ "tenantId": TENANT, "invitationId": INVITATION, "email": "ann@example.com", "invitationType": kind, "role": "member",
                "state": "sent", "resendCount": 0, "expiresAt": "2026-11-29T10:00:00.123Z", "tokenHash": "aa", "tokenVersion": 2 })
        };
        let told = notices(&envelope("invitation.sent", data("email"))).unwrap();
        assert_eq!(told.len(), 1);
        assert_eq!(link_of(&told[0].context), Some((INVITATION.parse().unwrap(), 2)));
        assert!(effects("invitation.sent", data("link")).is_empty());
    }

    #[test]
    fn switched_notices_are_marked() {
        let data = json!({ "tenantId": TENANT, "userId": USER, "changes": {} });
        assert_eq!(notices(&envelope("user.profile_updated", data)).unwrap()[0].switch, Switch::ProfileUpdated);
    }

    #[test]
    fn data_of_another_event_is_poison() {
        assert!(matches!(notices(&envelope("user.created", json!({}))), Err(Failure::Poison(_))));
    }
}
