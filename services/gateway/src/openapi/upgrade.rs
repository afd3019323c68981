//! Upgrades documents of OpenAPI 3.0, which many generators still write, to 3.1.
//!
//! Since 3.1, schemas are JSON Schema. `nullable` and boolean exclusive limits of 3.0 would have no meaning there, or
//! be invalid.

use serde_json::{Map, Value, json};

/// Rewrites all schemas within a value.
pub(super) fn upgrade(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(upgrade),
        Value::Object(members) => {
            members.values_mut().for_each(upgrade);
            for (flag, limit) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
                upgrade_exclusive_limit(members, flag, limit);
            }
            if let Some(Value::Bool(is_nullable)) = members.get("nullable") {
                let is_nullable = *is_nullable;
                members.remove("nullable");
                if is_nullable {
                    allow_null(members);
                }
            }
        }
        _ => {}
    }
}

/// Turns `minimum: 1, exclusiveMinimum: true` into `exclusiveMinimum: 1`.
fn upgrade_exclusive_limit(schema: &mut Map<String, Value>, flag: &str, limit: &str) {
    if let Some(Value::Bool(is_exclusive)) = schema.get(flag) {
        let is_exclusive = *is_exclusive;
        schema.remove(flag);
        if is_exclusive && let Some(value) = schema.remove(limit) {
            schema.insert(flag.to_owned(), value);
        }
    }
}

/// Extends a schema to allow `null` too.
fn allow_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    match schema.get_mut("type") {
        Some(kind @ Value::String(_)) => *kind = json!([kind.take(), "null"]),
        Some(_) => {}
        // A reference or a combination of schemas.
        None => {
            let original = Value::Object(std::mem::take(schema));
            schema.insert("anyOf".to_owned(), json!([original, {"type": "null"}]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nullable_and_exclusive_limits_are_rewritten() {
        let cases = [
            (json!({"type": "string", "nullable": true}), json!({"type": ["string", "null"]})),
            (json!({"type": "string", "nullable": false}), json!({"type": "string"})),
            (
                json!({"type": "string", "enum": ["a"], "nullable": true}),
                json!({"type": ["string", "null"], "enum": ["a", null]}),
            ),
            (
                json!({"allOf": [{"$ref": "#/x"}], "nullable": true}),
                json!({"anyOf": [{"allOf": [{"$ref": "#/x"}]}, {"type": "null"}]}),
            ),
            (json!({"minimum": 1, "exclusiveMinimum": true}), json!({"exclusiveMinimum": 1})),
            (json!({"maximum": 1, "exclusiveMaximum": false}), json!({"maximum": 1})),
            (json!({"exclusiveMinimum": 1}), json!({"exclusiveMinimum": 1})),
            (
                json!({"properties": {"a": {"items": {"type": "integer", "nullable": true}}}}),
                json!({"properties": {"a": {"items": {"type": ["integer", "null"]}}}}),
            ),
            // A property named `nullable` is not the keyword.
            (
                json!({"properties": {"nullable": {"type": "string"}}}),
                json!({"properties": {"nullable": {"type": "string"}}}),
            ),
        ];
        for (mut given, expected) in cases {
            let text = given.to_string();
            upgrade(&mut given);
            assert_eq!(given, expected, "{text}");
        }
    }
}
