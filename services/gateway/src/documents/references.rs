//! Finds, in a part of an OpenAPI document, the names by which it refers to other parts.

use std::collections::HashSet;

use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

/// A name of another part.
pub(super) enum Reference<'a> {
    /// A pointer to it, mostly into the components.
    Pointer(&'a mut String),
    /// A security scheme.
    Scheme(&'a mut String),
    /// An operation; its own name as well.
    Operation(&'a mut String),
}

/// Which of the components, as the section and the name in it.
pub(super) type Key = (String, String);

/// Members whose own members are named by the author, so that none of those means what it means elsewhere.
const MAPS: [&str; 20] = [
    "$defs",
    "callbacks",
    "content",
    "definitions",
    "dependentSchemas",
    "encoding",
    "examples",
    "headers",
    "links",
    "parameters",
    "pathItems",
    "paths",
    "patternProperties",
    "properties",
    "requestBodies",
    "responses",
    "schemas",
    "securitySchemes",
    "variables",
    "webhooks",
];

/// Members that hold a user's data, in which nothing is a reference.
const DATA: [&str; 5] = ["const", "default", "enum", "example", "value"];

/// Shows every reference in a part, once each.
pub(super) fn visit(part: &mut Value, see: &mut dyn FnMut(Reference<'_>)) {
    match part {
        Value::Array(parts) => parts.iter_mut().for_each(|part| visit(part, see)),
        Value::Object(members) => visit_members(members, see),
        _ => {}
    }
}

fn visit_members(members: &mut Map<String, Value>, see: &mut dyn FnMut(Reference<'_>)) {
    name_variants(members);
    for (name, member) in members {
        match (name.as_str(), member) {
            ("$ref", Value::String(pointer)) => see(Reference::Pointer(pointer)),
            ("operationId", Value::String(operation)) => see(Reference::Operation(operation)),
            ("mapping", Value::Object(variants)) => {
                let pointers = variants.values_mut().filter_map(|variant| match variant {
                    Value::String(pointer) => Some(pointer),
                    _ => None,
                });
                pointers.for_each(|pointer| see(Reference::Pointer(pointer)));
            }
            ("security", Value::Array(requirements)) => {
                for requirement in requirements.iter_mut().filter_map(Value::as_object_mut) {
                    let named = std::mem::take(requirement).into_iter().map(|(mut scheme, scopes)| {
                        see(Reference::Scheme(&mut scheme));
                        (scheme, scopes)
                    });
                    *requirement = named.collect();
                }
            }
            (name, Value::Object(parts)) if MAPS.contains(&name) => {
                parts.values_mut().for_each(|part| visit(part, see));
            }
            // Of a schema these are data; elsewhere they are a map, as above.
            ("examples", Value::Array(_)) => {}
            (name, _) if DATA.contains(&name) || name.starts_with("x-") => {}
            (_, member) => visit(member, see),
        }
    }
}

/// Writes out what a discriminator leaves unsaid, or says by a bare name: that a value means the schema of that name.
/// With another name the schema would be meant no longer.
fn name_variants(members: &mut Map<String, Value>) {
    let variants = ["oneOf", "anyOf"].iter().filter_map(|list| members.get(*list)?.as_array()).flatten();
    let variants = variants.filter_map(|variant| Some(variant.get("$ref")?.as_str()?.to_owned())).collect::<Vec<_>>();
    let Some(Value::Object(discriminator)) = members.get_mut("discriminator") else { return };
    if !discriminator.contains_key("propertyName") {
        return;
    }
    let mapping = discriminator.entry("mapping").or_insert_with(|| Map::new().into());
    let Some(mapping) = mapping.as_object_mut() else { return };
    for schema in mapping.values_mut() {
        if let Value::String(name) = schema
            && !name.contains(['#', '/'])
        {
            *name = pointer(&("schemas".to_owned(), name.clone()));
        }
    }
    let named: HashSet<String> = mapping.values().filter_map(|schema| schema.as_str().map(str::to_owned)).collect();
    for variant in variants {
        if let Some(((_, name), _)) = component(&variant)
            && !named.contains(&variant)
        {
            mapping.entry(name).or_insert(variant.into());
        }
    }
}

/// The component that a pointer is into, and where in it.
pub(super) fn component(pointer: &str) -> Option<(Key, &str)> {
    let (section, rest) = pointer.strip_prefix("#/components/")?.split_once('/')?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let name = percent_decode_str(name).decode_utf8().ok()?.replace("~1", "/").replace("~0", "~");
    Some(((section.to_owned(), name), rest))
}

/// A pointer to a component.
pub(super) fn pointer((section, name): &Key) -> String {
    format!("#/components/{section}/{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn found(mut part: Value) -> Vec<String> {
        let mut found = Vec::new();
        visit(&mut part, &mut |reference| {
            found.push(match reference {
                Reference::Pointer(pointer) => pointer.clone(),
                Reference::Scheme(scheme) => format!("scheme {scheme}"),
                Reference::Operation(operation) => format!("operation {operation}"),
            });
        });
        found.sort();
        found
    }

    #[test]
    fn references_are_found_wherever_they_may_be() {
        let part = json!({
            "operationId": "a",
            "parameters": [{"$ref": "#/1"}],
            "requestBody": {"content": {"application/json": {"schema": {"items": {"$ref": "#/2"}}}}},
            "responses": {
                "default": {"$ref": "#/3"},
                "200": {
                    "content": {"text/plain": {"examples": {"one": {"$ref": "#/4"}}}},
                    "links": {"next": {"operationId": "b"}},
                },
            },
            "callbacks": {"done": {"{$request.body#/url}": {"post": {"operationId": "c"}}}},
            "security": [{"key": [], "login": ["read"]}, {}],
        });
        let expected =
            ["#/1", "#/2", "#/3", "#/4", "operation a", "operation b", "operation c", "scheme key", "scheme login"];
        assert_eq!(found(part), expected);
    }

    #[test]
    fn data_and_names_are_no_references() {
        let part = json!({
            "example": {"$ref": "#/1"},
            "examples": [{"$ref": "#/2"}],
            "default": {"$ref": "#/3"},
            "enum": [{"$ref": "#/4"}],
            "const": {"$ref": "#/5"},
            "x-more": {"$ref": "#/6"},
            "content": {"text/plain": {"examples": {"one": {"value": {"$ref": "#/7"}}}}},
            "properties": {
                "$ref": {"type": "string"},
                "example": {"$ref": "#/8"},
                "security": {"items": {"$ref": "#/9"}},
                "properties": {"properties": {"default": {"$ref": "#/A"}}},
            },
        });
        assert_eq!(found(part), ["#/8", "#/9", "#/A"]);
    }

    #[test]
    fn what_a_discriminator_leaves_unsaid_is_written_out() {
        let schema = |name: &str| format!("#/components/schemas/{name}");
        let mut part = json!({
            "oneOf": [{"$ref": schema("Cat")}, {"$ref": schema("Dog")}, {"type": "null"}],
            "discriminator": {"propertyName": "kind", "mapping": {"hound": schema("Dog"), "fish": "Fish"}},
        });
        visit(&mut part, &mut |_| {});
        let expected = json!({"hound": schema("Dog"), "fish": schema("Fish"), "Cat": schema("Cat")});
        assert_eq!(part["discriminator"]["mapping"], expected);
    }

    #[test]
    fn pointers_into_components_are_read() {
        let key = |section: &str, name: &str| (section.to_owned(), name.to_owned());
        assert_eq!(component("#/components/schemas/User"), Some((key("schemas", "User"), "")));
        let within = component("#/components/schemas/User/properties/id");
        assert_eq!(within, Some((key("schemas", "User"), "/properties/id")));
        assert_eq!(component("#/components/schemas/a~1b%20~0"), Some((key("schemas", "a/b ~"), "")));
        assert_eq!(component("#/components/schemas"), None);
        assert_eq!(component("#/paths/~1users"), None);
    }
}
