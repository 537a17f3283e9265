//! What an inviter attaches to an invitation: JSON values under keys, limited in number and size.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de};
use serde_json::Value;

use crate::text::AttributeKey;

/// Attributes within their limits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<AttributeKey, Value>", into = "BTreeMap<AttributeKey, Value>")]
pub struct Attributes(BTreeMap<AttributeKey, Value>);

/// Why attributes are refused; a sentence for the person who sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AttributesError {
    /// More keys than allowed.
    #[error("must be at most 64 attributes")]
    TooMany,
    /// More bytes than allowed.
    #[error("must be at most 8 KiB of JSON together")]
    TooLarge,
    /// The character that the store cannot keep.
    #[error("must not contain the NUL character")]
    Nul,
}

impl Attributes {
    /// The most keys.
    pub const MAX_KEYS: usize = 64;
    /// The most bytes, of keys and values as JSON.
    pub const MAX_BYTES: usize = 8 * 1024;

    /// The values by key.
    pub fn values(&self) -> &BTreeMap<AttributeKey, Value> {
        &self.0
    }

    /// With one more value, or another one under the same key.
    ///
    /// # Errors
    /// When they would exceed a limit.
    pub fn with(&self, key: AttributeKey, value: Value) -> Result<Self, AttributesError> {
        let mut values = self.0.clone();
        values.insert(key, value);
        Self::try_from(values)
    }

    pub(crate) fn put(&mut self, key: AttributeKey, value: Value) {
        self.0.insert(key, value);
    }

    pub(crate) fn remove(&mut self, key: &AttributeKey) {
        self.0.remove(key);
    }
}

impl TryFrom<BTreeMap<AttributeKey, Value>> for Attributes {
    type Error = AttributesError;

    fn try_from(values: BTreeMap<AttributeKey, Value>) -> Result<Self, AttributesError> {
        if values.len() > Self::MAX_KEYS {
            return Err(AttributesError::TooMany);
        }
        if values.values().any(has_nul) {
            return Err(AttributesError::Nul);
        }
        let bytes: usize = values.iter().map(|(key, value)| key.as_str().len() + json_len(value)).sum();
        if bytes > Self::MAX_BYTES { Err(AttributesError::TooLarge) } else { Ok(Self(values)) }
    }
}

impl From<Attributes> for BTreeMap<AttributeKey, Value> {
    fn from(attributes: Attributes) -> Self {
        attributes.0
    }
}

fn json_len(value: &Value) -> usize {
    value.to_string().len()
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
    }
}

/// Reads one value that could be an attribute; for `#[serde(deserialize_with)]`.
pub(crate) fn value<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Value, D::Error> {
    let value = Value::deserialize(deserializer)?;
    if has_nul(&value) {
        return Err(de::Error::custom(AttributesError::Nul));
    }
    if json_len(&value) > Attributes::MAX_BYTES {
        return Err(de::Error::custom(AttributesError::TooLarge));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> AttributeKey {
        text.parse().unwrap()
    }

    #[test]
    fn attributes_are_limited_in_number_and_in_size() {
        let many = |count: usize| (0..count).map(|n| (key(&format!("k{n}")), Value::Null)).collect::<BTreeMap<_, _>>();
        assert!(Attributes::try_from(many(64)).is_ok());
        assert_eq!(Attributes::try_from(many(65)), Err(AttributesError::TooMany));
        let large = |bytes: usize| BTreeMap::from([(key("k"), Value::from("x".repeat(bytes)))]);
        assert!(Attributes::try_from(large(8 * 1024 - 3)).is_ok());
        assert_eq!(Attributes::try_from(large(8 * 1024 - 2)), Err(AttributesError::TooLarge));
    }

    #[test]
    fn nul_is_refused_wherever_it_hides() {
        for text in [r#"{"k":"a\u0000"}"#, r#"{"k":["a",{"b":"\u0000"}]}"#, r#"{"k":{"\u0000":1}}"#] {
            assert!(serde_json::from_str::<Attributes>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn keys_follow_the_contract() {
        for text in [r#"{"a b":1}"#, r#"{"":1}"#, r#"{"ü":1}"#, &format!(r#"{{"{}":1}}"#, "k".repeat(65))] {
            assert!(serde_json::from_str::<Attributes>(text).is_err(), "{text}");
        }
        assert!(serde_json::from_str::<Attributes>(r#"{"A-z_0.9":{"any":["json",null]}}"#).is_ok());
    }
}
