//! The `CustomResourceDefinition` of the kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Value, json};

use crate::spec::Microservice;

/// The `CustomResourceDefinition`.
///
/// The status has a default, because Helm (kstatus) treats an object without a status as ready. With the default, a new
/// object is not ready until the operator has reconciled it.
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

/// The `CustomResourceDefinition` as JSON.
///
/// # Errors
/// Returns an error if it cannot be serialized.
pub fn document() -> serde_json::Result<Value> {
    serde_json::to_value(crd()).map(whole)
}

fn schemas(crd: &mut CustomResourceDefinition) -> impl Iterator<Item = &mut JSONSchemaProps> {
    crd.spec.versions.iter_mut().filter_map(|version| version.schema.as_mut()?.open_api_v3_schema.as_mut())
}

/// Removes artifacts of the Rust types: titles, line breaks of the source, and `nullable`. An optional field may be
/// null, as in the kinds of Kubernetes, which is the same as not setting it.
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

/// Writes integral numbers without `.0`: the types have bounds as floating-point numbers.
fn whole(value: Value) -> Value {
    match value {
        Value::Object(all) => all.into_iter().map(|(key, value)| (key, whole(value))).collect(),
        Value::Array(all) => all.into_iter().map(whole).collect(),
        #[expect(clippy::cast_possible_truncation, reason = "the number is integral and below 1e15")]
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() && float.fract() == 0.0 && float.abs() < 1e15 => json!(float as i64),
            _ => Value::Number(number),
        },
        other => other,
    }
}
