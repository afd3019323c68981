//! JSON text, read strictly.

use std::fmt;

use http::StatusCode;
use runtime::{FieldError, Problem};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Value, error::Category};
use serde_path_to_error::Segment;

/// Reads a JSON text: 400 where it is none, 422 with its place where a name comes twice in an object, or a number is
/// larger than any `f64`.
pub(crate) fn parse(text: &[u8]) -> Result<Value, Problem> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let strict = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let place = pointer(error.path());
        refusal(&place, &error.into_inner())
    });
    let Strict(value) = strict?;
    deserializer.end().map_err(|error| refusal("", &error))?;
    Ok(value)
}

/// `serde_json` takes a number that is too large for a syntax error, and its text is all that tells it from others.
const TOO_LARGE: &str = "number out of range";

fn refusal(place: &str, error: &serde_json::Error) -> Problem {
    let text = error.to_string();
    // It ends with a line and a column.
    let detail = text.split(" at line ").next().unwrap_or_default().to_owned();
    if error.classify() == Category::Data || detail == TOO_LARGE {
        Problem::invalid(vec![FieldError::at(place, detail)])
    } else {
        Problem::new(StatusCode::BAD_REQUEST, format!("the body cannot be read as JSON: {text}"))
    }
}

/// A path as a JSON pointer in URI fragment form, without the `#`.
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

/// A value in which no object has a name twice. RFC 8259 (section 4) leaves open which of the two counts: what reads
/// the request elsewhere, a proxy say, could take the other one.
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
            // Refused as a value is, so that the error has the name in its path.
            let Strict(value) = members.next_value_seed(Once { first: !object.contains_key(&name) })?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

/// A member's value, of a name that is there for the first time.
struct Once {
    first: bool,
}

impl<'de> DeserializeSeed<'de> for Once {
    type Value = Strict;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Strict, D::Error> {
        if self.first { Strict::deserialize(deserializer) } else { Err(de::Error::custom("this field comes twice")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// The status, and the place of a 422.
    fn refused(text: &str) -> (u16, Option<String>) {
        let problem = parse(text.as_bytes()).expect_err(text);
        (problem.status().as_u16(), problem.errors().first().and_then(|error| error.pointer.clone()))
    }

    #[test]
    fn a_value_is_read_as_it_stands() {
        let text = r#"{"a": [null, true, -1, 18446744073709551615, 42.0, 1e-400, "é\n"], "b": {"a": {}}}"#;
        let value = json!({"a": [null, true, -1, u64::MAX, 42.0, 0.0, "é\n"], "b": {"a": {}}});
        assert_eq!(parse(text.as_bytes()).expect("JSON"), value);
    }

    #[test]
    fn a_name_that_comes_twice_is_422_at_its_place() {
        assert_eq!(refused(r#"{"a": 1, "b": 2, "a": 1}"#), (422, Some("#/a".to_owned())));
        assert_eq!(refused(r#"{"a": [{}, {"~": 1, "\u007e": 2}]}"#), (422, Some("#/a/1/~0".to_owned())));
    }

    #[test]
    fn a_number_that_is_too_large_is_422_at_its_place() {
        assert_eq!(refused(r#"{"a": 1e400}"#), (422, Some("#/a".to_owned())));
        assert_eq!(refused(r#"{"a": [0, -1e99999999999]}"#), (422, Some("#/a/1".to_owned())));
        assert_eq!(refused("1e400"), (422, Some("#".to_owned())));
    }

    #[test]
    fn what_is_no_json_is_400() {
        for text in ["", "{", "{} {}", r#"{"a": 01}"#, r#"{"a": "\ud800"}"#, &"[".repeat(10_000)] {
            assert_eq!(refused(text), (400, None), "{text}");
        }
    }
}
