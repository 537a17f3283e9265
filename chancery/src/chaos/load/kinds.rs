//! The kinds of wishes: how often each is wanted, which command it is, and which refusals are right for it.

use aggregates::{Reason, registry};
use subjects::Kind;

/// A kind of wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kinds {
    CreateTenant,
    TakenSlug,
    RenameTenant,
    CreateUser,
    CreateGuest,
    CreateHot,
    TakenAddress,
    Rename,
    RenameHot,
    ReadHot,
    AssignRole,
    RevokeRole,
    LastOwner,
    Suspend,
    Reactivate,
    Deactivate,
    Invite,
    InviteByMail,
    InviteGuest,
    Accept,
    Decline,
    SetAttribute,
    Withdraw,
    CreateTeam,
    JoinTeam,
    LeaveTeam,
    DeleteTeam,
}

/// How often each is wanted, relative to the others.
pub(super) const WEIGHTS: [(Kinds, u32); 26] = [
    (Kinds::CreateTenant, 1),
    (Kinds::TakenSlug, 1),
    (Kinds::RenameTenant, 6),
    (Kinds::CreateUser, 22),
    (Kinds::CreateGuest, 2),
    (Kinds::TakenAddress, 2),
    (Kinds::Rename, 10),
    (Kinds::RenameHot, 14),
    (Kinds::ReadHot, 6),
    (Kinds::AssignRole, 8),
    (Kinds::RevokeRole, 3),
    (Kinds::LastOwner, 1),
    (Kinds::Suspend, 3),
    (Kinds::Reactivate, 4),
    (Kinds::Deactivate, 1),
    (Kinds::Invite, 8),
    (Kinds::InviteByMail, 3),
    (Kinds::InviteGuest, 2),
    (Kinds::Accept, 8),
    (Kinds::Decline, 1),
    (Kinds::SetAttribute, 2),
    (Kinds::Withdraw, 1),
    (Kinds::CreateTeam, 3),
    (Kinds::JoinTeam, 6),
    (Kinds::LeaveTeam, 2),
    (Kinds::DeleteTeam, 1),
];

/// The command's name, and every refusal that the registry lists for it.
pub(super) fn catalogued(kind: Kinds, command: &str) -> (&'static str, Vec<&'static str>) {
    let (aggregate, name) = match kind {
        Kinds::CreateTenant | Kinds::TakenSlug => (Kind::Tenant, "tenant.create"),
        Kinds::RenameTenant => (Kind::Tenant, "tenant.update"),
        Kinds::CreateUser | Kinds::CreateGuest | Kinds::CreateHot | Kinds::TakenAddress => (Kind::User, "user.create"),
        Kinds::Rename | Kinds::RenameHot | Kinds::ReadHot => (Kind::User, "user.update_profile"),
        Kinds::AssignRole => (Kind::Membership, "membership.assign_role"),
        Kinds::RevokeRole | Kinds::LastOwner => (Kind::Membership, "membership.revoke_role"),
        Kinds::Suspend => (Kind::User, "user.suspend"),
        Kinds::Reactivate => (Kind::User, "user.reactivate"),
        Kinds::Deactivate => (Kind::User, "user.deactivate"),
        Kinds::Invite | Kinds::InviteByMail | Kinds::InviteGuest => (Kind::Invitation, "invitation.create"),
        Kinds::Accept => (Kind::Invitation, "invitation.accept"),
        Kinds::Decline => (Kind::Invitation, "invitation.decline"),
        Kinds::SetAttribute => (Kind::Invitation, "invitation.set_attribute"),
        Kinds::Withdraw => (Kind::Invitation, "invitation.remove"),
        Kinds::CreateTeam => (Kind::Team, "team.create"),
        Kinds::JoinTeam => (Kind::Team, "team.add_members"),
        Kinds::LeaveTeam => (Kind::Team, "team.remove_members"),
        Kinds::DeleteTeam => (Kind::Team, "team.delete"),
    };
    let mut refusals: Vec<&'static str> =
        registry::command(aggregate, command).into_iter().flat_map(|entry| entry.refusals).map(|reason: &Reason| reason.code()).collect();
    refusals.push("version_conflict");
    // Teams are deleted on the way; everything else that a wish names stays.
    if aggregate == Kind::Team || aggregate == Kind::Invitation {
        refusals.push("not_found");
    }
    (name, refusals)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_wish_has_a_weight_and_names_a_command_of_the_registry() {
        for (kind, weight) in WEIGHTS {
            assert!(weight > 0);
            let name = catalogued(kind, "").0;
            let (aggregate, command) = name.split_once('.').unwrap();
            assert!(registry::command(aggregate.parse().unwrap(), command).is_some(), "{name}");
        }
    }
}
