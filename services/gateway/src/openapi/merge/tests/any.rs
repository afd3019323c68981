//! Merging arbitrary documents, as nothing guarantees that a service sends a valid one.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{merge, service, text};
use crate::openapi::references::{Reference, decode, visit};

/// Arbitrary JSON made of keywords of OpenAPI. Most of it is not valid OpenAPI.
fn json_like_openapi() -> impl Strategy<Value = Value> {
    let text = proptest::sample::select(vec![
        "#/components/schemas/A",
        "#/components/schemas/A~1b",
        "#/components/schemas/%41/properties/a%20b",
        "#/components/schemas",
        "#/paths/~1s0",
        "https://example.org/a.json#/x",
        "other.json",
        "A",
        "list",
        "",
    ]);
    let key = proptest::sample::select(vec![
        "$ref",
        "A",
        "a b",
        "anyOf",
        "content",
        "discriminator",
        "enum",
        "example",
        "examples",
        "exclusiveMinimum",
        "get",
        "links",
        "mapping",
        "minimum",
        "nullable",
        "oneOf",
        "operationId",
        "post",
        "properties",
        "propertyName",
        "responses",
        "schema",
        "schemas",
        "security",
        "servers",
        "tags",
        "type",
        "x-a",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 5, move |inner| {
        prop_oneof![
            1 => proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            3 => proptest::collection::btree_map(key.clone(), inner, 0..5).prop_map(|members| {
                members.into_iter().map(|(key, value)| (key.to_owned(), value)).collect::<Map<_, _>>().into()
            }),
        ]
    })
}

/// A document with arbitrary content at the places that are read.
fn any_document(path: &'static str) -> impl Strategy<Value = Value> {
    let version = proptest::sample::select(vec!["3.0.3", "3.1.0", "2.0"]);
    let schemas = proptest::collection::btree_map("A|A/b|B", json_like_openapi(), 0..3);
    (version, json_like_openapi(), json_like_openapi(), schemas, json_like_openapi()).prop_map(
        move |(version, item, other, schemas, components)| {
            let schemas: Map<_, _> = schemas.into_iter().collect();
            json!({
                "openapi": version,
                "paths": {path: {"get": item.clone(), "put": item}, format!("{path}/x"): other.clone()},
                "components": {"schemas": schemas, "securitySchemes": components, "responses": other.clone()},
                "security": other.clone(),
                "servers": other.clone(),
                "tags": other,
            })
        },
    )
}

proptest! {
    #[test]
    fn any_documents_merge_into_one_whose_references_resolve(a in any_document("/s0"), b in any_document("/s1")) {
        let services = [service("s0", &["/s0"]), service("s1", &["/s1"])];
        let mut document = merge(&services, [Ok(text(a)), Ok(text(b))]);
        let whole = document.clone();
        let paths = document["paths"].take();
        let components = document["components"].as_object_mut().expect("sections").values_mut().map(Value::take);
        let sections: Vec<Value> = components.chain([paths]).collect();
        for mut section in sections {
            // Keys of sections are names, not keywords.
            for value in section.as_object_mut().expect("a map").values_mut() {
                visit(value, &mut |reference| match reference {
                    Reference::Pointer(pointer) => {
                        let target = pointer.strip_prefix('#').and_then(decode);
                        let resolves = target.is_some_and(|pointer| whole.pointer(&pointer).is_some());
                        assert!(resolves, "{pointer}");
                    }
                    Reference::Scheme(scheme) => {
                        assert!(whole["components"]["securitySchemes"].get(&*scheme).is_some(), "{scheme}");
                    }
                    Reference::Operation(_) => {}
                });
            }
        }
    }
}
