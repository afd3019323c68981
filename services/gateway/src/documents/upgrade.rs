//! Makes a document of OpenAPI 3.0, as many generators still write it, one of 3.1.
//!
//! Schemas are JSON Schema since 3.1: what 3.0 says with `nullable` and with limits that are flags is said otherwise, and
//! would mean nothing, or not be valid.

use serde_json::{Map, Value, json};

/// Rewrites all schemas in a part.
pub(super) fn upgrade(part: &mut Value) {
    match part {
        Value::Array(parts) => parts.iter_mut().for_each(upgrade),
        Value::Object(members) => {
            members.values_mut().for_each(upgrade);
            for (flag, limit) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
                exclude(members, flag, limit);
            }
            if let Some(Value::Bool(is_nullable)) = members.get("nullable") {
                let is_nullable = *is_nullable;
                members.remove("nullable");
                if is_nullable {
                    admit_null(members);
                }
            }
        }
        _ => {}
    }
}

fn exclude(schema: &mut Map<String, Value>, flag: &str, limit: &str) {
    if let Some(Value::Bool(is_excluded)) = schema.get(flag) {
        let is_excluded = *is_excluded;
        schema.remove(flag);
        if is_excluded && let Some(value) = schema.remove(limit) {
            schema.insert(flag.to_owned(), value);
        }
    }
}

fn admit_null(schema: &mut Map<String, Value>) {
    if let Some(Value::Array(values)) = schema.get_mut("enum")
        && !values.contains(&Value::Null)
    {
        values.push(Value::Null);
    }
    match schema.get_mut("type") {
        Some(kind @ Value::String(_)) => *kind = json!([kind.take(), "null"]),
        Some(_) => {}
        // Of a reference or of several schemas: it or null.
        None => {
            let schema_alone = Value::Object(std::mem::take(schema));
            schema.insert("anyOf".to_owned(), json!([schema_alone, {"type": "null"}]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_otherwise_is_rewritten() {
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
            // A property of that name is none of it.
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
