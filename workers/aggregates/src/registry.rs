//! The one registry of commands and events: what may refuse, who may ask, what an audit calls it, what is personal and who listens.
//! Documents, filters, wiring and tests come from here.

mod emits;

use subjects::{Kind, Role};

use crate::Reason;
pub use emits::{EMITS, EmitsEntry, emits};

/// Who may give a command, as the gateway checks early and the aggregate checks again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Least {
    /// A platform operator.
    Operator,
    /// A member with at least this role.
    Role(Role),
    /// The person themself, or a member with at least this role.
    SelfOr(Role),
    /// Anybody of the tenant may ask; the aggregate decides and leaves a trace.
    Workflow,
    /// Whoever has the secret of the link.
    Public,
    /// Only ourselves: time, or a reactor.
    System,
}

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandEntry {
    /// The aggregate it is for.
    pub kind: Kind,
    /// The last token of its subject.
    pub name: &'static str,
    /// Why it may be refused, besides [`COMMON_REFUSALS`].
    pub refusals: &'static [Reason],
    /// Who may give it.
    pub least: Least,
}

/// An event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventEntry {
    /// `<topic>.<event>`.
    pub event_type: &'static str,
    /// The aggregate it happens to.
    pub kind: Kind,
    /// What the audit calls it.
    pub audit_action: &'static str,
    /// JSON pointers into `data` to what is personal.
    pub personal: &'static [&'static str],
    /// The consumers of ours that listen.
    pub consumers: &'static [&'static str],
}

/// Why every command may be refused.
pub const COMMON_REFUSALS: [Reason; 3] = [Reason::NotFound, Reason::Forbidden, Reason::VersionConflict];

/// Fields of an event's data, or of a state, that are no business of clients: what an API shows leaves them out.
pub const SECRETS: [&str; 1] = ["tokenHash"];

/// The consumers of ours that exist.
pub const CONSUMERS: [&str; 7] = ["logging", "audit", "notifications", "onboarding", "guests", "withdrawals", "authz-cache"];

/// The command of this kind and name.
pub fn command(kind: Kind, name: &str) -> Option<&'static CommandEntry> {
    COMMANDS.iter().find(|entry| entry.kind == kind && entry.name == name)
}

/// The event of this type.
pub fn event(event_type: &str) -> Option<&'static EventEntry> {
    EVENTS.iter().find(|entry| entry.event_type == event_type)
}

const fn c(kind: Kind, name: &'static str, least: Least, refusals: &'static [Reason]) -> CommandEntry {
    CommandEntry { kind, name, refusals, least }
}

const OPERATOR: Least = Least::Operator;
const OWNER: Least = Least::Role(Role::Owner);
const ADMIN: Least = Least::Role(Role::Admin);
const SELF_OR_ADMIN: Least = Least::SelfOr(Role::Admin);

