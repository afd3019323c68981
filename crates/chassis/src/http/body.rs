//! JSON bodies, read field by field so that an answer names every fault and its place.

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::time::Duration;

use runtime::{FieldError, Problem};

use super::json;

/// The longest request body that is read, in bytes.
const BODY_LIMIT: usize = 64 * 1024;

/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Extracts a JSON body and refuses everything else with a problem that says where it is wrong.
pub struct Json<T>(pub T);

/// A request body: how it is read from the fields of a JSON object.
pub trait FromFields: Sized {
    /// The media types it may come in.
    const MEDIA_TYPES: &'static [&'static str] = &["application/json"];

    /// Reads the fields; `None` when a fault was noted on the way.
    fn from_fields(fields: &mut Fields) -> Option<Self>;
}

/// The fields of a JSON object, and the faults found in them so far.
pub struct Fields {
    /// Where the object is in the body, as a JSON pointer.
    place: String,
    object: Map<String, Value>,
    errors: Vec<FieldError>,
}

impl Fields {
    /// A field that must be there.
    pub fn required<T: DeserializeOwned>(&mut self, name: &str) -> Option<T> {
        let Some(value) = self.object.remove(name) else {
            self.note(name, "this field is required");
            return None;
        };
        self.parse(name, value)
    }

    /// Notes a fault of a field.
    pub fn note(&mut self, name: &str, detail: impl Into<String>) {
        let place = format!("{}/{}", self.place, json::escape(name));
        self.errors.push(FieldError::at(&place, detail));
    }

    /// An array of objects that must be there.
    pub fn list<T: FromFields>(&mut self, name: &str) -> Option<Vec<T>> {
        let Value::Array(values) = self.required(name)? else {
            self.note(name, "must be an array");
            return None;
        };
        let count = values.len();
        let mut read = Vec::with_capacity(count);
        for (index, value) in values.into_iter().enumerate() {
            match Self::read_at(format!("{}/{name}/{index}", self.place), value) {
                Ok(element) => read.push(element),
                Err(faults) => self.errors.extend(faults),
            }
        }
        (read.len() == count).then_some(read)
    }

    /// A field that may be left out: `Some(None)` then. Null is not the same as left out, and is refused.
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
        let pointer = format!("{}/{name}{}", self.place, json::pointer(error.path()));
        self.errors.push(FieldError::at(&pointer, error.into_inner().to_string()));
        None
    }

    /// Reads a whole body; every field that `T` did not take is a fault.
    fn read<T: FromFields>(value: Value) -> Result<T, Problem> {
        Self::read_at(String::new(), value).map_err(Problem::invalid)
    }

    /// Reads what is at a place in the body.
    fn read_at<T: FromFields>(place: String, value: Value) -> Result<T, Vec<FieldError>> {
        let Value::Object(object) = value else {
            return Err(vec![FieldError::at(&place, "must be a JSON object")]);
        };
        let mut fields = Self { place, object, errors: Vec::new() };
        let parsed = T::from_fields(&mut fields);
        for name in std::mem::take(&mut fields.object).keys() {
            fields.note(name, "this field is not known here");
        }
        match parsed {
            Some(parsed) if fields.errors.is_empty() => Ok(parsed),
            _ => Err(fields.errors),
        }
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
            return Err(Problem::new(StatusCode::BAD_REQUEST, "the body is missing: a JSON object is expected"));
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
    let too_large = || Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than 64 KiB");
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > BODY_LIMIT as u64) {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, BODY_LIMIT).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::new(StatusCode::BAD_REQUEST, "the body could not be read to its end")),
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
            Some(Self { points: fields.list("points")? })
        }
    }

    #[test]
    fn names_every_fault_in_every_element_of_a_list() {
        let read = |value| match Fields::read::<Shape>(value) {
            Ok(shape) => Ok(shape.points.iter().map(|point| point.x).collect::<Vec<_>>()),
            Err(problem) => Err(problem.errors().iter().filter_map(|error| error.pointer.clone()).collect::<Vec<_>>()),
        };
        assert_eq!(read(json!({"points": [{"x": 1}, {"x": 2}]})), Ok(vec![1, 2]));
        let faulty = json!({"points": [{"x": 1}, 2, {"x": 300, "names": [1], "y/": 0}, {}], "z": 0});
        let places = ["#/points/1", "#/points/2/x", "#/points/2/names/0", "#/points/2/y~1", "#/points/3/x", "#/z"];
        assert_eq!(read(faulty), Err(places.map(str::to_owned).into()));
        assert_eq!(read(json!({"points": {}})), Err(vec!["#/points".to_owned()]));
        assert_eq!(read(json!({})), Err(vec!["#/points".to_owned()]));
    }

    fn faults(value: Value) -> Vec<String> {
        let problem = Fields::read::<Point>(value).expect_err("must be refused");
        problem.errors().iter().filter_map(|error| error.pointer.clone()).collect()
    }

    #[test]
    fn reads_what_is_there() {
        let point = Fields::read::<Point>(json!({"x": 7, "names": ["a"]})).expect("valid");
        assert_eq!((point.x, point.names), (7, Some(vec!["a".to_owned()])));
        assert_eq!(Fields::read::<Point>(json!({"x": 7})).expect("valid").names, None);
    }

    #[test]
    fn names_every_fault_by_its_place() {
        assert_eq!(faults(json!({})), ["#/x"]);
        assert_eq!(faults(json!({"x": 300, "names": ["a", 1]})), ["#/x", "#/names/1"]);
        assert_eq!(faults(json!({"x": 1, "y/~ é": 2})), ["#/y~1~0%20%C3%A9"]);
        assert_eq!(faults(json!({"x": 1, "names": null})), ["#/names"]);
        assert_eq!(faults(json!([1])), ["#"]);
    }
}
