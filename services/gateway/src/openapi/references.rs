//! Finds the references in an OpenAPI document.

use std::{borrow::Cow, collections::HashSet};

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};
use serde_json::{Map, Value};

/// A reference, which the visitor may change.
pub(super) enum Reference<'a> {
    /// A JSON pointer, mostly to a component.
    Pointer(&'a mut String),
    /// The name of a security scheme.
    Scheme(&'a mut String),
    /// An operation id: of a link or of the operation itself.
    Operation(&'a mut String),
}

/// The section and the name of a component.
pub(super) type Key = (String, String);

/// Members that are maps. Their keys are chosen by the author, so a key such as `example` is not the keyword.
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

/// Members that hold user data. Nothing in them is a reference.
const DATA: [&str; 5] = ["const", "default", "enum", "example", "value"];

/// Characters that a URI fragment must not contain (RFC 3986, section 3.5), as far as they are ASCII.
const NOT_IN_FRAGMENT: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'%')
    .add(b'<')
    .add(b'>')
    .add(b'[')
    .add(b'\\')
    .add(b']')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// Calls the visitor once for every reference within a value.
pub(super) fn visit(value: &mut Value, visitor: &mut dyn FnMut(Reference<'_>)) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| visit(item, visitor)),
        Value::Object(members) => visit_members(members, visitor),
        _ => {}
    }
}

fn visit_members(members: &mut Map<String, Value>, visitor: &mut dyn FnMut(Reference<'_>)) {
    complete_discriminator(members);
    for (name, member) in members {
        match (name.as_str(), member) {
            ("$ref", Value::String(pointer)) => visitor(Reference::Pointer(pointer)),
            ("operationId", Value::String(operation)) => visitor(Reference::Operation(operation)),
            ("mapping", Value::Object(variants)) => {
                let pointers = variants.values_mut().filter_map(|variant| match variant {
                    Value::String(pointer) => Some(pointer),
                    _ => None,
                });
                pointers.for_each(|pointer| visitor(Reference::Pointer(pointer)));
            }
            ("security", Value::Array(requirements)) => {
                for requirement in requirements.iter_mut().filter_map(Value::as_object_mut) {
                    let visited = std::mem::take(requirement).into_iter().map(|(mut scheme, scopes)| {
                        visitor(Reference::Scheme(&mut scheme));
                        (scheme, scopes)
                    });
                    *requirement = visited.collect();
                }
            }
            (name, Value::Object(entries)) if MAPS.contains(&name) => {
                entries.values_mut().for_each(|entry| visit(entry, visitor));
            }
            // In a schema, `examples` is a list of user data. Elsewhere it is a map, as above.
            ("examples", Value::Array(_)) => {}
            (name, _) if DATA.contains(&name) || name.starts_with("x-") => {}
            (_, member) => visit(member, visitor),
        }
    }
}

/// Completes the mapping of a discriminator.
///
/// By default a discriminator value is the name of a schema, and a mapping may refer to a schema by its bare name.
/// Neither would survive renaming the schema, so both become explicit pointers.
fn complete_discriminator(members: &mut Map<String, Value>) {
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
    let mapped: HashSet<String> = mapping.values().filter_map(|schema| schema.as_str().map(str::to_owned)).collect();
    for variant in variants {
        if let Some(((_, name), _)) = component(&variant)
            && !mapped.contains(&variant)
        {
            mapping.entry(name).or_insert(variant.into());
        }
    }
}

/// Parses a pointer to a component or into it. Returns the component, and the rest of the pointer.
pub(super) fn component(pointer: &str) -> Option<(Key, &str)> {
    let (section, rest) = pointer.strip_prefix("#/components/")?.split_once('/')?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (name, rest) = rest.split_at(end);
    let name = decode(name)?.replace("~1", "/").replace("~0", "~");
    Some(((section.to_owned(), name), rest))
}

/// Decodes the percent-encoding of a pointer, which is a URI fragment (RFC 6901, section 6).
pub(super) fn decode(pointer: &str) -> Option<Cow<'_, str>> {
    percent_decode_str(pointer).decode_utf8().ok()
}

/// Formats a pointer to a component.
pub(super) fn pointer((section, name): &Key) -> String {
    let name = name.replace('~', "~0").replace('/', "~1");
    format!("#/components/{section}/{}", utf8_percent_encode(&name, NOT_IN_FRAGMENT))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn references(mut value: Value) -> Vec<String> {
        let mut references = Vec::new();
        visit(&mut value, &mut |reference| {
            references.push(match reference {
                Reference::Pointer(pointer) => pointer.clone(),
                Reference::Scheme(scheme) => format!("scheme {scheme}"),
                Reference::Operation(operation) => format!("operation {operation}"),
            });
        });
        references.sort();
        references
    }

    #[test]
    fn references_are_found_in_all_places() {
        let value = json!({
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
        assert_eq!(references(value), expected);
    }

    #[test]
    fn user_data_and_map_keys_are_not_references() {
        let value = json!({
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
        assert_eq!(references(value), ["#/8", "#/9", "#/A"]);
    }

    #[test]
    fn implicit_discriminator_mappings_become_explicit() {
        let schema = |name: &str| format!("#/components/schemas/{name}");
        let mut value = json!({
            "oneOf": [{"$ref": schema("Cat")}, {"$ref": schema("Dog")}, {"type": "null"}],
            "discriminator": {"propertyName": "kind", "mapping": {"hound": schema("Dog"), "fish": "Fish"}},
        });
        visit(&mut value, &mut |_| {});
        let expected = json!({"hound": schema("Dog"), "fish": schema("Fish"), "Cat": schema("Cat")});
        assert_eq!(value["discriminator"]["mapping"], expected);
    }

    #[test]
    fn pointers_to_and_into_components_are_parsed() {
        let key = |section: &str, name: &str| (section.to_owned(), name.to_owned());
        assert_eq!(component("#/components/schemas/User"), Some((key("schemas", "User"), "")));
        let within = component("#/components/schemas/User/properties/id");
        assert_eq!(within, Some((key("schemas", "User"), "/properties/id")));
        assert_eq!(component("#/components/schemas/a~1b%20~0"), Some((key("schemas", "a/b ~"), "")));
        assert_eq!(component("#/components/schemas"), None);
        assert_eq!(component("#/paths/~1users"), None);
    }

    proptest! {
        #[test]
        fn a_pointer_to_a_component_is_parsed_back(name in "\\PC{1,12}|[a/~01%#? ]{1,12}", rest in "(/[a-z0-9~%]{0,4}){0,3}") {
            let key = ("schemas".to_owned(), name);
            let text = pointer(&key);
            prop_assert!(text.is_ascii() && text.matches('#').count() == 1, "{}", text);
            let text = text + &rest;
            prop_assert_eq!(component(&text), Some((key, rest.as_str())));
        }

        #[test]
        fn any_text_is_a_pointer_or_none(text in "(#/components/)?[a-z/~%#0-9]{0,20}|.{0,20}") {
            if let Some(((section, _), rest)) = component(&text) {
                let start = format!("#/components/{section}/");
                prop_assert!(text.starts_with(&start) && text.ends_with(rest));
                prop_assert!(rest.is_empty() || rest.starts_with('/'));
            }
        }
    }
}
