//! `operator values-schema`: the part of the chart's `values.schema.json` that follows from the kind.

use std::{fs, path::Path};

use anyhow::Context;
use serde_json::{Map, Value, json};

use api::crd;

/// What the chart's schema calls the schema of a spec.
const DEFINITION: &str = "microservice";

/// The schema of the file, its definition of a spec made anew.
///
/// # Errors
/// Where the file cannot be read, or is no JSON object.
pub(crate) fn complete(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {name}"))?;
    let mut schema: Map<String, Value> = serde_json::from_str(&text).with_context(|| format!("{name} is no schema"))?;
    let definitions = schema.entry("definitions").or_insert_with(|| json!({}));
    definitions[DEFINITION] = spec()?;
    Ok(serde_json::to_string_pretty(&schema)? + "\n")
}

/// The schema of a spec, for values: an image left out is the chart's, and a field that is not known is a typing error.
fn spec() -> anyhow::Result<Value> {
    let mut crd = crd::document()?;
    let mut spec = crd
        .pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .map(Value::take)
        .context("the kind has no spec")?;
    let required = spec["required"].as_array_mut().context("nothing is required")?;
    required.retain(|field| field != "image");
    if required.is_empty() {
        spec.as_object_mut().and_then(|spec| spec.remove("required"));
    }
    close(&mut spec);
    // A null takes a service of the chart's away.
    spec["type"] = json!(["object", "null"]);
    Ok(spec)
}

/// Makes JSON Schema of the API server's dialect. What only the API server knows to check is left to it.
fn close(schema: &mut Value) {
    let Value::Object(fields) = schema else { return };
    let open = fields.contains_key("x-kubernetes-preserve-unknown-fields");
    fields.retain(|name, _| !name.starts_with("x-kubernetes-") && name != "format" && name != "default");
    if let Some(Value::Object(properties)) = fields.get_mut("properties") {
        properties.values_mut().for_each(close);
        if !open {
            fields.entry("additionalProperties").or_insert(json!(false));
        }
    }
    for name in ["items", "additionalProperties"] {
        fields.get_mut(name).into_iter().for_each(close);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(values: &Value) -> bool {
        jsonschema::validator_for(&spec().expect("a schema")).expect("a schema").is_valid(values)
    }

    #[test]
    fn a_spec_of_the_values_may_leave_its_image_to_the_chart() {
        assert!(accepts(&json!({ "database": {}, "scaling": { "min": 2 }, "network": { "allowFrom": ["users"] } })));
        assert!(accepts(
            &json!({ "env": [{ "name": "A", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }] })
        ));
        assert!(accepts(&json!({ "resources": { "limits": { "cpu": 1, "memory": "1Gi" } } })));
        assert!(accepts(&json!(null)), "it takes a service away");
    }

    #[test]
    fn a_field_that_is_not_known_is_refused_at_any_depth() {
        assert!(!accepts(&json!({ "databse": {} })));
        assert!(!accepts(&json!({ "scaling": { "minimum": 2 } })));
        assert!(!accepts(&json!({ "env": [{ "name": "A", "vlaue": "b" }] })));
        assert!(!accepts(&json!({ "scaling": { "min": 0 } })));
    }
}
