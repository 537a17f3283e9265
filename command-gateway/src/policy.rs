//! What each route does and who may use it. Every route has one; the router cannot be built without.

use aggregates::{Reason, registry};
use axum::http::Method;
use subjects::Kind;

use crate::permission;
pub use crate::permission::Least;

/// What a route does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Does {
    /// Sends a command.
    Command(Kind, &'static str),
    /// Reads.
    Query,
    /// Does something about the platform itself, which is no command to an aggregate.
    Operation,
}

/// A route's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// The HTTP method.
    pub method: Verb,
    /// The path, with `{names}`.
    pub path: &'static str,
    /// What it does.
    pub does: Does,
    /// The permission it asks for, of [`permission::PERMISSIONS`].
    pub permission: &'static str,
    /// Who has it.
    pub least: Least,
}

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// Reads.
    Get,
    /// Sends a command.
    Post,
    /// Replaces.
    Put,
    /// Changes in part.
    Patch,
    /// Ends something.
    Delete,
}

impl Verb {
    /// As in a request line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl From<Verb> for Method {
    fn from(verb: Verb) -> Self {
        match verb {
            Verb::Get => Self::GET,
            Verb::Post => Self::POST,
            Verb::Put => Self::PUT,
            Verb::Patch => Self::PATCH,
            Verb::Delete => Self::DELETE,
        }
    }
}

impl Policy {
    const fn new(method: Verb, path: &'static str, does: Does, permission: &'static str) -> Self {
        Self { method, path, does, permission, least: permission::least(permission) }
    }

    /// A route that sends a command.
    pub const fn command(method: Verb, path: &'static str, kind: Kind, command: &'static str, permission: &'static str) -> Self {
        Self::new(method, path, Does::Command(kind, command), permission)
    }

    /// A route that reads.
    pub const fn query(path: &'static str, permission: &'static str) -> Self {
        Self::new(Verb::Get, path, Does::Query, permission)
    }

    /// A route that reads by what is in the body, because it must not stand in a URL.
    pub const fn lookup(path: &'static str, permission: &'static str) -> Self {
        Self::new(Verb::Post, path, Does::Query, permission)
    }

    /// A route by which a platform operator does something that is no command.
    pub const fn operation(path: &'static str, permission: &'static str) -> Self {
        Self::new(Verb::Post, path, Does::Operation, permission)
    }

    /// The command's type, if it sends one.
    pub fn command_type(&self) -> Option<String> {
        match self.does {
            Does::Command(kind, command) => Some(format!("{kind}.{command}")),
            Does::Query | Does::Operation => None,
        }
    }

    /// The refusals of the domain that the route may answer with.
    pub fn refusals(&self) -> Vec<Reason> {
        let Does::Command(kind, command) = self.does else { return Vec::new() };
        let own = registry::command(kind, command).map_or(&[][..], |entry| entry.refusals);
        registry::COMMON_REFUSALS.iter().chain(own).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// What the registry says about who may give a command, in the words of a route.
    fn agree(route: Least, registry: registry::Least) -> bool {
        match (route, registry) {
            (Least::Operator, registry::Least::Operator)
            | (Least::Aggregate, registry::Least::Workflow)
            | (Least::Public, registry::Least::Public)
            // `me` in place of an id.
            | (Least::Own, registry::Least::SelfOr(_)) => true,
            (Least::Role(ours), registry::Least::Role(theirs)) | (Least::SelfOr(ours), registry::Least::SelfOr(theirs)) => ours == theirs,
            _ => false,
        }
    }

    #[test]
    fn every_route_agrees_with_the_registry_about_who_may() {
        for policy in crate::policies() {
            let Does::Command(kind, command) = policy.does else { continue };
            let entry = registry::command(kind, command).expect(policy.path);
            assert!(agree(policy.least, entry.least), "{} {}", policy.method.name(), policy.path);
        }
    }

    #[test]
    fn every_command_but_that_of_time_has_a_route() {
        let routed: BTreeSet<_> = crate::policies().into_iter().filter_map(Policy::command_type).collect();
        let known = registry::COMMANDS.iter().filter(|entry| entry.least != registry::Least::System);
        assert_eq!(routed, known.map(|entry| format!("{}.{}", entry.kind, entry.name)).collect());
    }

    #[test]
    fn no_two_routes_are_the_same_and_only_links_are_public() {
        let policies = crate::policies();
        let names: BTreeSet<_> = policies.iter().map(|policy| (policy.method, policy.path)).collect();
        assert_eq!(names.len(), policies.len());
        let public: BTreeSet<_> = policies.iter().filter(|policy| policy.least == Least::Public).map(|policy| policy.path).collect();
        assert_eq!(public, ["/v1/invitations/accept", "/v1/invitations/decline", "/v1/invitations/lookup"].into());
    }
}
