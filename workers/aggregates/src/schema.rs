//! JSON Schemas (2020-12) of what readers of EVENTS meet: the envelope, and the `data` of each event. Made from the types that are
//! serialised, their doc comments, and what the registry says is personal.
//!
//! They say what is *sent*. A field that was added later has a `default`: events from before lack it, so it is not required.

mod text;

use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use subjects::{Envelope, Kind, VERSION};

use crate::{
    invitation, membership,
    registry::{EventEntry, SECRETS},
    team, tenant, user,
};

/// The dialect of the schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The `$id` of a schema: a name, and no address.
fn id(of: &str) -> String {
    format!("urn:chancery:{of}:{VERSION}")
}

/// The schema of a type, with nothing left to look up.
fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    schema
}

/// What an event's `data` looks like, with its title and description.
///
/// An event of the registry whose type is unknown to its kind would come out empty; the tests of the registry exclude that.
pub fn data(entry: &EventEntry) -> Value {
    let all = match entry.kind {
        Kind::Tenant => of::<tenant::Event>(),
        Kind::User => of::<user::Event>(),
        Kind::Membership => of::<membership::Event>(),
        Kind::Invitation => of::<invitation::Event>(),
        Kind::Team => of::<team::Event>(),
    };
    let is_it = |variant: &&Value| variant.pointer("/properties/type/const").is_some_and(|name| name == entry.event_type);
    let variant = all["oneOf"].as_array().and_then(|variants| variants.iter().find(is_it)).cloned().unwrap_or_default();
    let mut schema = variant.pointer("/properties/data").cloned().unwrap_or_else(|| json!({}));
    schema["$schema"] = DIALECT.into();
    schema["$id"] = id(&format!("event:{}", entry.event_type)).into();
    schema["title"] = entry.event_type.into();
    schema["description"] = variant["description"].clone();
    schema["x-version"] = VERSION.into();
    for pointer in entry.personal {
        mark(&mut schema, pointer, "x-personal");
    }
    for name in SECRETS {
        mark(&mut schema, &format!("/{name}"), "x-secret");
    }
    schema
}

/// What every event's envelope looks like, whatever its `data` is.
pub fn envelope() -> Value {
    let mut schema = of::<Envelope<Map<String, Value>>>();
    schema["$schema"] = DIALECT.into();
    schema["$id"] = id("envelope").into();
    schema["title"] = "envelope".into();
    schema["description"] = "The body of every event's message. What `data` holds, the schema of the event's type says.".into();
    schema["x-version"] = VERSION.into();
    schema
}

/// What the whole message of an event looks like: the envelope around its data. Without name and dialect, to stand inside a document.
pub fn message(entry: &EventEntry) -> Value {
    let (mut schema, mut data) = (envelope(), data(entry));
    schema["title"] = data["title"].clone();
    schema["description"] = data["description"].clone();
    schema["properties"]["type"] = json!({ "const": entry.event_type, "type": "string", "description": "`<topic>.<event>`." });
    schema["properties"]["aggregate"] =
        json!({ "const": entry.kind.name(), "type": "string", "description": "The kind of aggregate it happened to." });
    for schema in [&mut schema, &mut data] {
        if let Some(schema) = schema.as_object_mut() {
            schema.remove("$schema");
            schema.remove("$id");
        }
    }
    schema["properties"]["data"] = data;
    schema
}

/// Marks the property a JSON pointer into the data names.
fn mark(schema: &mut Value, pointer: &str, with: &str) {
    let mut at = Some(schema);
    for name in pointer.split('/').skip(1) {
        at = at.and_then(|schema| schema.get_mut("properties")?.get_mut(name));
    }
    if let Some(property) = at.and_then(Value::as_object_mut) {
        property.insert(with.into(), true.into());
    }
}

