//! What is sent, and what must come back.

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode,
    header::{CONTENT_TYPE, HOST},
    uri::Authority,
};
use http_body_util::Full;
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::client::{Failure, Kind, Url};

/// Stands for a UUID, another in each request.
const UUID: &str = "{uuid}";

/// A request that is sent again and again.
#[derive(Debug, Clone)]
pub struct Template {
    method: Method,
    url: Url,
    /// A JSON object, for a POST.
    body: Option<String>,
    /// Whether each request has an `Idempotency-Key`.
    keyed: bool,
}

/// The fields of a request's body.
pub(super) type Sent = Map<String, Value>;

impl Template {
    /// `GET`.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, body: None, keyed: false }
    }

    /// `POST` of a JSON object, with an `Idempotency-Key` of its own each time or without.
    ///
    /// # Errors
    /// Where the body is none.
    pub fn post(url: Url, body: &str, keyed: bool) -> Result<Self, String> {
        serde_json::from_str::<Sent>(body).map_err(|error| format!("--body is no JSON object: {error}"))?;
        Ok(Self { method: Method::POST, url, body: Some(body.to_owned()), keyed })
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.url.authority
    }

    /// Its name among the failures.
    pub(super) fn name(&self) -> String {
        format!("{} http://{}{}", self.method, self.url.authority, self.url.path)
    }

    /// A request like this one, and the fields of its body.
    pub(super) fn fill(&self) -> (Request<Full<Bytes>>, Sent) {
        let uuid = Uuid::new_v4().to_string();
        let path = self.url.path.replace(UUID, &uuid);
        let body = self.body.as_deref().unwrap_or_default().replace(UUID, &uuid);
        let sent = serde_json::from_str(&body).unwrap_or_default();
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = self.method.clone();
        // Both were read as parts of a URL; a UUID in them changes nothing about that.
        *request.uri_mut() = path.parse().unwrap_or_default();
        if let Ok(host) = self.url.authority.as_str().parse() {
            request.headers_mut().insert(HOST, host);
        }
        if self.body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        }
        if self.keyed
            && let Ok(key) = uuid.parse()
        {
            request.headers_mut().insert("idempotency-key", key);
        }
        (request, sent)
    }

    /// Whether this is the answer: the status of success, JSON, and the fields that were sent.
    pub(super) fn check(&self, sent: &Sent, answer: &Response<Bytes>) -> Result<(), Failure> {
        let expected = if self.method == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
        let text = || String::from_utf8_lossy(answer.body()).into_owned();
        if answer.status() != expected {
            return Err(Failure::new(Kind::Status, format!("{}: {}", answer.status(), text())));
        }
        let body = serde_json::from_slice::<Value>(answer.body());
        let body = body.map_err(|error| Failure::new(Kind::Answer, format!("{error}: {}", text())))?;
        match sent.iter().find(|(name, value)| body.get(name) != Some(value)) {
            Some((name, _)) => Err(Failure::new(Kind::Answer, format!("{name} is not what was sent: {body}"))),
            None => Ok(()),
        }
    }
}
