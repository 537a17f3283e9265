//! The hash chain: each row's hash covers the one before and a canonical form of the row in which personal values are replaced by seals.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::row::Content;

/// A SHA-256.
pub(crate) type Hash = [u8; 32];

/// What comes before the first row.
pub(crate) const START: Hash = [0; 32];

/// Names the form of the canonical encoding; another form gets another name.
const FORM: &[u8] = b"chancery-audit-1";

/// The seals of a row's personal values, by JSON pointer.
pub(crate) type Seals = BTreeMap<String, String>;

/// Seals what is personal.
pub(crate) fn seal(content: &Content, pointers: &[String], salt: &[u8]) -> Seals {
    pointers.iter().filter_map(|pointer| Some((pointer.clone(), seal_value(salt, pointer, &content.value(pointer)?)))).collect()
}

/// HMAC-SHA256(salt, pointer ‖ 0 ‖ value). The pointer keeps equal values of one row from showing that they are equal.
pub(crate) fn seal_value(salt: &[u8], pointer: &str, value: &Value) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(salt) else { return String::new() };
    mac.update(pointer.as_bytes());
    mac.update(&[0]);
    mac.update(canonical(value).as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// The hash of a row that follows `previous`.
pub(crate) fn hash(previous: &Hash, content: &Content, seals: &Seals) -> Hash {
    let mut hasher = Sha256::new();
    let mut part = |part: Option<&[u8]>| match part {
        // A length before each part: no two rows share an encoding.
        Some(bytes) => {
            hasher.update((bytes.len() as u64 + 1).to_be_bytes());
            hasher.update(bytes);
        }
        None => hasher.update(0_u64.to_be_bytes()),
    };
    part(Some(FORM));
    part(Some(previous));
    part(Some(&content.n.to_be_bytes()));
    part(Some(content.id.as_bytes()));
    part(Some(content.tenant.uuid().as_bytes()));
    part(Some(&content.sequence.to_be_bytes()));
    part(Some(content.action.as_bytes()));
    part(Some(content.entity_type.as_bytes()));
    part(Some(content.entity_id.as_bytes()));
    part(Some(content.performed_by.as_bytes()));
    part(Some(&(content.occurred_at.unix_timestamp_nanos() / 1_000).to_be_bytes()));
    part(Some(content.event_id.as_bytes()));
    part(content.command_id.as_ref().map(|id| id.as_bytes().as_slice()));
    part(Some(content.correlation_id.as_bytes()));
    part(open(content.ip_address.as_deref(), "/ipAddress", seals).as_deref());
    part(open(content.user_agent.as_deref(), "/userAgent", seals).as_deref());
    for (side, value) in [("/before", &content.before), ("/after", &content.after)] {
        part(value.as_ref().map(|value| canonical(&without(value, side, seals))).as_deref().map(str::as_bytes));
    }
    part(Some(canonical(&serde_json::json!(seals)).as_bytes()));
    hasher.finalize().into()
}

/// A text that is hashed as it is, unless it is sealed.
fn open(text: Option<&str>, pointer: &str, seals: &Seals) -> Option<Vec<u8>> {
    if seals.contains_key(pointer) { None } else { text.map(|text| text.as_bytes().to_vec()) }
}

/// The value with null wherever something is sealed.
fn without(value: &Value, side: &str, seals: &Seals) -> Value {
    let mut value = value.clone();
    for pointer in seals.keys().filter_map(|pointer| pointer.strip_prefix(side)) {
        if let Some(sealed) = value.pointer_mut(pointer) {
            *sealed = Value::Null;
        }
    }
    value
}

/// One text for one value: no spaces, keys sorted at every depth.
pub(crate) fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write(value, &mut text);
    text
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            text.push('{');
            for (index, (name, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write(value, text);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_canonical_form_does_not_depend_on_order() {
        let one: Value = serde_json::from_str(r#"{"b":[1,{"y":null,"x":"ü\""}],"a":1.5}"#).unwrap();
        assert_eq!(canonical(&one), r#"{"a":1.5,"b":[1,{"x":"ü\"","y":null}]}"#);
    }

    #[test]
    fn equal_values_have_different_seals_in_different_places() {
        let value = json!("ann@example.com");
        assert_ne!(seal_value(b"salt", "/after/email", &value), seal_value(b"salt", "/before/email", &value));
        assert_ne!(seal_value(b"salt", "/after/email", &value), seal_value(b"tlas", "/after/email", &value));
    }
}
