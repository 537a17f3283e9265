//! Whether readers of a schema bear what another one lets through: what changes within a version only adds.
//!
//! Schemas here are those of `aggregates::schema`: objects all the way down, with nothing to look up.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

/// What does not change what a schema lets through.
const WORDS: [&str; 8] = ["$id", "$schema", "title", "description", "default", "x-personal", "x-secret", "x-enum-descriptions"];

/// Every breach between two sets of schemas by name: a schema that is gone is one, a new one is none.
pub(crate) fn breaches_of_all(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let mut all = Vec::new();
    for (name, old) in before {
        match after.get(name) {
            Some(new) => all.extend(breaches(old, new).into_iter().map(|breach| format!("{name}{breach}"))),
            None => all.push(format!("{name}: is gone")),
        }
    }
    all
}

/// Every breach between two schemas, each with the path of what it is about.
pub(crate) fn breaches(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(old, new, "", &mut found);
    found
}

fn compare(old: &Value, new: &Value, path: &str, found: &mut Vec<String>) {
    if old == new {
        return;
    }
    let (Some(before), Some(after)) = (old.as_object(), new.as_object()) else {
        found.push(format!("{path}: was {old} and is {new}"));
        return;
    };
    properties(before, after, path, found);
    // Readers treat a value they do not know as "other", but wait for those they know.
    let gone: Vec<String> = set(before, "enum").difference(&set(after, "enum")).cloned().collect();
    if !gone.is_empty() {
        found.push(format!("{path}: can no longer be {}", gone.join(", ")));
    }
    if after.contains_key("enum") != before.contains_key("enum") {
        found.push(format!("{path}: was{} a choice of values, and is{}", not(before), not(after)));
    }
    // Everything else that says what is let through stays as it is, by name: also what nobody has thought of yet.
    let said_otherwise = ["properties", "required", "enum"];
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for key in keys.into_iter().filter(|key| !WORDS.contains(&key.as_str()) && !said_otherwise.contains(&key.as_str())) {
        match (before.get(key), after.get(key)) {
            (Some(old @ Value::Object(_)), Some(new @ Value::Object(_))) => compare(old, new, &format!("{path}/{key}"), found),
            (old, new) if old != new => found.push(format!("{path}: {key} was {} and is {}", shown(old), shown(new))),
            _ => {}
        }
    }
}

fn properties(before: &Map<String, Value>, after: &Map<String, Value>, path: &str, found: &mut Vec<String>) {
    let empty = Map::new();
    let of = |schema: &Map<String, Value>| schema.get("properties").and_then(Value::as_object).unwrap_or(&empty).clone();
    let (old_fields, new_fields) = (of(before), of(after));
    for (name, old) in &old_fields {
        match new_fields.get(name) {
            Some(new) => compare(old, new, &format!("{path}/{name}"), found),
            None => found.push(format!("{path}/{name}: is gone")),
        }
    }
    let (was, is) = (names(before), names(after));
    // Who reads it relies on it being there.
    found.extend(was.difference(&is).filter(|name| new_fields.contains_key(*name)).map(|name| format!("{path}/{name}: is no longer always there")));
    // What was sent before, and stays in the stream and in the table for ever, does not have it.
    found.extend(is.difference(&was).map(|name| format!("{path}/{name}: is required, and what was sent before may lack it")));
}

/// The fields that are always there.
fn names(schema: &Map<String, Value>) -> BTreeSet<String> {
    let required = schema.get("required").and_then(Value::as_array);
    required.map(|names| names.iter().filter_map(|name| name.as_str().map(ToOwned::to_owned)).collect()).unwrap_or_default()
}

/// The values of a list, as JSON.
fn set(schema: &Map<String, Value>, key: &str) -> BTreeSet<String> {
    schema.get(key).and_then(Value::as_array).map(|items| items.iter().map(Value::to_string).collect()).unwrap_or_default()
}

fn not(schema: &Map<String, Value>) -> &'static str {
    if schema.contains_key("enum") { "" } else { " not" }
}

