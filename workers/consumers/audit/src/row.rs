//! From an event to what its row says.

use std::borrow::Cow;

use aggregates::registry;
use runtime::consume::Event;
use serde_json::{Map, Value};
use subjects::{CommandId, TenantId, header};
use time::OffsetDateTime;
use uuid::Uuid;

/// The content of a row, as the hash covers it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Content<'a> {
    pub(crate) id: Uuid,
    pub(crate) n: i64,
    pub(crate) tenant: TenantId,
    pub(crate) sequence: i64,
    pub(crate) action: Cow<'a, str>,
    pub(crate) entity_type: Cow<'a, str>,
    pub(crate) entity_id: Cow<'a, str>,
    pub(crate) performed_by: Cow<'a, str>,
    pub(crate) occurred_at: OffsetDateTime,
    pub(crate) event_id: Uuid,
    pub(crate) command_id: Option<Uuid>,
    pub(crate) correlation_id: Cow<'a, str>,
    pub(crate) ip_address: Option<Cow<'a, str>>,
    pub(crate) user_agent: Option<Cow<'a, str>>,
    pub(crate) before: Option<Value>,
    pub(crate) after: Option<Value>,
}

impl<'a> Content<'a> {
    /// Reads an event; `n` is given later, with the row's place in the chain.
    pub(crate) fn of(event: &'a Event) -> Self {
        let envelope = &event.envelope;
        let (before, after) = before_and_after(&envelope.data);
        Self {
            id: Uuid::now_v7(),
            n: 0,
            tenant: envelope.tenant_id,
            sequence: i64::try_from(envelope.sequence).unwrap_or(i64::MAX),
            action: action(&envelope.event_type),
            entity_type: envelope.aggregate.name().into(),
            entity_id: envelope.aggregate_id.as_str().into(),
            performed_by: envelope.user_id.map_or(Cow::Borrowed("system"), |actor| actor.to_string().into()),
            occurred_at: envelope.timestamp,
            event_id: envelope.id.uuid(),
            command_id: envelope.causation_id.parse::<CommandId>().ok().map(|id| id.uuid()),
            correlation_id: envelope.correlation_id.as_str().into(),
            ip_address: event.header(header::IP).map(Cow::Borrowed),
            user_agent: event.header(header::USER_AGENT).map(Cow::Borrowed),
            before,
            after,
        }
    }

    /// The JSON pointers of what is personal in it. The address and program of a request always are; the rest the registry says.
    pub(crate) fn personal(&self, event_type: &str) -> Vec<String> {
        let mut pointers = Vec::new();
        pointers.extend(self.ip_address.is_some().then(|| "/ipAddress".to_owned()));
        pointers.extend(self.user_agent.is_some().then(|| "/userAgent".to_owned()));
        for (side, value) in [("before", &self.before), ("after", &self.after)] {
            let Some(value) = value else { continue };
            let inside = match registry::event(event_type) {
                Some(entry) => entry.personal.iter().flat_map(|pointer| places(pointer, value)).collect(),
                // An event of a newer version: all of it might be.
                None => places("/changes", value),
            };
            pointers.extend(inside.into_iter().map(|pointer| format!("/{side}{pointer}")));
        }
        pointers.sort();
        pointers.dedup();
        pointers
    }

    /// The value at one of those pointers.
    pub(crate) fn value(&self, pointer: &str) -> Option<Cow<'_, Value>> {
        let text = |text: &Option<Cow<'_, str>>| text.as_deref().map(|text| Cow::Owned(Value::from(text)));
        match pointer.split('/').nth(1) {
            Some("ipAddress") => text(&self.ip_address),
            Some("userAgent") => text(&self.user_agent),
            Some("before") => self.before.as_ref()?.pointer(pointer.strip_prefix("/before")?).map(Cow::Borrowed),
            Some("after") => self.after.as_ref()?.pointer(pointer.strip_prefix("/after")?).map(Cow::Borrowed),
            _ => None,
        }
        .filter(|value| !value.is_null())
    }
}

