//! JSON bodies, parsed field by field so that a response lists every error with its pointer.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::{ops::RangeInclusive, time::Duration};

use runtime::{FieldError, MAX_ERRORS, Problem};

use super::{awaited, json, message::reword, observe::overloaded};

/// The maximum length of a request body, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Extracts a JSON body. Anything else is refused, with a pointer to each error.
pub struct Json<T>(pub T);

/// A type that is parsed from the fields of a JSON object.
pub trait FromFields: Sized {
    /// The accepted media types.
    const MEDIA_TYPES: &'static [&'static str] = &["application/json"];

    /// Parses the fields. If any of them has an error, adds it to `fields` and returns `None`.
    fn from_fields(fields: &mut Fields) -> Option<Self>;
}

/// The fields of a JSON object, and the errors found so far.
pub struct Fields {
    /// The JSON pointer to the object.
    pointer: String,
    object: Map<String, Value>,
    /// The errors of the whole body.
    errors: Vec<FieldError>,
}

impl Fields {
    /// Parses a required field.
    pub fn required<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let Some(value) = self.object.remove(name) else {
            self.refuse(name, "is required");
            return None;
        };
        self.parse(name, value)
    }

    /// Adds an error in a field; the request is refused with all of them.
    pub fn refuse(&mut self, name: &str, detail: impl Into<String>) {
        let pointer = format!("{}/{}", self.pointer, json::escape(name));
        self.errors.push(FieldError::at(&pointer, detail));
    }

    /// Parses a required array of objects. Its length is checked first: the elements of a longer array are not looked
    /// at. Parsing stops once there are more errors than a response lists.
    pub fn list<T: FromFields>(&mut self, name: &str, length: RangeInclusive<usize>) -> Option<Vec<T>> {
        let Value::Array(values) = self.required(name)? else {
            self.refuse(name, "must be an array");
            return None;
        };
        let count = values.len();
        if !length.contains(&count) {
            self.refuse(name, format!("must contain {} to {} items", length.start(), length.end()));
            return None;
        }
        let mut read = Vec::with_capacity(count);
        for (index, value) in values.into_iter().enumerate() {
            read.extend(Self::read_at(format!("{}/{name}/{index}", self.pointer), value, &mut self.errors));
            if self.errors.len() > MAX_ERRORS {
                break;
            }
        }
        (read.len() == count).then_some(read)
    }

    /// Parses an optional field: `Some(None)` if it is missing. Null is an error.
    pub fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Option<Option<T>> {
        match self.object.remove(name) {
            None => Some(None),
            Some(value) => self.parse(name, value).map(Some),
        }
    }

    fn parse<T: DeserializeOwned>(&mut self, name: &str, value: Value) -> Option<T> {
        let error = match serde_path_to_error::deserialize(value) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let pointer = format!("{}/{name}{}", self.pointer, json::pointer(error.path()));
        self.errors.push(FieldError::at(&pointer, reword(&error.into_inner().to_string())));
        None
    }

    /// Parses a whole body. Fields that `T` does not parse are errors.
    fn read<T: FromFields>(value: Value) -> Result<T, Problem> {
        let mut errors = Vec::new();
        Self::read_at(String::new(), value, &mut errors).ok_or_else(|| Problem::invalid(errors))
    }

    /// Parses the value at a pointer. Adds its errors to those found so far.
    fn read_at<T: FromFields>(pointer: String, value: Value, errors: &mut Vec<FieldError>) -> Option<T> {
        let Value::Object(object) = value else {
            errors.push(FieldError::at(&pointer, "must be a JSON object"));
            return None;
        };
        let before = errors.len();
        let mut fields = Self { pointer, object, errors: std::mem::take(errors) };
        let parsed = T::from_fields(&mut fields);
        for name in std::mem::take(&mut fields.object).keys().take(MAX_ERRORS + 1) {
            fields.refuse(name, "unknown field");
        }
        *errors = fields.errors;
        parsed.filter(|_| errors.len() == before)
    }
}

impl<S: Send + Sync, T: FromFields> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let media_type = media_type(&parts.headers);
        if let Some(given) = &media_type
            && !T::MEDIA_TYPES.contains(&given.as_str())
        {
            return Err(unsupported_media_type::<T>());
        }
        let body = read_body(&parts.headers, body).await?;
        if body.is_empty() {
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is missing; send a JSON object"));
        }
        if media_type.is_none() {
            return Err(unsupported_media_type::<T>());
        }
        Fields::read(json::parse(&body)?).map(Self)
    }
}

