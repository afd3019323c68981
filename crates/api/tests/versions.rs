//! Objects that are stored keep what they say, whatever becomes of the kind. `docs/api.md` has the policy.

use api::{Microservice, admit, annotations, crd};
use serde_json::Value;

/// An object with every field of v1alpha1, as clusters store it. Fields may be added, and nothing else may change.
const STORED: &str = include_str!("v1alpha1.json");

fn stored() -> Value {
    serde_json::from_str(STORED).expect("JSON")
}

#[test]
fn every_field_survives_decoding_and_encoding() {
    let object: Microservice = serde_json::from_value(stored()).expect("a Microservice");
    let encoded = serde_json::to_value(&object).expect("JSON");
    assert_eq!(encoded, stored());
    let again: Microservice = serde_json::from_value(encoded).expect("a Microservice");
    assert_eq!(again, object);
}

#[test]
fn stored_object_is_valid_and_has_every_field_of_the_schema() {
    admit(&stored(), None).map(drop).expect("it is valid");
    let definition = crd::document().expect("a definition");
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"];
    for part in ["spec", "status"] {
        let missing = missing(&schema[part], &[&stored()[part]], part);
        assert!(missing.is_empty(), "add these fields to crates/api/tests/v1alpha1.json: {missing:?}");
    }
}

/// The fields of a schema that none of the values have.
fn missing(schema: &Value, values: &[&Value], path: &str) -> Vec<String> {
    if let Some(items) = schema.get("items") {
        let inside: Vec<&Value> = values.iter().filter_map(|value| value.as_array()).flatten().collect();
        return missing(items, &inside, path);
    }
    let mut all = Vec::new();
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let inside: Vec<&Value> = values.iter().filter_map(|value| value.get(name)).collect();
        if inside.is_empty() {
            all.push(path);
        } else {
            all.extend(missing(schema, &inside, &path));
        }
    }
    all
}

#[test]
fn objects_are_stored_as_v1alpha1() {
    let definition = crd::crd();
    let stored: Vec<_> = definition.spec.versions.iter().filter(|version| version.storage).collect();
    let [version] = stored.as_slice() else { panic!("{} versions are stored", stored.len()) };
    assert_eq!((version.name.as_str(), version.served), ("v1alpha1", true));
    let marks = definition.metadata.annotations.expect("annotations");
    assert_eq!(marks[annotations::VERSION], env!("CARGO_PKG_VERSION"));
}
