//! The `CustomResourceDefinition` of the kind.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;
use serde_json::{Map, Value, json};

use super::spec::Microservice;
use crate::annotations;

/// The `CustomResourceDefinition`.
///
/// The status has a default, because Helm (kstatus) treats an object without a status as ready. With the default, a new
/// object is not ready until the operator has reconciled it.
///
/// An annotation says which version of Hedgerow it comes from, so that an older one does not replace it.
#[must_use]
pub fn crd() -> CustomResourceDefinition {
    let mut crd = Microservice::crd();
    crd.metadata.annotations = Some([(annotations::VERSION.to_owned(), env!("CARGO_PKG_VERSION").to_owned())].into());
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

/// Converts a structural schema to a JSON Schema that refuses unknown fields, also those that the API server keeps. What
/// only the API server can check, such as CEL rules, is dropped.
#[must_use]
pub fn json_schema(structural: &Value) -> Value {
    let Value::Object(fields) = structural else { return structural.clone() };
    let mut schema = Map::new();
    for (keyword, value) in fields {
        let value = match (keyword.as_str(), value) {
            ("properties", Value::Object(all)) => {
                all.iter().map(|(name, value)| (name.clone(), json_schema(value))).collect()
            }
            ("items" | "additionalProperties", value) => json_schema(value),
            ("default" | "format", _) => continue,
            (keyword, _) if keyword.starts_with("x-kubernetes-") => continue,
            (_, value) => value.clone(),
        };
        schema.insert(keyword.clone(), value);
    }
    let has = |keyword: &str, value: Value| fields.get(keyword) == Some(&value);
    if fields.contains_key("properties") {
        schema.insert("additionalProperties".to_owned(), json!(false));
    }
    if has("x-kubernetes-int-or-string", json!(true)) {
        schema.insert("type".to_owned(), json!(["integer", "string"]));
    }
    if has("x-kubernetes-list-type", json!("set")) {
        schema.insert("uniqueItems".to_owned(), json!(true));
    }
    schema.into()
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
