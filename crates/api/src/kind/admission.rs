//! Validates a `Microservice` as the API server would, without one: defaults, schema and CEL rules.

use std::fmt;

use jsonschema::{
    ValidationError,
    error::ValidationErrorKind,
    paths::{Location, LocationSegment},
};
use kube::{
    Resource,
    core::cel::{Validator, apply_defaults},
};
use serde_json::{Value, json};

use super::{crd, spec::Microservice};

/// Why an object is refused: every reason, separated by semicolons.
#[derive(Debug, thiserror::Error)]
pub struct Refused(Vec<String>);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Validates an object and fills in its defaults. `old` is the stored object if this is a change to one.
///
/// # Errors
/// Returns an error if the API server would refuse the object, or if it has an unknown field, as with
/// `kubectl --validate=strict`.
pub fn admit(object: &Value, old: Option<&Value>) -> Result<Microservice, Refused> {
    let schema = schema().map_err(|error| Refused(vec![error.to_string()]))?;
    let defaulted = |object| apply_defaults(&schema, &without_nulls(object));
    let (object, old) = (defaulted(object), old.map(defaulted));

    let mut reasons = Vec::new();
    match jsonschema::validator_for(&closed(&schema)) {
        Ok(validator) => reasons.extend(validator.iter_errors(&object).map(|error| reason(&error))),
        Err(error) => reasons.push(error.to_string()),
    }
    // The rules assume an object that matches the schema.
    if reasons.is_empty()
        && let Err(errors) = Validator::new().validate(&schema, &object, old.as_ref())
    {
        reasons.extend(errors.as_slice().iter().map(ToString::to_string));
    }
    if !reasons.is_empty() {
        return Err(Refused(reasons));
    }
    serde_json::from_value(object).map_err(|error| Refused(vec![error.to_string()]))
}

fn reason(error: &ValidationError) -> String {
    let message = match error.kind() {
        ValidationErrorKind::AdditionalProperties { unexpected } => format!("unknown field {}", unexpected.join(", ")),
        _ => error.to_string(),
    };
    let field = field(error.instance_path());
    if field.is_empty() { message } else { format!("{field}: {message}") }
}

/// The path of a field as Kubernetes writes it, such as `spec.env[0].name`; empty for the object itself.
fn field(path: &Location) -> String {
    path.iter().fold(String::new(), |path, segment| match segment {
        LocationSegment::Index(index) => format!("{path}[{index}]"),
        LocationSegment::Property(name) if path.is_empty() => name.into_owned(),
        LocationSegment::Property(name) => format!("{path}.{name}"),
    })
}

fn schema() -> serde_json::Result<Value> {
    Ok(crd::document()?["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take())
}

/// Removes fields that are null: they count as not set.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(all) => {
            let set = all.iter().filter(|(_, value)| !value.is_null());
            set.map(|(key, value)| (key.clone(), without_nulls(value))).collect()
        }
        Value::Array(all) => all.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// The schema of an object as a JSON Schema. The API server itself knows the fields that every object has.
fn closed(schema: &Value) -> Value {
    let mut root = crd::json_schema(schema);
    if let Some(properties) = root.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("apiVersion".to_owned(), json!({ "const": Microservice::api_version(&()) }));
        properties.insert("kind".to_owned(), json!({ "const": Microservice::kind(&()) }));
        let name = json!({ "type": "string", "minLength": 1 });
        let strings = json!({ "type": "object", "additionalProperties": { "type": "string" } });
        let metadata = json!({
            "type": "object",
            "properties": { "name": name, "annotations": strings, "labels": strings },
            "required": ["name"],
        });
        properties.insert("metadata".to_owned(), metadata);
    }
    root["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    root
}