/// Every command.
pub const COMMANDS: &[CommandEntry] = &[
    c(Kind::Tenant, "create", OPERATOR, &[Reason::SlugTaken]),
    c(Kind::Tenant, "update", OWNER, &[Reason::InvalidTransition]),
    c(Kind::Tenant, "activate", OPERATOR, &[Reason::InvalidTransition]),
    c(Kind::Tenant, "suspend", OPERATOR, &[Reason::InvalidTransition]),
    c(Kind::Tenant, "cancel", OPERATOR, &[Reason::InvalidTransition]),
    c(Kind::Tenant, "upgrade_plan", OWNER, &[Reason::InvalidTransition, Reason::SamePlan, Reason::NotAnUpgrade]),
    c(Kind::Tenant, "configure_sso", ADMIN, &[Reason::InvalidTransition]),
    c(Kind::Tenant, "disable_sso", ADMIN, &[Reason::InvalidTransition]),
    c(Kind::User, "create", ADMIN, &[Reason::InvalidTransition, Reason::EmailTaken, Reason::SeatLimit]),
    c(Kind::User, "update_profile", SELF_OR_ADMIN, &[Reason::InvalidTransition]),
    c(Kind::User, "suspend", ADMIN, &[Reason::InvalidTransition, Reason::LastOwner]),
    c(Kind::User, "deactivate", SELF_OR_ADMIN, &[Reason::InvalidTransition, Reason::LastOwner]),
    c(Kind::User, "reactivate", ADMIN, &[Reason::InvalidTransition]),
    c(Kind::User, "delete", ADMIN, &[Reason::InvalidTransition, Reason::SoftDeletionPeriod]),
    c(
        Kind::Membership,
        "add",
        ADMIN,
        &[
            Reason::OwnerRequired,
            Reason::TenantNotActive,
            Reason::AlreadyAMember,
            Reason::UserNotFound,
            Reason::InvitationRequired,
            Reason::SeatLimit,
        ],
    ),
    c(
        Kind::Membership,
        "assign_role",
        Least::Workflow,
        &[
            Reason::OwnRole,
            Reason::OwnerRequired,
            Reason::TenantNotActive,
            Reason::UserNotFound,
            Reason::InvitationRequired,
            Reason::SeatLimit,
            Reason::AlreadyHasRole,
            Reason::LastOwner,
        ],
    ),
    c(
        Kind::Membership,
        "revoke_role",
        Least::Workflow,
        &[Reason::UserNotFound, Reason::OwnerRequired, Reason::TenantNotActive, Reason::DoesNotHaveRole, Reason::LastOwner],
    ),
    c(Kind::Membership, "remove", SELF_OR_ADMIN, &[Reason::OwnerRequired, Reason::LastOwner]),
    c(Kind::Membership, "suspend", Least::System, &[]),
    c(Kind::Membership, "reactivate", Least::System, &[]),
    c(
        Kind::Invitation,
        "create",
        ADMIN,
        &[Reason::TenantNotActive, Reason::InvalidState, Reason::AlreadyAMember, Reason::Expired, Reason::SeatLimit],
    ),
    c(Kind::Invitation, "send", ADMIN, &[Reason::InvalidState, Reason::Expired, Reason::TenantNotActive, Reason::TooManyResends]),
    c(
        Kind::Invitation,
        "accept",
        Least::Public,
        &[
            Reason::InvalidToken,
            Reason::InvalidState,
            Reason::Expired,
            Reason::TenantNotActive,
            Reason::EmailMismatch,
            Reason::SignInRequired,
            Reason::AlreadyAMember,
            Reason::SeatLimit,
        ],
    ),
    c(Kind::Invitation, "decline", Least::Public, &[Reason::InvalidToken, Reason::InvalidState, Reason::Expired]),
    c(Kind::Invitation, "update", ADMIN, &[Reason::InvalidState, Reason::Expired]),
    c(Kind::Invitation, "set_attribute", ADMIN, &[Reason::InvalidState, Reason::Expired]),
    c(Kind::Invitation, "remove_attribute", ADMIN, &[Reason::InvalidState, Reason::Expired]),
    c(Kind::Invitation, "remove", ADMIN, &[Reason::InvalidState, Reason::Expired]),
    c(Kind::Invitation, "expire", Least::System, &[]),
    c(Kind::Team, "create", ADMIN, &[Reason::ParentCycle, Reason::NameTaken, Reason::TeamFull]),
    c(Kind::Team, "update", ADMIN, &[Reason::ParentCycle, Reason::NameTaken]),
    c(Kind::Team, "delete", ADMIN, &[Reason::HasSubteams]),
    c(Kind::Team, "add_members", ADMIN, &[Reason::NotAMember, Reason::TeamFull]),
    c(Kind::Team, "remove_members", ADMIN, &[Reason::NotAMember]),
];

/// Logging and audit take everything.
const ALL: &[&str] = &["logging", "audit"];
/// Somebody is told by mail, or the notifier must know it to tell somebody.
const NOTIFY: &[&str] = &["logging", "audit", "notifications"];
/// What somebody may can have changed: what gateways remember is dropped.
const RIGHTS: &[&str] = &["logging", "audit", "authz-cache"];
/// Both of it.
const RIGHTS_NOTIFY: &[&str] = &["logging", "audit", "notifications", "authz-cache"];
/// A reactor answers it with a command.
const REACT: &[&str] = &["logging", "audit", "onboarding"];
/// What is to be repeated where the user is a guest. It changes what somebody may, too.
const GUESTS: &[&str] = &["logging", "audit", "notifications", "guests", "authz-cache"];
/// What ends pending invitations. It changes what somebody may, too.
const WITHDRAW: &[&str] = &["logging", "audit", "notifications", "withdrawals", "authz-cache"];
/// Both.
const GUESTS_AND_WITHDRAW: &[&str] = &["logging", "audit", "notifications", "guests", "withdrawals", "authz-cache"];

const fn e(
    kind: Kind,
    event_type: &'static str,
    audit_action: &'static str,
    personal: &'static [&'static str],
    consumers: &'static [&'static str],
) -> EventEntry {
    EventEntry { event_type, kind, audit_action, personal, consumers }
}