fn shown(value: Option<&Value>) -> String {
    value.map_or_else(|| "not said".to_owned(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A schema with everything that ours have.
    fn schema() -> Value {
        json!({
            "$id": "urn:a", "title": "a", "description": "What happened.", "type": "object", "x-version": "1.0",
            "properties": {
                "id": { "type": "string", "pattern": "^a_" },
                "by": { "type": ["string", "null"] },
                "note": { "type": "string", "x-personal": true },
                "plan": { "type": "string", "enum": ["free", "starter"], "x-enum-descriptions": { "free": "To try." } },
                "changes": { "type": "object", "properties": { "name": { "type": "string" } }, "required": ["name"] },
                "ids": { "type": "array", "items": { "type": "string" } },
            },
            "required": ["id", "by", "plan", "changes", "ids"],
        })
    }

    /// The breaches when something is done to the schema.
    fn after(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut new = schema();
        change(&mut new);
        breaches(&schema(), &new)
    }

    fn require(schema: &mut Value, names: &[&str]) {
        schema["required"] = json!(names);
    }

    fn drop_from(object: &mut Value, name: &str) {
        object.as_object_mut().unwrap().remove(name);
    }

    #[test]
    fn what_only_adds_is_no_breach() {
        assert_eq!(after(|_| {}), [""; 0]);
        assert_eq!(after(|new| new["properties"]["later"] = json!({ "type": "integer" })), [""; 0]);
        assert_eq!(after(|new| new["properties"]["changes"]["properties"]["later"] = json!({ "type": "integer" })), [""; 0]);
        assert_eq!(after(|new| new["properties"]["plan"]["enum"] = json!(["free", "starter", "enterprise"])), [""; 0]);
        assert_eq!(after(|new| new["description"] = "In other words.".into()), [""; 0]);
        assert_eq!(after(|new| new["properties"]["id"]["x-personal"] = true.into()), [""; 0]);
        assert_eq!(after(|new| require(new, &["plan", "by", "id", "ids", "changes"])), [""; 0], "in another order");
    }

    #[test]
    fn a_field_that_is_gone_is_a_breach_at_any_depth() {
        assert_eq!(after(|new| drop_from(&mut new["properties"], "note")), ["/note: is gone"]);
        assert_eq!(after(|new| drop_from(&mut new["properties"]["changes"]["properties"], "name")), ["/changes/name: is gone"]);
    }

    #[test]
    fn a_field_of_another_type_is_a_breach() {
        assert_eq!(after(|new| new["properties"]["note"]["type"] = "integer".into()), ["/note: type was \"string\" and is \"integer\""]);
        assert_eq!(after(|new| new["properties"]["by"]["type"] = "string".into()).len(), 1);
        assert_eq!(after(|new| new["properties"]["id"]["type"] = json!(["string", "null"])).len(), 1, "newly null");
        assert_eq!(after(|new| new["properties"]["ids"]["items"]["type"] = "integer".into()), ["/ids/items: type was \"string\" and is \"integer\""]);
        assert_eq!(after(|new| new["properties"]["ids"]["items"] = json!(true)), ["/ids: items was {\"type\":\"string\"} and is true"]);
    }

    #[test]
    fn a_field_that_is_newly_required_is_a_breach_new_or_old() {
        let breach = |name| format!("/{name}: is required, and what was sent before may lack it");
        let all = |more: &str| ["id", "by", "plan", "changes", "ids"].into_iter().map(str::to_owned).chain([more.to_owned()]).collect::<Vec<_>>();
        let with = |new: &mut Value, name: &str| new["required"] = json!(all(name));
        assert_eq!(after(|new| with(new, "note")), [breach("note")]);
        assert_eq!(
            after(|new| {
                new["properties"]["later"] = json!({ "type": "string" });
                with(new, "later");
            }),
            [breach("later")]
        );
    }

    #[test]
    fn a_field_that_is_no_longer_always_there_is_a_breach() {
        assert_eq!(after(|new| require(new, &["id", "plan", "changes", "ids"])), ["/by: is no longer always there"]);
        assert_eq!(after(|new| drop_from(&mut new["properties"]["changes"], "required")), ["/changes/name: is no longer always there"]);
    }

    #[test]
    fn a_choice_that_is_narrower_opened_or_closed_is_a_breach() {
        assert_eq!(after(|new| new["properties"]["plan"]["enum"] = json!(["free"])), ["/plan: can no longer be \"starter\""]);
        assert_eq!(after(|new| new["properties"]["note"]["enum"] = json!(["a"])), ["/note: was not a choice of values, and is"]);
        assert!(!after(|new| drop_from(&mut new["properties"]["plan"], "enum")).is_empty());
    }

    #[test]
    fn readers_must_be_allowed_to_meet_fields_they_do_not_know() {
        assert_eq!(after(|new| new["additionalProperties"] = false.into()), [": additionalProperties was not said and is false"]);
        assert_eq!(after(|new| new["properties"]["changes"]["unevaluatedProperties"] = false.into()).len(), 1);
    }

    #[test]
    fn another_form_version_or_rule_is_a_breach() {
        assert_eq!(after(|new| new["x-version"] = "2.0".into()).len(), 1);
        assert_eq!(after(|new| new["properties"]["id"]["pattern"] = "^b_".into()).len(), 1);
        assert_eq!(after(|new| new["properties"]["note"]["maxLength"] = 7.into()).len(), 1);
        assert_eq!(after(|new| new["properties"]["note"] = json!(true)).len(), 1);
    }

    #[test]
    fn an_event_that_is_gone_is_a_breach_and_a_new_one_is_none() {
        let one = |name: &str| BTreeMap::from([(name.to_owned(), schema())]);
        assert_eq!(breaches_of_all(&one("a.json"), &one("b.json")), ["a.json: is gone"]);
        assert_eq!(breaches_of_all(&BTreeMap::new(), &one("b.json")), [""; 0]);
    }
}
