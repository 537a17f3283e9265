//! Events as Chancery would publish them.

use std::{collections::HashMap, path::Path};

use aggregates::registry;
use serde_json::{Value, json};
use subjects::{Envelope, EventId, InvitationId, Kind, SOURCE, TeamId, TenantId, UserId, VERSION};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

/// When the first event of a history happened.
const BEGIN: OffsetDateTime = OffsetDateTime::UNIX_EPOCH.saturating_add(Duration::days(20_000));

/// The id of a thing that a test calls by a number.
fn numbered(kind: u128, number: u64) -> Uuid {
    Uuid::from_u128((0x7000_u128 << 64) | (0x8000_u128 << 48) | (kind << 96) | u128::from(number))
}

/// The tenant of this number.
pub fn tenant(number: u64) -> TenantId {
    TenantId::new(numbered(1, number))
}

/// The user of this number.
pub fn user(number: u64) -> UserId {
    UserId::new(numbered(2, number))
}

/// The invitation of this number.
pub fn invitation(number: u64) -> InvitationId {
    InvitationId::new(numbered(3, number))
}

/// The team of this number.
pub fn team(number: u64) -> TeamId {
    TeamId::new(numbered(4, number))
}

/// A history: events with dense sequences for each tenant, rising versions for each aggregate, and ids that are the same in every run.
#[derive(Debug, Clone, Default)]
pub struct Told {
    pub(crate) events: Vec<Envelope>,
    sequences: HashMap<TenantId, u64>,
    versions: HashMap<(TenantId, Kind, Uuid), u64>,
}

impl Told {
    /// Adds an event about something: a [`user`], an [`invitation`], a [`team`], or the [`tenant`] itself. The ids that every event's data repeats
    /// (`tenantId`, `userId` …) are added to `data`.
    ///
    /// # Panics
    /// The registry knows no such event, or its data has another form: a test of what cannot happen shows nothing.
    pub fn event(&mut self, tenant: TenantId, event_type: &str, about: impl About, data: Value) -> &Envelope {
        let kind = registry::event(event_type).unwrap_or_else(|| panic!("there is no event {event_type}: docs/events.md has all of them")).kind;
        let id = about.uuid();
        let aggregate_id = kind.id(id);
        let data = completed(data, tenant, kind, &aggregate_id);
        let known = json!({ "type": event_type, "data": data });
        if let Err(error) = serde_json::from_value::<aggregates::Event>(known) {
            panic!("{data} is no data of {event_type} ({error}): docs/events.md says what it has");
        }
        let sequence = self.sequences.entry(tenant).or_default();
        *sequence += 1;
        let version = self.versions.entry((tenant, kind, id)).or_default();
        *version += 1;
        let number = u64::try_from(self.events.len()).unwrap_or(u64::MAX) + 1;
        let seconds = i64::try_from(number).unwrap_or(i64::MAX);
        self.events.push(Envelope {
            id: EventId::new(numbered(9, number)),
            event_type: event_type.to_owned(),
            timestamp: BEGIN + Duration::seconds(seconds),
            version: VERSION.to_owned(),
            source: SOURCE.to_owned(),
            tenant_id: tenant,
            user_id: None,
            aggregate: kind,
            aggregate_id,
            aggregate_version: *version,
            sequence: *sequence,
            correlation_id: format!("test-{number}"),
            causation_id: format!("cmd_{}", numbered(8, number)),
            data,
        });
        self.events.last().expect("it was just added")
    }

    /// Adds an event with the data that is recorded for its type, about whatever has this id: for consumers that take events of many kinds.
    ///
    /// # Panics
    /// The registry knows no such event.
    pub fn sample(&mut self, tenant: TenantId, event_type: &str, about: impl About) -> &Envelope {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../aggregates/recorded/events/{event_type}.json"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("there is no record of {event_type} ({error})"));
        let recorded: Value = serde_json::from_str(&text).expect("what is recorded is JSON");
        let mut data = recorded["data"].clone();
        if let Value::Object(fields) = &mut data {
            // What it was recorded about: `completed` puts the right ids there.
            let kind = registry::event(event_type).map(|entry| entry.kind);
            fields.remove("tenantId");
            kind.map(id_field).and_then(|name| fields.remove(name));
        }
        self.event(tenant, event_type, about, data)
    }

    /// Adds the last event once more, as it comes after a repair: consumers must not do it again.
    ///
    /// # Panics
    /// There is none.
    pub fn again(&mut self) {
        let last = self.events.last().expect("something was told").clone();
        self.events.push(last);
    }

    /// What was told so far.
    pub fn events(&self) -> &[Envelope] {
        &self.events
    }
}

/// What an event can be about: an id of any kind, or one without a kind.
pub trait About {
    /// It without its kind.
    fn uuid(&self) -> Uuid;
}

impl About for Uuid {
    fn uuid(&self) -> Uuid {
        *self
    }
}

macro_rules! about {
    ($($id:ty),+) => {
        $(impl About for $id {
            fn uuid(&self) -> Uuid {
                <$id>::uuid(self)
            }
        })+
    };
}
about!(TenantId, UserId, InvitationId, TeamId);

/// With the ids that every event's data repeats.
fn completed(mut data: Value, tenant: TenantId, kind: Kind, id: &str) -> Value {
    if let Value::Object(fields) = &mut data {
        fields.entry("tenantId").or_insert_with(|| json!(tenant));
        fields.entry(id_field(kind)).or_insert_with(|| json!(id));
    }
    data
}

/// What data calls the id of an aggregate.
const fn id_field(kind: Kind) -> &'static str {
    match kind {
        Kind::Tenant => "tenantId",
        Kind::User | Kind::Membership => "userId",
        Kind::Invitation => "invitationId",
        Kind::Team => "teamId",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_dense_for_each_tenant_and_rises_for_each_aggregate() {
        let mut told = Told::default();
        let email = |n: u64| json!({ "email": format!("{n}@example.org"), "fullName": "Ada" });
        told.event(tenant(1), "user.created", user(1), email(1));
        told.event(tenant(2), "user.created", user(2), email(2));
        told.event(tenant(1), "user.created", user(3), email(3));
        told.event(tenant(1), "user.suspended", user(1), json!({ "reason": null }));
        let places: Vec<(u64, u64)> = told.events().iter().map(|event| (event.sequence, event.aggregate_version)).collect();
        assert_eq!(places, [(1, 1), (1, 1), (2, 1), (3, 2)]);
        assert_eq!(told.events()[0].data["userId"], json!(user(1)));
    }

    #[test]
    fn every_event_of_the_registry_can_be_told_as_it_is_recorded() {
        let mut told = Told::default();
        for entry in registry::EVENTS {
            let event = told.sample(tenant(1), entry.event_type, user(7).uuid());
            assert_eq!(
                (&event.data["tenantId"], event.aggregate_id.as_str()),
                (&json!(tenant(1)), entry.kind.id(user(7).uuid()).as_str()),
                "{}",
                entry.event_type
            );
        }
    }

    #[test]
    #[should_panic(expected = "there is no event user.invented")]
    fn an_event_that_does_not_exist_is_not_told() {
        Told::default().event(tenant(1), "user.invented", user(1), json!({}));
    }

    #[test]
    #[should_panic(expected = "is no data of user.created")]
    fn an_event_whose_data_lacks_something_is_not_told() {
        Told::default().event(tenant(1), "user.created", user(1), json!({}));
    }
}
