//! The identity of a request, as handlers see it.

use std::{convert::Infallible, sync::Arc};

use axum::extract::FromRequestParts;
use http::{Extensions, request::Parts};
use identity::{Caller, Mode, Refusal};

/// Extracts who sent the request. The token has already been verified; a request with a bad one never gets here.
///
/// A handler judges on each request what the caller may do:
///
/// ```
/// # use chassis::{Identity, Problem};
/// async fn adjust_stock(identity: Identity) -> Result<(), Problem> {
///     identity.require_scope("inventory:write")?;
///     Ok(())
/// }
/// ```
///
/// It says so in its OpenAPI annotation: `security(("bearer" = ["inventory:write"]))`, or `security(("bearer" = []))`
/// if any caller will do. `security(())` is for operations that never look at tokens, such as a login: there even a bad
/// token is ignored.
///
/// In a gRPC method, it is [`Identity::of`] the request's extensions.
#[derive(Debug, Clone)]
pub struct Identity {
    mode: Mode,
    caller: Option<Arc<Caller>>,
    /// The service that sends the request for the caller.
    service: Option<Arc<Caller>>,
}

impl Identity {
    pub(crate) fn new(mode: Mode, caller: Option<Arc<Caller>>, service: Option<Arc<Caller>>) -> Self {
        Self { mode, caller, service }
    }

    /// Returns the identity in the extensions of a request. A request that did not pass the layer has none, and is
    /// treated as one without a token where a token is required.
    #[must_use]
    pub fn of(extensions: &Extensions) -> Self {
        let nobody = || Self::new(Mode::Required, None, None);
        extensions.get().cloned().unwrap_or_else(nobody)
    }

    /// Returns the caller; `None` if the request has no token. If a service calls on behalf of a user, it is the user.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_deref()
    }

    /// Returns the service that calls on behalf of the caller, if one does.
    #[must_use]
    pub fn service(&self) -> Option<&Caller> {
        self.service.as_deref()
    }

    /// Returns the subject of the caller; the empty text if the request has no token.
    #[must_use]
    pub fn subject(&self) -> &str {
        self.caller().map_or("", Caller::subject)
    }

    /// Returns whether the request may do everything because it has no token and none is required.
    #[must_use]
    pub fn is_unrestricted(&self) -> bool {
        self.mode == Mode::Open && self.caller().is_none()
    }

    /// Asks for a caller, whoever it is and whatever the mode. It is for operations that make no sense without one.
    ///
    /// # Errors
    /// Returns a refusal (401) if the request has no token.
    pub fn require_caller(&self) -> Result<&Caller, Refusal> {
        self.caller().ok_or(Refusal::NoToken)
    }

    /// Asks for a caller, whoever it is. Without a token, the request passes in mode `open`.
    ///
    /// # Errors
    /// Returns a refusal (401) if the request has no token.
    pub fn require_token(&self) -> Result<(), Refusal> {
        self.require(|_| true, || Refusal::NoToken)
    }

    /// Asks for a scope, which administrators always have. Without a token, the request passes in mode `open`.
    ///
    /// # Errors
    /// Returns a refusal if the request has no token (401) or the caller does not have the scope (403).
    pub fn require_scope(&self, scope: &str) -> Result<(), Refusal> {
        self.require(|caller| caller.has_scope(scope), || Refusal::insufficient_scope(scope))
    }

    /// Asks for an administrator. Without a token, the request passes in mode `open`.
    ///
    /// # Errors
    /// Returns a refusal if the request has no token (401) or the caller is not an administrator (403).
    pub fn require_admin(&self) -> Result<(), Refusal> {
        self.require(Caller::is_admin, || Refusal::Forbidden)
    }

    fn require(&self, may: impl FnOnce(&Caller) -> bool, refusal: impl FnOnce() -> Refusal) -> Result<(), Refusal> {
        match self.caller() {
            None if self.mode == Mode::Open => Ok(()),
            None => Err(Refusal::NoToken),
            Some(caller) if may(caller) => Ok(()),
            Some(_) => Err(refusal()),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(&parts.extensions))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_passed_no_layer_may_do_nothing() {
        let identity = Identity::of(&Extensions::new());
        assert!(!identity.is_unrestricted());
        assert_eq!(identity.require_token(), Err(Refusal::NoToken));
        assert_eq!(identity.require_scope("x"), Err(Refusal::NoToken));
        assert_eq!(identity.require_admin(), Err(Refusal::NoToken));
        assert_eq!(identity.subject(), "");
    }

    #[test]
    fn in_mode_open_a_request_without_token_may_do_everything() {
        let identity = Identity::new(Mode::Open, None, None);
        assert!(identity.is_unrestricted());
        assert_eq!(identity.require_scope("x").and(identity.require_token()).and(identity.require_admin()), Ok(()));
        // There is nobody whose sessions could be listed.
        assert_eq!(identity.require_caller().err(), Some(Refusal::NoToken));
    }
}
