//! Who sends a request, and whether its route lets them in.
//!
//! The gateway refuses early; services verify tokens again, and decide who owns what. `access` has the rules of a
//! route, `revoked` the sessions that have ended, `lease` what ends together with a token, `denial` why requests are
//! refused.

mod access;
mod denial;
mod lease;
mod path;
mod revoked;

use std::sync::Arc;

use api::{AuthMode, Forward};
use http::{header, request::Parts};
use identity::{AuthArgs, Caller, Identity, Mode, Reason, Refusal, Scopes, Verifier};
use prometheus::Registry;
use tokio::time::Instant;

pub(crate) use self::{
    access::Access,
    denial::{Denial, Origin},
    lease::{Lease, LeaseEnd, end_of},
};
use self::{
    denial::Denials,
    revoked::{RevocationArgs, RevokedSessions},
};

/// How the gateway verifies tokens.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct AuthenticatorArgs {
    #[command(flatten)]
    pub(crate) verifier: AuthArgs,
    #[command(flatten)]
    pub(crate) revocation: RevocationArgs,
}

/// Finds out who sends a request.
pub(crate) struct Authenticator {
    verifier: Verifier,
    revoked: RevokedSessions,
    has_issuers: bool,
    denials: Denials,
}

/// What was decided about a request that a route lets in.
#[derive(Debug, Default)]
pub(crate) struct Grant {
    /// The sender; `None` if the request has no token, or if its token was not looked at.
    pub(crate) caller: Option<Arc<Caller>>,
    /// How the service learns who sent the request.
    pub(crate) forward: Forward,
    /// Whether a rule depends on the method.
    pub(crate) fixes_method: bool,
}

impl Authenticator {
    /// Starts to verify tokens. Its tasks run on the current runtime.
    ///
    /// # Errors
    /// Returns an error if the settings are invalid, or if a metric is already registered.
    pub(crate) fn start(args: &AuthenticatorArgs, registry: &Registry) -> anyhow::Result<Self> {
        let issuers = args.verifier.auth_issuers.as_deref().map(str::trim);
        Ok(Self {
            verifier: Verifier::new(&args.verifier, registry)?,
            revoked: RevokedSessions::follow(&args.revocation, registry)?,
            has_issuers: issuers.is_some_and(|issuers| !issuers.is_empty()),
            denials: Denials::new(registry)?,
        })
    }

    /// What may go on for as long as the token of a caller is accepted, but at least until `earliest`.
    pub(crate) fn lease(&self, caller: Arc<Caller>, earliest: Instant) -> Lease {
        Lease::new(caller, self.revoked.clone(), earliest)
    }

    /// Counts and logs that a request was refused.
    pub(crate) fn record(&self, denial: &Denial, origin: &Origin<'_>) {
        self.denials.record(denial, origin);
    }

    /// What a route asks for that does not say. Without any issuer, a gateway that is open cannot tell good tokens from
    /// bad ones, so it leaves all of them to the services.
    pub(crate) fn default_mode(&self) -> AuthMode {
        match self.verifier.mode() {
            Mode::Required => AuthMode::Required,
            Mode::Open if self.has_issuers => AuthMode::Optional,
            Mode::Open => AuthMode::None,
        }
    }

    /// Authenticates a request, and checks whether its route lets it in. It waits only if the keys of the token's issuer
    /// have to be read first.
    ///
    /// # Errors
    /// Returns why the request is refused.
    pub(crate) async fn authenticate(&self, parts: &Parts, access: &Access) -> Result<Grant, Denial> {
        if parts.headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some() {
            return Err(Refusal::SeveralTokens.into());
        }
        let requirement = access.requirement(parts)?;
        let fixes_method = access.fixes_method();
        let mode = requirement.mode.unwrap_or_else(|| self.default_mode());
        if mode == AuthMode::None {
            return Ok(Grant { fixes_method, ..Grant::default() });
        }
        let identity = match self.verifier.try_identify(&parts.headers) {
            Some(identity) => identity?,
            // Boxed, because it is rare and would make the future of every request larger.
            None => Box::pin(self.verifier.identify(&parts.headers)).await?,
        };
        let Identity::Caller(caller) = identity else {
            return match mode {
                AuthMode::Required => Err(Refusal::NoToken.into()),
                _ => Ok(Grant { caller: None, forward: access.forward(), fixes_method }),
            };
        };
        if caller.session().is_some_and(|session| self.revoked.contains(session)) {
            return Err(Denial::of(Refusal::InvalidToken(Reason::Revoked), caller));
        }
        if !requirement.scopes.iter().all(|scope| caller.has_scope(scope)) {
            let scopes: Scopes = requirement.scopes.iter().map(|scope| &**scope).collect();
            return Err(Denial::of(Refusal::InsufficientScope(scopes), caller));
        }
        Ok(Grant { caller: Some(caller), forward: access.forward(), fixes_method })
    }
}
