//! A response of a service, and what tests check of it.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

/// A response with its whole body.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

#[expect(clippy::must_use_candidate, reason = "an assertion is useful by itself")]
impl Response {
    /// Parses the bytes of a response.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an HTTP/1 response");
        let (head, body) = (String::from_utf8_lossy(&bytes[..end]), bytes[end + 4..].to_vec());
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').expect("a header");
            (name.parse::<HeaderName>().expect("a name"), value.trim().parse::<HeaderValue>().expect("a value"))
        });
        Self { status, headers: headers.collect(), body }
    }

    /// Returns the value of a header.
    ///
    /// # Panics
    /// Panics if it is not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("an ASCII value"))
    }

    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the JSON body, and checks the status.
    ///
    /// # Panics
    /// Panics if the status is different or the body is not JSON.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Returns the rows of a page.
    ///
    /// # Panics
    /// Panics if the response is not a page.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        self.json(200).as_array().expect("an array").clone()
    }

    /// Returns the `ETag`.
    ///
    /// # Panics
    /// Panics if there is none.
    #[must_use]
    #[track_caller]
    pub fn etag(&self) -> String {
        self.header("etag").expect("an ETag").to_owned()
    }

    /// Returns the path of the next page, if there is one.
    ///
    /// # Panics
    /// Panics if the `Link` is malformed.
    #[must_use]
    #[track_caller]
    pub fn next(&self) -> Option<String> {
        let link = self.header("link")?;
        let path = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        let path = path.filter(|path| path.starts_with('/'));
        Some(path.unwrap_or_else(|| panic!("not a relative link: {link}")).to_owned())
    }

    /// Returns the body of a problem, and checks the status and the members that every problem has.
    ///
    /// # Panics
    /// Panics if the response is not such a problem.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
        let problem: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem}");
        }
        problem
    }

    /// Returns the invalid parts that a 422 lists: pointers into the body, or names of parameters.
    ///
    /// # Panics
    /// Panics if the response is not a 422 or an error has neither.
    #[track_caller]
    pub fn errors(&self) -> Vec<String> {
        let problem = self.problem(422);
        let errors = problem["errors"].as_array().expect("a list of errors").iter();
        let place = |error: &Value| Some(error["pointer"].as_str().or(error["parameter"].as_str())?.to_owned());
        errors
            .map(|error| place(error).unwrap_or_else(|| panic!("an error without a pointer or parameter: {problem}")))
            .collect()
    }
}
