//! Strict parsing of JSON.

use std::fmt;

use http::StatusCode;
use runtime::{FieldError, Problem};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, error::Category};
use serde_path_to_error::Segment;

use super::message::reword;

/// Parses a JSON text. Malformed JSON is a 400. A repeated name in an object and a number out of the range of `f64` are
/// a 422 with a pointer.
pub(crate) fn parse(text: &[u8]) -> Result<Value, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let strict = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let pointer = pointer(error.path());
        refusal(&pointer, &error.into_inner())
    });
    let Strict(value) = strict?;
    deserializer.end().map_err(|error| refusal("", &error))?;
    Ok(value)
}

/// `serde_json` reports a number out of range as a syntax error. Only the message distinguishes it from other
/// syntax errors.
const TOO_LARGE: &str = "number out of range";

fn refusal(pointer: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    // The text ends with a line and a column.
    let detail = text.split(" at line ").next().unwrap_or_default().to_owned();
    if error.classify() == Category::Data || detail == TOO_LARGE {
        Problem::invalid(vec![FieldError::at(pointer, reword(&detail))])
    } else {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body is not valid JSON: {text}"))
    }
}

/// Formats a path as a JSON pointer in URI fragment form, without the `#`.
pub(crate) fn pointer(path: &serde_path_to_error::Path) -> String {
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => pointer.extend(["/", &index.to_string()]),
            Segment::Map { key } => pointer.extend(["/", &escape(key)]),
            Segment::Enum { .. } | Segment::Unknown => {}
        }
    }
    pointer
}

/// Escapes a member name for a JSON pointer in a URI fragment (RFC 6901, sections 3 and 6).
pub(crate) fn escape(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'~' => escaped.push_str("~0"),
            b'/' => escaped.push_str("~1"),
            b'-' | b'.' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => escaped.push(char::from(byte)),
            _ => escaped.extend(["%", &format!("{byte:02X}")]),
        }
    }
    escaped
}

/// A value without repeated names in an object. RFC 8259 (section 4) leaves open which of the values counts, so another
/// reader of the request, such as a proxy, could use the other one.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut array = Vec::new();
        while let Some(Strict(element)) = elements.next_element()? {
            array.push(element);
        }
        Ok(array.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            // Rejected while deserializing the value, so that the error's path contains the name.
            let Strict(value) = members.next_value_seed(Once { first: !object.contains_key(&name) })?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

/// Deserializes the value of a member whose name has not occurred before.
struct Once {
    first: bool,
}

impl<'de> DeserializeSeed<'de> for Once {
    type Value = Strict;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Strict, D::Error> {
        if self.first { Strict::deserialize(deserializer) } else { Err(de::Error::custom("must be given only once")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    /// Any JSON value of limited depth. Names are short, so that they are often equal.
    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            ".{0,4}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::hash_map("[a-c~/]{0,2}", inner, 0..4)
                    .prop_map(|members| Value::from(Map::from_iter(members))),
            ]
        })
    }

    proptest! {
        #[test]
        fn a_value_without_repeated_names_is_read_exactly(value in value()) {
            prop_assert_eq!(parse(value.to_string().as_bytes()).expect("valid JSON"), value);
        }

        #[test]
        fn a_repeated_name_is_422_whatever_the_values(
            members in prop::collection::vec(("[a-c]", value()), 1..6),
            depth in 0..4_usize,
        ) {
            let names: Vec<_> = members.iter().map(|(name, _)| name).collect();
            let repeated = (1..names.len()).find(|index| names[..*index].contains(&names[*index]));
            let members: Vec<_> = members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
            let object = format!("{{{}}}", members.join(","));
            let text = format!("{}{object}{}", r#"{"x":["#.repeat(depth), "]}".repeat(depth));
            match repeated {
                Some(index) => {
                    let pointer = format!("#{}/{}", "/x/0".repeat(depth), names[index]);
                    prop_assert_eq!(refused(&text), (422, Some(pointer)));
                }
                None => prop_assert!(parse(text.as_bytes()).is_ok()),
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Err(problem) = parse(&bytes) {
                prop_assert!(matches!(problem.status().as_u16(), 400 | 422));
            }
        }
    }

    /// The status, and the pointer of a 422.
    fn refused(text: &str) -> (u16, Option<String>) {
        let problem = parse(text.as_bytes()).expect_err(text);
        (problem.status().as_u16(), problem.errors().first().and_then(|error| error.pointer.clone()))
    }

    #[test]
    fn a_valid_value_is_parsed() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, 42.0, 1e-400, "é\n"], "b": {"a": {}}}"#;
        let value = json!({"a": [null, true, -1, u64::MAX, 42.0, 0.0, "é\n"], "b": {"a": {}}});
        assert_eq!(parse(text.as_bytes()).expect("JSON"), value);
    }

    #[test]
    fn a_repeated_name_is_422_with_a_pointer() {
        assert_eq!(refused(r#"{"a": 1, "b": 2, "a": 1}"#), (422, Some("#/a".to_owned())));
        assert_eq!(refused(r#"{"a": [{}, {"~": 1, "\u007e": 2}]}"#), (422, Some("#/a/1/~0".to_owned())));
    }

    #[test]
    fn a_number_out_of_range_is_422_with_a_pointer() {
        assert_eq!(refused(r#"{"a": 1e400}"#), (422, Some("#/a".to_owned())));
        assert_eq!(refused(r#"{"a": [0, -1e99999999999]}"#), (422, Some("#/a/1".to_owned())));
        assert_eq!(refused("1e400"), (422, Some("#".to_owned())));
    }

    #[test]
    fn malformed_json_is_400() {
        for text in ["", "{", "{} {}", r#"{"a": 01}"#, r#"{"a": "\ud800"}"#, &"[".repeat(10_000)] {
            assert_eq!(refused(text), (400, None), "{text}");
        }
    }
}
