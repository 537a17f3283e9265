//! The JSON Schemas under `docs/schemas/` are what the types say, every recorded event fits its schema, and what changes only adds.
//!
//! `CHANCERY_RECORD=1 cargo test -p chancery --test schemas` records a change that is compatible, and refuses any other: a breaking change
//! is a new event with a name of its own.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected must fail at once")]

mod compatible;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use aggregates::{registry, schema};
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn folder() -> PathBuf {
    root().join("docs/schemas")
}

/// Every schema by its file below `docs/schemas/`.
fn present() -> BTreeMap<String, Value> {
    let events = registry::EVENTS.iter().map(|entry| (format!("events/{}.json", entry.event_type), schema::data(entry)));
    events.chain([("envelope.json".to_owned(), schema::envelope())]).collect()
}

/// What was recorded last.
fn recorded() -> BTreeMap<String, Value> {
    let files = |within: &str| {
        fs::read_dir(folder().join(within)).map(|entries| entries.map(|entry| entry.unwrap().path()).collect::<Vec<_>>()).unwrap_or_default()
    };
    let all = [files(""), files("events")].concat();
    let schemas = all.into_iter().filter(|path| path.extension().is_some_and(|kind| kind == "json"));
    let name = |path: &Path| path.strip_prefix(folder()).unwrap().to_str().unwrap().to_owned();
    schemas.map(|path| (name(&path), serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap())).collect()
}

/// The samples of `workers/aggregates/recorded/events`, by type.
fn samples() -> Vec<Value> {
    let read =
        |entry: &registry::EventEntry| fs::read_to_string(root().join(format!("workers/aggregates/recorded/events/{}.json", entry.event_type)));
    registry::EVENTS.iter().map(|entry| serde_json::from_str(&read(entry).unwrap()).unwrap()).collect()
}

/// A whole message around a sample.
fn message(sample: &Value) -> Value {
    let entry = registry::event(sample["type"].as_str().unwrap()).unwrap();
    json!({
        "id": "evt_01890a5d-ac96-774b-bcce-b302099a8057", "type": entry.event_type, "timestamp": "2026-11-22T10:00:00.123Z", "version": "1.0",
        "source": "chancery", "tenantId": sample["data"]["tenantId"], "userId": null, "aggregate": entry.kind.name(),
        "aggregateId": "user_01890a5d-ac96-774b-bcce-b302099a8057", "aggregateVersion": 3, "sequence": 9, "correlationId": "c",
        "causationId": "cmd_01890a5d-ac96-774b-bcce-b302099a8057", "data": sample["data"], "ofTheFuture": { "a": 1 },
    })
}

/// What is wrong with an instance, formats included.
fn errors(schema: &Value, instance: &Value) -> Vec<String> {
    let validator = jsonschema::draft202012::options().should_validate_formats(true).build(schema).unwrap();
    validator.iter_errors(instance).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn the_recorded_schemas_are_what_the_types_say_and_changes_only_add() {
    let (present, before) = (present(), recorded());
    let breaches = compatible::breaches_of_all(&before, &present);
    assert!(breaches.is_empty(), "readers of what was recorded would break; a breaking change is a new event name:\n{}", breaches.join("\n"));
    if std::env::var_os("CHANCERY_RECORD").is_some_and(|value| value == "1") {
        fs::create_dir_all(folder().join("events")).unwrap();
        for (name, schema) in present.iter().filter(|(name, schema)| before.get(*name) != Some(schema)) {
            fs::write(folder().join(name), serde_json::to_string_pretty(schema).unwrap() + "\n").unwrap();
        }
    }
    for (name, schema) in &present {
        let kept = recorded().remove(name);
        assert!(kept.as_ref() == Some(schema), "docs/schemas/{name} has drifted: CHANCERY_RECORD=1 cargo test -p chancery --test schemas records it");
    }
}

#[test]
fn every_schema_is_one_and_has_a_name_of_its_own() {
    let mut ids: Vec<String> = Vec::new();
    for (name, schema) in present() {
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema", "{name}");
        assert!(jsonschema::draft202012::meta::is_valid(&schema), "{name}");
        assert_eq!(schema["x-version"], subjects::VERSION, "{name}");
        ids.push(schema["$id"].as_str().unwrap().to_owned());
    }
    let count = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), count), (registry::EVENTS.len() + 1, registry::EVENTS.len() + 1));
}

#[test]
fn every_recorded_event_fits_its_schema_inside_and_outside_of_its_envelope() {
    let schemas = present();
    for sample in samples() {
        let event_type = sample["type"].as_str().unwrap();
        let message = message(&sample);
        assert_eq!(errors(&schemas[&format!("events/{event_type}.json")], &sample["data"]), [""; 0], "{event_type}");
        assert_eq!(errors(&schemas["envelope.json"], &message), [""; 0], "{event_type}");
        assert_eq!(errors(&schema::message(registry::event(event_type).unwrap()), &message), [""; 0], "{event_type}");
    }
}

#[test]
fn what_is_required_or_has_another_type_is_missed() {
    let schemas = present();
    for sample in samples() {
        let event_type = sample["type"].as_str().unwrap();
        let schema = &schemas[&format!("events/{event_type}.json")];
        for (name, property) in schema["properties"].as_object().unwrap() {
            let mut without = sample["data"].clone();
            without.as_object_mut().unwrap().remove(name);
            let is_required = schema["required"].as_array().unwrap().contains(&name.as_str().into());
            assert_eq!(errors(schema, &without).is_empty(), !is_required, "{event_type} without {name}");
            if property.get("type").is_some() {
                let mut other = sample["data"].clone();
                other[name] = json!([[7.5]]);
                assert!(!errors(schema, &other).is_empty(), "{event_type} with another {name}");
            }
        }
    }
}
