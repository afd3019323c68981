//! The form of a request (RFC 6749, appendix B).

use std::{collections::HashMap, time::Duration};

use axum::{
    body::{Body, to_bytes},
    extract::{FromRequest, Request},
};
use http::header;
use tokio::time;

use super::error::OAuthError;

/// The maximum size of a form, in bytes.
const MAX_SIZE: usize = 16 * 1024;

/// How long a client may take to send it.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The parameters of a form. Those without a value are as if they were not sent (RFC 6749, section 3.2).
pub(in crate::routes) struct Form(HashMap<String, String>);

impl Form {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn parse(body: &[u8]) -> Result<Self, OAuthError> {
        let mut parameters = HashMap::new();
        for (name, value) in form_urlencoded::parse(body) {
            if parameters.insert(name.into_owned(), value.into_owned()).is_some() {
                return Err(OAuthError::InvalidRequest("a parameter is repeated"));
            }
        }
        parameters.retain(|_, value| !value.is_empty());
        Ok(Self(parameters))
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = OAuthError;

    async fn from_request(request: Request, _: &S) -> Result<Self, OAuthError> {
        let media_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(OAuthError::InvalidRequest("the content type must be application/x-www-form-urlencoded"));
        }
        let body = read(request.into_body()).await?;
        Self::parse(&body)
    }
}

async fn read(body: Body) -> Result<impl AsRef<[u8]> + std::ops::Deref<Target = [u8]>, OAuthError> {
    let body = time::timeout(TIMEOUT, to_bytes(body, MAX_SIZE)).await;
    let body = body.map_err(|_| OAuthError::InvalidRequest("the body did not arrive in time"))?;
    body.map_err(|_| OAuthError::InvalidRequest("the body is incomplete or larger than 16 KiB"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeated_parameter_is_an_error_and_an_empty_one_is_none() {
        let form = Form::parse(b"a=1&b=&c=x%20y+z").map_err(|_| "valid").expect("valid");
        assert_eq!((form.get("a"), form.get("b"), form.get("c")), (Some("1"), None, Some("x y z")));
        assert!(Form::parse(b"a=1&a=1").is_err());
        assert!(Form::parse(b"a=&a=").is_err());
    }
}