/// Every event.
pub const EVENTS: &[EventEntry] = &[
    e(Kind::Tenant, "tenant.created", "TENANT_CREATED", &[], NOTIFY),
    e(Kind::Tenant, "tenant.updated", "TENANT_UPDATED", &[], NOTIFY),
    e(Kind::Tenant, "tenant.activated", "TENANT_ACTIVATED", &[], RIGHTS_NOTIFY),
    e(Kind::Tenant, "tenant.suspended", "TENANT_SUSPENDED", &[], RIGHTS_NOTIFY),
    e(Kind::Tenant, "tenant.cancelled", "TENANT_CANCELLED", &[], WITHDRAW),
    e(Kind::Tenant, "tenant.plan_upgraded", "TENANT_PLAN_UPGRADED", &[], NOTIFY),
    e(Kind::Tenant, "tenant.sso_configured", "TENANT_SSO_CONFIGURED", &[], NOTIFY),
    e(Kind::Tenant, "tenant.sso_disabled", "TENANT_SSO_DISABLED", &[], NOTIFY),
    e(Kind::User, "user.created", "USER_CREATED", &["/email", "/fullName"], NOTIFY),
    e(Kind::User, "user.profile_updated", "USER_PROFILE_UPDATED", &["/changes/fullName"], NOTIFY),
    e(Kind::User, "user.suspended", "USER_SUSPENDED", &[], GUESTS),
    e(Kind::User, "user.deactivated", "USER_DEACTIVATED", &[], GUESTS),
    e(Kind::User, "user.reactivated", "USER_REACTIVATED", &[], GUESTS),
    e(Kind::User, "user.deleted", "USER_DELETED", &[], GUESTS_AND_WITHDRAW),
    e(Kind::Membership, "tenant.member_joined", "TENANT_MEMBER_JOINED", &["/email"], GUESTS),
    e(Kind::Membership, "tenant.member_role_changed", "TENANT_MEMBER_ROLE_CHANGED", &[], RIGHTS_NOTIFY),
    e(Kind::Membership, "tenant.member_removed", "TENANT_MEMBER_REMOVED", &["/email"], RIGHTS_NOTIFY),
    e(Kind::Membership, "tenant.member_suspended", "TENANT_MEMBER_SUSPENDED", &[], RIGHTS),
    e(Kind::Membership, "tenant.member_reactivated", "TENANT_MEMBER_REACTIVATED", &[], RIGHTS),
    e(Kind::Membership, "role.assignment_attempted", "ROLE_ASSIGNMENT_ATTEMPTED", &[], ALL),
    e(Kind::Membership, "role.assignment_succeeded", "ROLE_ASSIGNED", &[], RIGHTS),
    e(Kind::Membership, "role.assignment_failed", "ROLE_ASSIGNMENT_FAILED", &[], ALL),
    e(Kind::Membership, "role.revocation_attempted", "ROLE_REVOCATION_ATTEMPTED", &[], ALL),
    e(Kind::Membership, "role.revocation_succeeded", "ROLE_REVOKED", &[], RIGHTS),
    e(Kind::Membership, "role.revocation_failed", "ROLE_REVOCATION_FAILED", &[], ALL),
    e(Kind::Invitation, "invitation.created", "INVITATION_CREATED", &["/email", "/attributes"], REACT),
    e(Kind::Invitation, "invitation.sent", "INVITATION_SENT", &["/email"], NOTIFY),
    e(Kind::Invitation, "invitation.accepted", "INVITATION_ACCEPTED", &["/email"], NOTIFY),
    e(Kind::Invitation, "invitation.declined", "INVITATION_DECLINED", &[], ALL),
    e(Kind::Invitation, "invitation.removed", "INVITATION_REMOVED", &[], ALL),
    e(Kind::Invitation, "invitation.attribute_set", "INVITATION_ATTRIBUTE_SET", &["/value"], ALL),
    e(Kind::Invitation, "invitation.attribute_removed", "INVITATION_ATTRIBUTE_REMOVED", &[], ALL),
    e(Kind::Invitation, "invitation.updated", "INVITATION_UPDATED", &["/attributes"], ALL),
    e(Kind::Invitation, "invitation.expired", "INVITATION_EXPIRED", &["/email"], NOTIFY),
    e(Kind::Team, "team.created", "TEAM_CREATED", &[], ALL),
    e(Kind::Team, "team.updated", "TEAM_UPDATED", &[], ALL),
    e(Kind::Team, "team.deleted", "TEAM_DELETED", &[], ALL),
    e(Kind::Team, "team.members_added", "TEAM_MEMBERS_ADDED", &[], NOTIFY),
    e(Kind::Team, "team.members_removed", "TEAM_MEMBERS_REMOVED", &[], ALL),
];

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::{invitation, membership, recorded, team, tenant, user};

    /// What a kind has, by its own lists, and the tests of its rules. Exhaustive: a new kind is asked for.
    fn of(kind: Kind) -> (&'static [&'static str], &'static [&'static str], String) {
        match kind {
            Kind::Tenant => (&tenant::Command::NAMES, &tenant::Event::TYPES, include_str!("tenant/tests.rs").into()),
            Kind::User => (&user::Command::NAMES, &user::Event::TYPES, include_str!("user/tests.rs").into()),
            Kind::Membership => (&membership::Command::NAMES, &membership::Event::TYPES, include_str!("membership/tests.rs").into()),
            Kind::Invitation => (
                &invitation::Command::NAMES,
                &invitation::Event::TYPES,
                [include_str!("invitation/tests.rs"), include_str!("invitation/tests/answering.rs")].concat(),
            ),
            Kind::Team => (&team::Command::NAMES, &team::Event::TYPES, include_str!("team/tests.rs").into()),
        }
    }

    #[test]
    fn every_command_has_exactly_one_row() {
        let known: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| of(kind).0.iter().map(move |name| (kind, *name))).collect();
        let rows: Vec<_> = COMMANDS.iter().map(|entry| (entry.kind, entry.name)).collect();
        assert_eq!(rows, known);
        assert!(known.iter().all(|(kind, name)| command(*kind, name).is_some_and(|entry| entry.name == *name)));
    }

    #[test]
    fn every_event_has_exactly_one_row() {
        let known: Vec<_> = Kind::ALL.into_iter().flat_map(|kind| of(kind).1.iter().map(move |event_type| (kind, *event_type))).collect();
        let rows: Vec<_> = EVENTS.iter().map(|entry| (entry.kind, entry.event_type)).collect();
        assert_eq!(rows, known);
        assert!(known.iter().all(|(kind, event_type)| event(event_type).is_some_and(|entry| entry.kind == *kind)));
    }

    #[test]
    fn the_type_in_json_is_the_type_in_the_registry() {
        for sample in recorded::events() {
            let entry = event(sample.event_type()).unwrap();
            let json = serde_json::to_value(&sample).unwrap();
            assert_eq!((json["type"].as_str(), sample.kind()), (Some(entry.event_type), entry.kind));
        }
    }

    #[test]
    fn audit_actions_are_the_types_in_upper_case_but_for_roles_that_were_given_or_taken() {
        for entry in EVENTS {
            let expected = match entry.event_type {
                "role.assignment_succeeded" => "ROLE_ASSIGNED".to_owned(),
                "role.revocation_succeeded" => "ROLE_REVOKED".to_owned(),
                other => other.replace('.', "_").to_uppercase(),
            };
            assert_eq!(entry.audit_action, expected);
        }
    }

    #[test]
    fn personal_pointers_point_at_something_and_nothing_personal_is_left() {
        for sample in recorded::events() {
            let entry = event(sample.event_type()).unwrap();
            let mut data = serde_json::to_value(&sample).unwrap()["data"].clone();
            for pointer in entry.personal {
                *data.pointer_mut(pointer).unwrap_or_else(|| panic!("{}: {pointer}", entry.event_type)) = Value::Null;
            }
            let text = data.to_string();
            assert!(!["@", "Mia", "research"].iter().any(|personal| text.contains(personal)), "{}: {text}", entry.event_type);
        }
    }

    #[test]
    fn logging_and_audit_take_everything_and_all_listeners_exist() {
        for entry in EVENTS {
            assert!(entry.consumers.starts_with(ALL), "{}", entry.event_type);
            assert!(entry.consumers.iter().all(|consumer| CONSUMERS.contains(consumer)), "{}", entry.event_type);
        }
    }

    #[test]
    fn every_refusal_is_produced_by_a_test() {
        for entry in COMMANDS {
            let tests = of(entry.kind).2;
            for reason in entry.refusals {
                let refused = format!("(\"{}.{}\", Reason::{reason:?})", entry.kind, entry.name);
                assert!(tests.contains(&refused), "no test shows {refused}");
            }
        }
    }

    #[test]
    fn every_reason_is_some_commands_refusal() {
        for reason in Reason::ALL {
            let listed = COMMON_REFUSALS.contains(&reason) || COMMANDS.iter().any(|entry| entry.refusals.contains(&reason));
            assert!(listed, "{reason:?}");
        }
    }
}