/// The media type of the body, in lower case and without its parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = String::from_utf8_lossy(headers.get(header::CONTENT_TYPE)?.as_bytes()).into_owned();
    Some(value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

fn unsupported_media_type<T: FromFields>() -> Problem {
    let expected = T::MEDIA_TYPES.join(" or ");
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, format!("the content type must be {expected}"))
}

async fn read_body(headers: &HeaderMap, body: axum::body::Body) -> Result<Bytes, Problem> {
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is larger than 64 KiB");
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) if awaited::is_refused(error.as_ref()) => Err(overloaded()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body is incomplete")),
        Err(_) => Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(Debug)]
    struct Point {
        x: u8,
        names: Option<Vec<String>>,
    }

    impl FromFields for Point {
        fn from_fields(fields: &mut Fields) -> Option<Self> {
            let x = fields.required("x");
            let names = fields.optional("names");
            Some(Self { x: x?, names: names? })
        }
    }

    struct Shape {
        points: Vec<Point>,
    }

    impl FromFields for Shape {
        fn from_fields(fields: &mut Fields) -> Option<Self> {
            Some(Self { points: fields.list("points", 0..=100)? })
        }
    }

    #[test]
    fn every_error_in_a_list_has_a_pointer() {
        let read = |value| match Fields::read::<Shape>(value) {
            Ok(shape) => Ok(shape.points.iter().map(|point| point.x).collect::<Vec<_>>()),
            Err(problem) => Err(problem.errors().iter().filter_map(|error| error.pointer.clone()).collect::<Vec<_>>()),
        };
        assert_eq!(read(json!({"points": [{"x": 1}, {"x": 2}]})), Ok(vec![1, 2]));
        let faulty = json!({"points": [{"x": 1}, 2, {"x": 300, "names": [1], "y/": 0}, {}], "z": 0});
        let pointers = ["#/points/1", "#/points/2/x", "#/points/2/names/0", "#/points/2/y~1", "#/points/3/x", "#/z"];
        assert_eq!(read(faulty), Err(pointers.map(str::to_owned).into()));
        assert_eq!(read(json!({"points": {}})), Err(vec!["#/points".to_owned()]));
        assert_eq!(read(json!({})), Err(vec!["#/points".to_owned()]));
    }

    #[test]
    fn parsing_stops_after_20_errors_and_looks_at_lengths_first() {
        let read = |value| Fields::read::<Shape>(value).err().expect("must be refused");
        let problem = read(json!({"points": vec![json!({}); 100]}));
        assert_eq!(problem.errors().len(), 20);
        assert!(problem.detail().contains("there are more"), "{}", problem.detail());
        let unknown: Map<_, _> = (0..1000).map(|number| (number.to_string(), json!(0))).collect();
        assert_eq!(read(json!({"points": [unknown]})).errors().len(), 20);
        let problem = read(json!({"points": vec![json!({}); 101]}));
        assert_eq!(problem.detail(), "#/points: must contain 0 to 100 items");
    }

    fn faults(value: Value) -> Vec<String> {
        let problem = Fields::read::<Point>(value).expect_err("must be refused");
        problem.errors().iter().filter_map(|error| error.pointer.clone()).collect()
    }

    #[test]
    fn valid_fields_are_parsed() {
        let point = Fields::read::<Point>(json!({"x": 7, "names": ["a"]})).expect("valid");
        assert_eq!((point.x, point.names), (7, Some(vec!["a".to_owned()])));
        assert_eq!(Fields::read::<Point>(json!({"x": 7})).expect("valid").names, None);
    }

    #[test]
    fn every_error_has_a_pointer() {
        assert_eq!(faults(json!({})), ["#/x"]);
        assert_eq!(faults(json!({"x": 300, "names": ["a", 1]})), ["#/x", "#/names/1"]);
        assert_eq!(faults(json!({"x": 1, "y/~ é": 2})), ["#/y~1~0%20%C3%A9"]);
        assert_eq!(faults(json!({"x": 1, "names": null})), ["#/names"]);
        assert_eq!(faults(json!([1])), ["#"]);
    }
}
