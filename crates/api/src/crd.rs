//! The definition of the kind, for the API server.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::Microservice;

/// The `CustomResourceDefinition`.
///
/// Its status has a default, so that who waits for a new object (Helm, by kstatus) sees that it is not ready yet: an
/// object without a status would count as done.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = Microservice::crd();
    for schema in schemas(&mut crd) {
        tidy(schema);
        if let Some(status) = schema.properties.as_mut().and_then(|all| all.get_mut("status")) {
            status.default = Some(JSON(json!({ "observedGeneration": -1 })));
        }
    }
    crd
}

/// The `CustomResourceDefinition` as a document.
///
/// # Errors
/// Returns an error if it cannot be serialized.
pub fn document() -> serde_json::Result<Value> {
    serde_json::to_value(crd()).map(whole)
}

fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
}

/// Takes out what comes from Rust and tells an API's user nothing: line breaks of the source, and that an optional
/// field may be null, which here as in the kinds of Kubernetes is the same as leaving it out.
fn tidy(schema: &mut JSONSchemaProps) {
    schema.title = None;
    schema.nullable = None;
    schema.description = schema.description.take().map(|text| text.replace('\n', " "));
    schema.properties.iter_mut().flat_map(|all| all.values_mut()).for_each(tidy);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &mut schema.items {
        tidy(items);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        tidy(values);
    }
}

/// Whole numbers without `.0`: bounds are floating point numbers in the types.
fn whole(value: Value) -> Value {
    match value {
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, whole(value))).collect(),
        Value::Array(all) => all.into_iter().map(whole).collect(),
        #[expect(clippy::cast_possible_truncation, reason = "only where nothing is lost")]
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => json!(float as i64),
            _ => Value::Number(number),
        },
        other => other,
    }
}
