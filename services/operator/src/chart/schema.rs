//! The definition of a `Microservice` spec in the chart's `values.schema.json`.

use anyhow::Context;
use serde_json::{Map, Value, json};

use api::crd;

/// The name of the definition in the schema of the values.
const DEFINITION: &str = "microservice";

/// Replaces the definition in the schema of the values.
///
/// # Errors
/// Returns an error if the text is not a JSON object.
pub(super) fn complete(text: &str) -> anyhow::Result<String> {
    let mut schema: Map<String, Value> = serde_json::from_str(text).context("not a JSON schema")?;
    let definitions = schema.entry("definitions").or_insert_with(|| json!({}));
    definitions[DEFINITION] = spec()?;
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// The schema of a spec in the values. The image is optional, because the chart has a default for its own services, and
/// unknown fields are refused.
fn spec() -> anyhow::Result<Value> {
    let mut crd = crd::document()?;
    let mut spec = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .map(Value::take)
        .context("the kind has no spec")?;
    let required = spec["required"].as_array_mut().context("the spec has no required fields")?;
    required.retain(|field| field != "image");
    if required.is_empty() {
        spec.as_object_mut().and_then(|spec| spec.remove("required"));
    }
    let mut schema = crd::json_schema(&spec);
    // null removes a service of the chart.
    schema["type"] = json!(["object", "null"]);
    Ok(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(values: &Value) -> bool {
        jsonschema::validator_for(&spec().expect("a schema")).expect("a schema").is_valid(values)
    }

    #[test]
    fn spec_in_the_values_may_omit_the_image() {
        assert!(accepts(&json!({ "database": {}, "scaling": { "min": 2 }, "network": { "allowFrom": ["users"] } })));
        assert!(accepts(&json!({ "calls": ["inventory"] })));
        assert!(accepts(
            &json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }] })
        ));
        assert!(accepts(&json!({ "resources": { "limits": { "cpu": 1, "memory": "1Gi" } } })));
        assert!(accepts(&json!(null)), "null removes a service");
    }

    #[test]
    fn unknown_fields_and_invalid_values_are_refused() {
        assert!(!accepts(&json!({ "databse": {} })));
        assert!(!accepts(&json!({ "scaling": { "minimum": 2 } })));
        assert!(!accepts(&json!({ "env": [{ "name": "A", "vlaue": "b" }] })));
        assert!(!accepts(&json!({ "scaling": { "min": 0 } })));
        assert!(!accepts(&json!({ "calls": ["inventory", "inventory"] })));
    }
}
