//! The authentication of clients, with HTTP Basic or in the form (RFC 6749, section 2.3.1).

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::{error::OAuthError, form::Form};
use crate::{error::Error, state::Users, store::client};

/// How a client says who it is.
pub(super) struct Credentials {
    pub(super) id: String,
    /// `None` for a client that only names itself.
    pub(super) secret: Option<String>,
}

/// A client whose secret was verified.
pub(super) struct Client {
    pub(super) id: Uuid,
    pub(super) scopes: Vec<String>,
}

impl Credentials {
    /// Reads the credentials. Returns `None` if there are none.
    pub(super) fn read(headers: &HeaderMap, form: &Form) -> Result<Option<Self>, OAuthError> {
        let in_form = form.get("client_id").map(str::to_owned);
        let secret_in_form = form.get("client_secret").map(str::to_owned);
        let mut headers = headers.get_all(header::AUTHORIZATION).iter();
        let Some(header) = headers.next() else {
            return match (in_form, secret_in_form) {
                (Some(id), secret) => Ok(Some(Self { id, secret })),
                (None, None) => Ok(None),
                (None, Some(_)) => Err(OAuthError::InvalidClient),
            };
        };
        let basic = header.to_str().ok().and_then(basic).ok_or(OAuthError::InvalidClient)?;
        if headers.next().is_some() || secret_in_form.is_some() || in_form.is_some_and(|id| id != basic.id) {
            return Err(OAuthError::InvalidRequest("the client must authenticate in one way only"));
        }
        Ok(Some(basic))
    }

    /// Verifies the secret.
    pub(super) async fn verify(&self, users: &Users) -> Result<Client, OAuthError> {
        let (Ok(id), Some(secret)) = (self.id.parse::<Uuid>(), &self.secret) else {
            return Err(OAuthError::InvalidClient);
        };
        let found = users.database.run(async |connection| client::secret(connection, id).await).await;
        let (expected, scopes) = found.map_err(Error::from)?.ok_or(OAuthError::InvalidClient)?;
        verify_slices_are_equal(&Sha256::digest(secret), &expected).map_err(|_| OAuthError::InvalidClient)?;
        Ok(Client { id, scopes })
    }
}

/// Decodes an `Authorization` header of the scheme `Basic`. Both parts are form-encoded before.
fn basic(header: &str) -> Option<Credentials> {
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (id, secret) = decoded.split_once(':')?;
    Some(Credentials { id: form_decode(id)?, secret: Some(form_decode(secret)?) })
}

fn form_decode(text: &str) -> Option<String> {
    // As the value of a parameter without a name. `&` and `=` cannot be in an encoded text.
    if text.contains(['&', '=']) {
        return None;
    }
    let mut parameters = form_urlencoded::parse(text.as_bytes());
    Some(parameters.next().map(|(text, _)| text.into_owned()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_credentials_are_form_encoded() {
        let encode = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
        let credentials = basic(&encode("a%3Ab:c+d%26")).expect("valid");
        assert_eq!((credentials.id.as_str(), credentials.secret.as_deref()), ("a:b", Some("c d&")));
        for bad in ["", "Basic", "Basic !", "Bearer YTpi", &encode("a"), &encode("a&b:c")] {
            assert!(basic(bad).is_none(), "{bad}");
        }
    }
}