/// What was and what is. `changes` names both for each field, and so do pairs such as `oldRoleName` and `newRoleName`; everything else
/// is what is.
fn before_and_after(data: &Value) -> (Option<Value>, Option<Value>) {
    let Value::Object(fields) = data else { return (None, (!data.is_null()).then(|| data.clone())) };
    let (mut before, mut after) = (Map::new(), Map::new());
    for (name, value) in fields {
        if let ("changes", Value::Object(changes)) = (name.as_str(), value) {
            for (field, change) in changes {
                before.insert(field.clone(), change.get("old").cloned().unwrap_or_default());
                after.insert(field.clone(), change.get("new").cloned().unwrap_or_default());
            }
        } else if let Some(field) = half_of_a_pair(name, "old", "new", fields) {
            before.insert(field, value.clone());
        } else if let Some(field) = half_of_a_pair(name, "new", "old", fields) {
            after.insert(field, value.clone());
        } else {
            after.insert(name.clone(), value.clone());
        }
    }
    let some = |map: Map<String, Value>| (!map.is_empty()).then_some(Value::Object(map));
    (some(before), some(after))
}

/// `oldRoleName` beside `newRoleName` is `roleName`.
fn half_of_a_pair(name: &str, this: &str, other: &str, fields: &Map<String, Value>) -> Option<String> {
    let rest = name.strip_prefix(this).filter(|rest| rest.starts_with(char::is_uppercase))?;
    fields.contains_key(&format!("{other}{rest}")).then(|| rest[..1].to_ascii_lowercase() + &rest[1..])
}

/// The event's name in the audit.
fn action(event_type: &str) -> Cow<'static, str> {
    registry::event(event_type).map_or_else(|| event_type.to_uppercase().replace('.', "_").into(), |entry| entry.audit_action.into())
}

/// Where a pointer into the event's data leads in one side of a row: what stood under `changes` or beside its pair has moved up.
fn places(pointer: &str, side: &Value) -> Vec<String> {
    let pointer = match pointer.strip_prefix("/changes") {
        Some("") => return side.as_object().into_iter().flatten().map(|(field, _)| format!("/{}", escaped(field))).collect(),
        Some(rest) => rest.to_owned(),
        None => pointer.to_owned(),
    };
    let of_a_pair = |prefix: &str| {
        pointer.strip_prefix(prefix).filter(|rest| !rest.is_empty()).map(|rest| format!("/{}{}", rest[..1].to_ascii_lowercase(), &rest[1..]))
    };
    let candidates = [Some(pointer.clone()), of_a_pair("/old"), of_a_pair("/new")];
    candidates.into_iter().flatten().filter(|candidate| side.pointer(candidate).is_some()).collect()
}

pub(crate) fn escaped(field: &str) -> String {
    field.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn changes_and_pairs_are_told_apart_into_before_and_after() {
        let data = json!({ "userId": "user_1", "changes": { "fullName": { "old": "Ann", "new": "Anna" } } });
        assert_eq!(before_and_after(&data), (Some(json!({ "fullName": "Ann" })), Some(json!({ "userId": "user_1", "fullName": "Anna" }))));
        let data = json!({ "oldRoleName": "member", "newRoleName": null, "changedBy": "user_1" });
        assert_eq!(before_and_after(&data), (Some(json!({ "roleName": "member" })), Some(json!({ "roleName": null, "changedBy": "user_1" }))));
        assert_eq!(before_and_after(&json!({ "slug": "acme" })), (None, Some(json!({ "slug": "acme" }))));
        assert_eq!(before_and_after(&json!({})), (None, None));
    }

    #[test]
    fn a_word_that_begins_with_old_is_no_pair() {
        assert_eq!(before_and_after(&json!({ "older": 1, "newer": 2 })).0, None);
        assert_eq!(before_and_after(&json!({ "oldPlan": 1 })).0, None);
    }

    #[test]
    fn a_personal_pointer_leads_into_both_sides() {
        let side = json!({ "fullName": "Ann", "a/b": 1 });
        assert_eq!(places("/changes/fullName", &side), ["/fullName"]);
        assert_eq!(places("/changes", &side), ["/a~1b", "/fullName"]);
        assert_eq!(places("/oldFullName", &side), ["/fullName"]);
        assert_eq!(places("/email", &side), Vec::<String>::new());
    }

    #[test]
    fn actions_are_those_of_the_catalogue() {
        assert_eq!(action("role.assignment_succeeded"), "ROLE_ASSIGNED");
        assert_eq!(action("tenant.member_joined"), "TENANT_MEMBER_JOINED");
        assert_eq!(action("team.of_tomorrow"), "TEAM_OF_TOMORROW");
    }
}
