//! The requests that are sent, and the responses that are expected.

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
    uri::Authority,
};
use http_body_util::Full;
use serde_json::{Map, Value};
use uuid::Uuid;

use super::token::{Token, sensitive};
use crate::client::{Failure, Kind, Url};

/// The placeholder for a UUID, which is new in each request.
const UUID: &str = "{uuid}";

/// The template of a request that is sent repeatedly.
#[derive(Debug, Clone)]
pub struct Template {
    method: Method,
    url: Url,
    /// A JSON object, for a POST, or a form.
    body: Option<String>,
    content_type: HeaderValue,
    /// Whether each request has an `Idempotency-Key`.
    keyed: bool,
    authorization: Option<Authorization>,
}

/// The `Authorization` header of a request.
#[derive(Debug, Clone)]
enum Authorization {
    Basic(HeaderValue),
    Token(Token),
}

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");

/// The fields of a request's body.
pub(super) type Sent = Map<String, Value>;

impl Template {
    /// A `GET` request.
    #[must_use]
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, body: None, content_type: JSON, keyed: false, authorization: None }
    }

    /// A `POST` request with a JSON object. If `keyed`, each request has a new `Idempotency-Key`.
    ///
    /// # Errors
    /// Returns an error if the body is not a JSON object.
    pub fn post(url: Url, body: &str, keyed: bool) -> Result<Self, String> {
        serde_json::from_str::<Sent>(body).map_err(|error| format!("--body is not a JSON object: {error}"))?;
        let body = Some(body.to_owned());
        Ok(Self { method: Method::POST, url, body, content_type: JSON, keyed, authorization: None })
    }

    /// A request for a token. `client` is its id and its secret, `ID:SECRET`.
    ///
    /// # Errors
    /// Returns an error if there is no secret.
    pub(super) fn client_credentials(url: Url, client: &str) -> Result<Self, &'static str> {
        if !client.contains(':') {
            return Err("not ID:SECRET");
        }
        let basic = sensitive(&format!("Basic {}", BASE64_STANDARD.encode(client)))?;
        Ok(Self {
            method: Method::POST,
            url,
            body: Some("grant_type=client_credentials".to_owned()),
            content_type: FORM,
            keyed: false,
            authorization: Some(Authorization::Basic(basic)),
        })
    }

    /// The same with a token in each request, or with none.
    #[must_use]
    pub fn with_token(self, token: Option<Token>) -> Self {
        Self { authorization: token.map(Authorization::Token), ..self }
    }

    pub(super) fn authority(&self) -> &Authority {
        &self.url.authority
    }

    /// Its name in failures: method and URL.
    pub(super) fn name(&self) -> String {
        format!("{} http://{}{}", self.method, self.url.authority, self.url.path)
    }

    /// Creates a request, and returns it with the fields of its body.
    pub(super) fn fill(&self) -> (Request<Full<Bytes>>, Sent) {
        let uuid = Uuid::new_v4().to_string();
        let path = self.url.path.replace(UUID, &uuid);
        let body = self.body.as_deref().unwrap_or_default().replace(UUID, &uuid);
        let sent = serde_json::from_str(&body).unwrap_or_default();
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = self.method.clone();
        // Path and host were parsed as parts of a URL, and a UUID cannot make them invalid.
        *request.uri_mut() = path.parse().unwrap_or_default();
        if let Ok(host) = self.url.authority.as_str().parse() {
            request.headers_mut().insert(HOST, host);
        }
        if self.body.is_some() {
            request.headers_mut().insert(CONTENT_TYPE, self.content_type.clone());
        }
        if let Some(authorization) = &self.authorization {
            let header = match authorization {
                Authorization::Basic(header) => header.clone(),
                Authorization::Token(token) => token.header(),
            };
            request.headers_mut().insert(AUTHORIZATION, header);
        }
        if self.keyed
            && let Ok(key) = uuid.parse()
        {
            request.headers_mut().insert("idempotency-key", key);
        }
        (request, sent)
    }

    /// Checks a response: it must have the success status and be JSON with the fields that were sent.
    pub(super) fn check(&self, sent: &Sent, response: &Response<Bytes>) -> Result<(), Failure> {
        let expected = if self.method == Method::POST { StatusCode::CREATED } else { StatusCode::OK };
        let text = || String::from_utf8_lossy(response.body()).into_owned();
        if response.status() != expected {
            return Err(Failure::new(Kind::Status, format!("{}: {}", response.status(), text())));
        }
        let body = serde_json::from_slice::<Value>(response.body());
        let body = body.map_err(|error| Failure::new(Kind::Body, format!("{error}: {}", text())))?;
        match sent.iter().find(|(name, value)| body.get(name) != Some(value)) {
            Some((name, _)) => {
                Err(Failure::new(Kind::Body, format!("the value of {name} is not the one that was sent: {body}")))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_request_has_the_token_if_there_is_one() {
        let url: Url = "http://gateway/users".parse().expect("a URL");
        let plain = Template::get(url);
        assert!(!plain.fill().0.headers().contains_key(AUTHORIZATION));
        let token = plain.with_token(Some(Token::new("a.b.c").expect("a token")));
        assert_eq!(token.fill().0.headers()[AUTHORIZATION], "Bearer a.b.c");
    }
}