/// Puts what the generator says into fewer words, and takes what has a default out of what is required: fields that came later have one.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(simplify);
            values(object);
            // `uint32` and the like are no formats of JSON Schema.
            if object.get("format").and_then(Value::as_str).is_some_and(|format| format.starts_with("uint")) {
                object.remove("format");
            }
            let required = object.remove("required");
            let mut required = required.and_then(|required| required.as_array().cloned()).unwrap_or_default();
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                let has_default =
                    |name: &Value| name.as_str().and_then(|name| properties.get(name)).is_some_and(|field| field.get("default").is_some());
                required.retain(|name| !has_default(name));
                let missing =
                    properties.iter_mut().filter(|(name, field)| !required.contains(&name.as_str().into()) && field.get("default").is_none());
                missing.for_each(|(_, field)| never_null(field));
            }
            if !required.is_empty() {
                object.insert("required".into(), required.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}

/// What may be missing is left out rather than null.
fn never_null(field: &mut Value) {
    let Some(types) = field.get_mut("type") else { return };
    let rest: Vec<Value> = types.as_array().into_iter().flatten().filter(|name| *name != "null").cloned().collect();
    if let [only] = &rest[..] {
        *types = only.clone();
    }
}

/// A choice of constants becomes an `enum`; what each means stays readable beside it.
fn values(object: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = object.get("oneOf") else { return };
    let constants: Option<Vec<Value>> = choices.iter().map(|choice| choice.get("const").cloned()).collect();
    let Some(constants) = constants else { return };
    let about = choices.iter().filter_map(|choice| Some((choice.get("const")?.as_str()?.to_owned(), choice.get("description")?.clone()))).collect();
    object.remove("oneOf");
    object.insert("type".into(), "string".into());
    object.insert("enum".into(), constants.into());
    object.insert("x-enum-descriptions".into(), Value::Object(about));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{recorded, registry};

    #[test]
    fn every_event_has_a_schema_with_the_fields_of_its_sample_and_no_other() {
        for sample in recorded::events() {
            let schema = data(registry::event(sample.event_type()).unwrap());
            let sample = serde_json::to_value(&sample).unwrap();
            same_fields(&schema, &sample["data"], sample["type"].as_str().unwrap());
        }
    }

    /// Every object of the sample has the fields that its schema knows, but for maps of anything.
    fn same_fields(schema: &Value, sample: &Value, path: &str) {
        if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), sample.as_object()) {
            let (mut known, mut found): (Vec<_>, Vec<_>) = (properties.keys().collect(), fields.keys().collect());
            known.sort();
            found.sort();
            assert_eq!(known, found, "{path}");
            fields.iter().for_each(|(name, value)| same_fields(&properties[name], value, &format!("{path}/{name}")));
        }
    }

    #[test]
    fn every_field_is_described_and_what_is_personal_or_secret_is_marked() {
        for entry in registry::EVENTS {
            let schema = data(entry);
            for (name, property) in schema["properties"].as_object().unwrap() {
                assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{} {name}", entry.event_type);
                assert_eq!(property["x-secret"] == true, SECRETS.contains(&name.as_str()), "{} {name}", entry.event_type);
            }
            let marked = schema.to_string().matches("\"x-personal\":true").count();
            assert_eq!(marked, entry.personal.len(), "{}", entry.event_type);
        }
    }

    #[test]
    fn what_may_be_missing_is_not_required() {
        let joined = data(registry::event("tenant.member_joined").unwrap());
        let required = |schema: &Value, name: &str| schema["required"].as_array().unwrap().contains(&name.into());
        assert!(!required(&joined, "invitationId") && required(&joined, "email"));
        // It came later: events from before lack it.
        assert!(!required(&data(registry::event("user.created").unwrap()), "emailVerified"));
        assert_eq!(joined["properties"]["invitationId"]["type"], "string", "it is left out, never null");
        // It is always there, and null for time.
        assert!(required(&envelope(), "userId") && envelope()["properties"]["userId"]["type"] == json!(["string", "null"]));
    }

    #[test]
    fn nothing_has_to_be_looked_up_and_readers_may_meet_fields_they_do_not_know() {
        for schema in registry::EVENTS.iter().map(message).chain([envelope()]) {
            let text = schema.to_string();
            assert!(!text.contains("$ref") && !text.contains("\"additionalProperties\":false"), "{text}");
        }
    }
}
