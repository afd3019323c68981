//! The issuer: what it needs to check passwords and to sign tokens.

mod access;
mod keys;
mod limits;
mod refresh;
mod rotation;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use chassis::Context;
use uuid::Uuid;

pub(crate) use access::{Grant, GrantSession, NO_STORE, PASSWORD_CLIENT, TokenResponse};
pub(crate) use keys::Keys;
pub(crate) use limits::{Attempt, count_email, forget as forget_attempts};
pub(crate) use refresh::RefreshToken;

use self::limits::Reached;
use crate::{audit::Audit, error::Error, password::Hasher, settings::IssuerArgs};

/// The issuer of a service that has the settings for it.
pub(crate) struct Issuer {
    /// The `iss` of its tokens, without a trailing slash.
    pub(crate) url: String,
    pub(crate) hasher: Hasher,
    pub(crate) audit: Audit,
    reached: Reached,
    lifetime: Duration,
    /// `None` until they have been read from the database.
    keys: ArcSwapOption<Keys>,
}

impl Issuer {
    /// Starts the issuer. Returns `None` if the settings name none.
    ///
    /// # Panics
    /// Panics if a thread cannot be started, as any service that lacks one at the start would.
    pub(crate) fn start(context: &Context<IssuerArgs>) -> Option<Arc<Self>> {
        let IssuerArgs { auth_issuer_url, auth_kek_file, lifetimes } = context.settings.clone();
        let (url, kek) = (auth_issuer_url?, auth_kek_file?);
        let issuer = Arc::new(Self {
            url,
            hasher: Hasher::start(&context.registry).expect("threads can be started"),
            audit: Audit::new(&context.registry).expect("the metrics are registered once"),
            reached: Reached::default(),
            lifetime: lifetimes.token,
            keys: ArcSwapOption::empty(),
        });
        // The connections of the pool belong to this thread.
        context.requests.spawn(rotation::run(issuer.clone(), context.database.clone(), kek, lifetimes));
        Some(issuer)
    }

    /// The keys as of the last time they were read.
    ///
    /// # Errors
    /// Returns an error until they could be read for the first time.
    pub(crate) fn keys(&self) -> Result<Arc<Keys>, Error> {
        self.keys.load_full().ok_or(Error::NoKeys)
    }

    /// Signs an access token, and adds the refresh token of the session if there is one.
    ///
    /// # Errors
    /// Returns an error if no key can sign yet.
    pub(crate) fn issue(&self, grant: &Grant<'_>) -> Result<TokenResponse, Error> {
        let keys = self.keys()?;
        let access_token = keys.sign(&grant.claims(&self.url, self.lifetime))?;
        let refresh_token = grant.session.as_ref().map(|session| keys.refresh_token(session.refresh));
        Ok(TokenResponse::new(access_token, self.lifetime, refresh_token, &grant.scopes))
    }

    /// Verifies a refresh token of this issuer.
    ///
    /// # Errors
    /// Returns an error if no key can verify yet. A token that is not valid is `None`.
    pub(crate) fn read_refresh_token(&self, token: &str) -> Result<Option<RefreshToken>, Error> {
        Ok(self.keys()?.read_refresh_token(token))
    }
}

/// A new id of a session or client.
pub(crate) fn new_id() -> Uuid {
    Uuid::now_v7()
}
