//! The parts of the schema that do not follow from a Rust type. The API server requires them to be structural, and
//! bounded: otherwise it refuses the CEL rules on them as too expensive.

use k8s_openapi::api::core::v1::EnvVar;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Value, json};

use crate::auth::RouteAuth;

/// A Kubernetes resource quantity.
const QUANTITY: &str = r"^[0-9]+(\.[0-9]*)?([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$";

/// The name of a `Microservice`.
const NAME: &str = "^[a-z]([-a-z0-9]*[a-z0-9])?$";

pub(crate) fn port(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "format": "int32", "minimum": 1, "maximum": 65535 })
}

/// The variants of an enum. Their doc comments are dropped: a schema has one description for all of them.
pub(crate) fn choice<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    let schema = T::json_schema(generator);
    let variants = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let names: Vec<&Value> = variants.filter_map(|variant| variant.get("const")).collect();
    json_schema!({ "type": "string", "enum": names })
}

pub(crate) fn paths(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 20,
        "items": { "type": "string", "minLength": 1, "maxLength": 200 },
    })
}

/// The same as [`paths`], but the list may be empty.
pub(crate) fn prefixes(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = paths(generator);
    schema.remove("minItems");
    schema
}

/// The schema of [`RouteAuth`]. The field itself holds any JSON, so that an operator passes on what it does not know.
pub(crate) fn auth(generator: &mut SchemaGenerator) -> Schema {
    RouteAuth::json_schema(generator)
}

/// Scopes of OAuth (RFC 6749, section 3.3).
pub(crate) fn scopes(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 20,
        "items": { "type": "string", "pattern": r"^[!#-\[\]-~]+$", "maxLength": 200 },
    })
}

pub(crate) fn methods(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 20,
        "items": { "type": "string", "pattern": "^[A-Z-]+$", "maxLength": 32 },
    })
}

pub(crate) fn environment(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = <Vec<EnvVar>>::json_schema(generator);
    schema.insert("maxItems".to_owned(), json!(100));
    let properties = schema.pointer_mut("/items/properties").and_then(Value::as_object_mut);
    if let Some(name) = properties.and_then(|properties| properties.get_mut("name")).and_then(Value::as_object_mut) {
        name.insert("maxLength".to_owned(), json!(200));
        name.insert("pattern".to_owned(), json!("^[A-Za-z_.-][A-Za-z0-9_.-]*$"));
    }
    schema
}

/// Requests and limits. There are no `claims`: services do not use devices.
pub(crate) fn resources(_: &mut SchemaGenerator) -> Schema {
    let amounts = |description: &str| {
        json!({
            "description": description,
            "type": "object",
            "maxProperties": 10,
            "additionalProperties": { "x-kubernetes-int-or-string": true, "pattern": QUANTITY },
        })
    };
    json_schema!({
        "type": "object",
        "properties": {
            "requests": amounts("What is reserved for a container, such as cpu and memory."),
            "limits": amounts("What a container may use at most, such as cpu and memory."),
        },
    })
}

pub(crate) fn calls(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 50,
        "items": { "type": "string", "pattern": NAME, "maxLength": 40 },
    })
}

/// A list whose items are strings or maps of strings. A structural schema cannot express that with types. Each keyword
/// below applies to one type and ignores the others: a string must be a name, a map must hold labels, and the bounds
/// for numbers and lists cannot be met.
pub(crate) fn peers(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 50,
        "items": {
            "x-kubernetes-preserve-unknown-fields": true,
            "pattern": NAME,
            "maxLength": 40,
            "minProperties": 1,
            "maxProperties": 10,
            "additionalProperties": {
                "type": "string",
                "pattern": "^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$",
                "maxLength": 63,
            },
            "minimum": 1,
            "maximum": 0,
            "minItems": 1,
            "maxItems": 0,
            "not": { "enum": [false, true] },
        },
    })
}
