//! The token that the requests have.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderValue;
use serde::Deserialize;
use tokio::time::Instant;

use super::template::Template;
use crate::client::{Connection, Failure, Kind};

/// An `Authorization` header, which may change while requests are sent.
#[derive(Debug, Clone)]
pub struct Token(Arc<Mutex<HeaderValue>>);

impl Token {
    /// # Errors
    /// Returns an error if the token cannot be a header.
    pub(super) fn new(token: &str) -> Result<Self, &'static str> {
        Ok(Self(Arc::new(Mutex::new(sensitive(&format!("Bearer {token}"))?))))
    }

    /// The header.
    pub(super) fn header(&self) -> HeaderValue {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, token: &str) -> Result<(), &'static str> {
        let header = sensitive(&format!("Bearer {token}"))?;
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = header;
        Ok(())
    }
}

/// A header that no `Debug` shows.
pub(super) fn sensitive(value: &str) -> Result<HeaderValue, &'static str> {
    let mut header = HeaderValue::try_from(value).map_err(|_| "not a header")?;
    header.set_sensitive(true);
    Ok(header)
}

/// A client with a secret, which gets tokens by client credentials (RFC 6749, section 4.4).
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) request: Template,
    /// What the requests of the load have.
    pub(super) token: Token,
    /// The time between two tokens.
    pub(super) interval: Duration,
}

#[derive(Deserialize)]
struct Response {
    access_token: String,
}

impl Client {
    /// Gets a token for the requests that follow. Returns when it was due, and how often a connection was opened.
    pub(super) async fn renew(&self, connection: &mut Connection) -> (Instant, u64, Result<(), Failure>) {
        let (due, opened) = (Instant::now(), connection.opened);
        let result = self.try_renew(connection).await;
        (due, connection.opened - opened, result)
    }

    async fn try_renew(&self, connection: &mut Connection) -> Result<(), Failure> {
        let (request, sent) = self.request.fill();
        let response = connection.exchange(request).await?;
        if !response.status().is_success() {
            self.request.check(&sent, &response)?;
        }
        // Not the body, which may have a token.
        let invalid = || Failure::new(Kind::Body, "the response has no token");
        let Response { access_token } = serde_json::from_slice(response.body()).map_err(|_| invalid())?;
        self.token.replace(&access_token).map_err(|_| invalid())
    }
}
