//! What of an event, or of a state, clients are shown: nothing that is secret, and nothing personal that was erased.

use aggregates::registry;
use serde_json::Value;
use subjects::Kind;

/// Takes out what is secret.
pub(crate) fn without_secrets(value: &mut Value) {
    if let Value::Object(fields) = value {
        registry::SECRETS.iter().for_each(|secret| drop(fields.remove(*secret)));
    }
}

/// An event's body as it was published, without what is secret.
///
/// # Errors
/// A body that is no JSON.
pub(crate) fn body(body: &str) -> serde_json::Result<String> {
    // Most have nothing to hide, and then the body is shown as it is.
    if !registry::SECRETS.iter().any(|secret| body.contains(secret)) {
        return Ok(body.to_owned());
    }
    let mut value: Value = serde_json::from_str(body)?;
    if let Some(data) = value.get_mut("data") {
        without_secrets(data);
    }
    Ok(value.to_string())
}

/// Empties what is personal in the data of an event of this kind, or in a state of it.
pub(crate) fn erase(kind: Kind, value: &mut Value) {
    let personal = registry::EVENTS.iter().filter(|entry| entry.kind == kind).flat_map(|entry| entry.personal);
    for pointer in personal {
        if let Some(found) = value.pointer_mut(pointer) {
            *found = Value::Null;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_shown_without_its_secrets_and_otherwise_as_it_is() {
        let plain = r#"{"id":"evt_1", "data":{"email":"a@b.example"}}"#;
        assert_eq!(body(plain).unwrap(), plain);
        let secret = r#"{"id":"evt_1","data":{"email":"a@b.example","tokenHash":"abc"}}"#;
        assert_eq!(body(secret).unwrap(), r#"{"data":{"email":"a@b.example"},"id":"evt_1"}"#);
        assert!(body("tokenHash").is_err());
    }

    #[test]
    fn what_was_erased_is_not_shown_in_events_nor_in_states() {
        let mut changed = json!({ "userId": "user_1", "changes": { "fullName": { "old": "A", "new": "B" } } });
        erase(Kind::User, &mut changed);
        assert_eq!(changed, json!({ "userId": "user_1", "changes": { "fullName": null } }));
        let mut state = json!({ "email": "a@b.example", "fullName": "A", "status": "active" });
        erase(Kind::User, &mut state);
        assert_eq!(state, json!({ "email": null, "fullName": null, "status": "active" }));
    }
}
