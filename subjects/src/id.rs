//! Ids: `<prefix>_<uuid>`, lower case, one type each.

use std::{borrow::Cow, fmt, hash::Hash, marker::PhantomData, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use uuid::Uuid;

/// What an [`Id`] identifies; gives the prefix.
pub trait Prefix {
    /// The letters before the underscore.
    const PREFIX: &'static str;
}

/// The things that have ids.
pub mod prefix {
    use super::Prefix;

    /// Marks a tenant's id.
    pub enum Tenant {}
    /// Marks a user's id.
    pub enum User {}
    /// Marks an invitation's id.
    pub enum Invitation {}
    /// Marks a team's id.
    pub enum Team {}
    /// Marks a role's id.
    pub enum Role {}
    /// Marks a session's id.
    pub enum Session {}
    /// Marks an event's id.
    pub enum Event {}
    /// Marks a command's id.
    pub enum Command {}
    /// Marks a service account's id.
    pub enum Service {}

    impl Prefix for Tenant {
        const PREFIX: &'static str = "tenant";
    }
    impl Prefix for User {
        const PREFIX: &'static str = "user";
    }
    impl Prefix for Invitation {
        const PREFIX: &'static str = "inv";
    }
    impl Prefix for Team {
        const PREFIX: &'static str = "team";
    }
    impl Prefix for Role {
        const PREFIX: &'static str = "role";
    }
    impl Prefix for Session {
        const PREFIX: &'static str = "sess";
    }
    impl Prefix for Event {
        const PREFIX: &'static str = "evt";
    }
    impl Prefix for Command {
        const PREFIX: &'static str = "cmd";
    }
    impl Prefix for Service {
        const PREFIX: &'static str = "svc";
    }
}

/// An id of one kind of thing. Two kinds cannot be mixed up: they are different types.
pub struct Id<P>(Uuid, PhantomData<fn() -> P>);

/// A tenant's id.
pub type TenantId = Id<prefix::Tenant>;
/// A user's id; a membership is keyed by it too.
pub type UserId = Id<prefix::User>;
/// An invitation's id.
pub type InvitationId = Id<prefix::Invitation>;
/// A team's id.
pub type TeamId = Id<prefix::Team>;
/// A role's id: one of four constants, see [`crate::Role::id`].
pub type RoleId = Id<prefix::Role>;
/// A session's id.
pub type SessionId = Id<prefix::Session>;
/// An event's id; also its `Nats-Msg-Id`.
pub type EventId = Id<prefix::Event>;
/// A command's id; also its `Nats-Msg-Id`.
pub type CommandId = Id<prefix::Command>;
/// A service account's id.
pub type ServiceId = Id<prefix::Service>;

/// Why a text is no id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an id of the form {0}_<lower-case uuid>")]
pub struct IdError(&'static str);

impl<P> Id<P> {
    /// Wraps a UUID.
    pub const fn new(uuid: Uuid) -> Self {
        Self(uuid, PhantomData)
    }

    /// The UUID without its prefix.
    pub const fn uuid(&self) -> Uuid {
        self.0
    }
}

/// The id of a thing that follows from another (RFC 9562 UUIDv5): the same source and role give the same id, so that a retry creates
/// nothing twice.
pub fn derive<P>(source: Uuid, role: &str) -> Id<P> {
    Id::new(Uuid::new_v5(&source, role.as_bytes()))
}

impl<P> Clone for Id<P> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<P> Copy for Id<P> {}
impl<P> PartialEq for Id<P> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<P> Eq for Id<P> {}
impl<P> PartialOrd for Id<P> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<P> Ord for Id<P> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<P> Hash for Id<P> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<P: Prefix> fmt::Display for Id<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = Uuid::encode_buffer();
        f.write_str(P::PREFIX)?;
        f.write_str("_")?;
        f.write_str(self.0.hyphenated().encode_lower(&mut buffer))
    }
}

impl<P: Prefix> fmt::Debug for Id<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<P: Prefix> FromStr for Id<P> {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = IdError(P::PREFIX);
        let rest = text.strip_prefix(P::PREFIX).and_then(|rest| rest.strip_prefix('_')).ok_or(error.clone())?;
        // `Uuid` also reads braces, upper case and the form without hyphens; an id has one spelling only.
        if rest.len() != 36 || rest.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(error);
        }
        Uuid::try_parse(rest).map(Self::new).map_err(|_| error)
    }
}

impl<P: Prefix> Serialize for Id<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, P: Prefix> Deserialize<'de> for Id<P> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Text("an id", str::parse))
    }
}

impl<P: Prefix> JsonSchema for Id<P> {
    fn schema_name() -> Cow<'static, str> {
        P::PREFIX.into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": format!("^{}_{UUID}$", P::PREFIX) })
    }
}

/// A UUID as every id spells it, as a regular expression.
pub(crate) const UUID: &str = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";

/// Reads a text into something without keeping it: ids and times are most of what a message holds.
pub(crate) struct Text<T, E>(pub(crate) &'static str, pub(crate) fn(&str) -> Result<T, E>);

impl<T, E: fmt::Display> de::Visitor<'_> for Text<T, E> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<D: de::Error>(self, text: &str) -> Result<T, D> {
        (self.1)(text).map_err(D::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_prints() {
        let text = "tenant_01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(text.parse::<TenantId>().map(|id| id.to_string()), Ok(text.to_owned()));
    }

    #[test]
    fn an_id_has_one_spelling_only() {
        for text in [
            "tenant_01890A5D-AC96-774B-BCCE-B302099A8057",
            "tenant_01890a5dac96774bbcceb302099a8057",
            "tenant_{01890a5d-ac96-774b-bcce-b302099a8057}",
            "user_01890a5d-ac96-774b-bcce-b302099a8057",
            "tenant_",
            "tenant_>",
            "",
            "tenant_01890a5d-ac96-774b-bcce-b302099a805.",
        ] {
            assert!(text.parse::<TenantId>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_follows_from_the_same_source_has_the_same_id() {
        let source = Uuid::from_u128(7);
        assert_eq!(derive::<prefix::User>(source, "owner"), derive(source, "owner"));
        assert_ne!(derive::<prefix::User>(source, "owner"), derive(source, "user"));
    }
}
