//! The hash chain: each row's hash covers the one before and a canonical form of the row in which personal values are replaced by seals.

use std::collections::BTreeMap;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::row::{Content, escaped};

/// A SHA-256.
pub(crate) type Hash = [u8; 32];

/// What comes before the first row.
pub(crate) const START: Hash = [0; 32];

/// Names the form of the canonical encoding; another form gets another name.
const FORM: &[u8] = b"chancery-audit-1";

/// The seals of a row's personal values, by JSON pointer.
pub(crate) type Seals = BTreeMap<String, String>;

/// Seals what is personal.
pub(crate) fn seal(content: &Content<'_>, pointers: &[String], salt: &[u8]) -> Seals {
    pointers.iter().filter_map(|pointer| Some((pointer.clone(), seal_value(salt, pointer, content.value(pointer)?.as_ref())))).collect()
}

/// HMAC-SHA256(salt, pointer ‖ 0 ‖ value). The pointer keeps equal values of one row from showing that they are equal.
pub(crate) fn seal_value(salt: &[u8], pointer: &str, value: &Value) -> String {
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(salt) else { return String::new() };
    mac.update(pointer.as_bytes());
    mac.update(&[0]);
    mac.update(&canonical(value));
    hex::encode(mac.finalize().into_bytes())
}

/// The hash of a row that follows `previous`.
pub(crate) fn hash(previous: &Hash, content: &Content<'_>, seals: &Seals) -> Hash {
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
    for (text, pointer) in [(&content.ip_address, "/ipAddress"), (&content.user_agent, "/userAgent")] {
        // A text is hashed as it is, unless it is sealed.
        part(text.as_deref().map(str::as_bytes).filter(|_| !seals.contains_key(pointer)));
    }
    for (side, value) in [("/before", &content.before), ("/after", &content.after)] {
        part(value.as_ref().map(|value| without(value, side, seals)).as_deref());
    }
    part(Some(to_json(seals).as_bytes()));
    hasher.finalize().into()
}

/// The canonical form of a value with null wherever something is sealed.
fn without(value: &Value, side: &str, seals: &Seals) -> Vec<u8> {
    let mut text = Vec::with_capacity(256);
    let sealed: Vec<&str> = seals.keys().filter_map(|pointer| pointer.strip_prefix(side)).collect();
    write(value, &mut String::new(), &sealed, &mut text);
    text
}

/// One text for one value: no spaces, keys sorted at every depth.
pub(crate) fn canonical(value: &Value) -> Vec<u8> {
    let mut text = Vec::with_capacity(64);
    write(value, &mut String::new(), &[], &mut text);
    text
}

/// Writes a value that stands at `pointer`; what is at a sealed pointer is null.
fn write(value: &Value, pointer: &mut String, sealed: &[&str], text: &mut Vec<u8>) {
    if sealed.contains(&pointer.as_str()) {
        return text.extend_from_slice(b"null");
    }
    match value {
        Value::Object(fields) => {
            let mut sorted: Vec<(&String, &Value)> = fields.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            text.push(b'{');
            for (index, (name, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                text.extend_from_slice(to_json(name).as_bytes());
                text.push(b':');
                below(pointer, name, sealed, |pointer| write(value, pointer, sealed, text));
            }
            text.push(b'}');
        }
        Value::Array(items) => {
            text.push(b'[');
            for (index, value) in items.iter().enumerate() {
                if index > 0 {
                    text.push(b',');
                }
                below(pointer, &index.to_string(), sealed, |pointer| write(value, pointer, sealed, text));
            }
            text.push(b']');
        }
        other => text.extend_from_slice(to_json(other).as_bytes()),
    }
}

/// Goes one step down. Where nothing is sealed nobody asks for the pointer.
fn below(pointer: &mut String, name: &str, sealed: &[&str], work: impl FnOnce(&mut String)) {
    let length = pointer.len();
    if !sealed.is_empty() {
        pointer.push('/');
        pointer.push_str(&escaped(name));
    }
    work(pointer);
    pointer.truncate(length);
}

/// JSON without spaces. What is written here has text keys only, and cannot fail.
pub(crate) fn to_json(value: &(impl serde::Serialize + ?Sized)) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_canonical_form_does_not_depend_on_order() {
        let one: Value = serde_json::from_str(r#"{"b":[1,{"y":null,"x":"ü\""}],"a":1.5}"#).unwrap();
        assert_eq!(String::from_utf8_lossy(&canonical(&one)), r#"{"a":1.5,"b":[1,{"x":"ü\"","y":null}]}"#);
    }

    #[test]
    fn what_is_sealed_is_null_at_its_place_alone() {
        let value = json!({ "a": { "b/c": "secret", "d": 1 }, "list": ["x", { "y": "secret" }], "b/c": "open" });
        let seals: Seals = ["/after/a/b~1c", "/after/list/1/y", "/before/list"].map(|pointer| (pointer.to_owned(), String::new())).into();
        let text = String::from_utf8(without(&value, "/after", &seals)).unwrap();
        assert_eq!(text, r#"{"a":{"b/c":null,"d":1},"b/c":"open","list":["x",{"y":null}]}"#);
    }

    #[test]
    fn equal_values_have_different_seals_in_different_places() {
        let value = json!("ann@example.com");
        assert_ne!(seal_value(b"salt", "/after/email", &value), seal_value(b"salt", "/before/email", &value));
        assert_ne!(seal_value(b"salt", "/after/email", &value), seal_value(b"tlas", "/after/email", &value));
    }
}
