//! The audit log: one line for each login and each change of who may do what, without secrets.

use std::fmt;

use prometheus::{IntCounterVec, Opts, Registry};
use uuid::Uuid;

use crate::client_address::Origin;

/// Records what the issuer does.
pub(crate) struct Audit {
    logins: IntCounterVec,
}

/// How a request for tokens ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    /// The password, token or secret is wrong, or the account unknown.
    InvalidCredentials,
    /// A limit on attempts is reached.
    Limited,
    /// Too many passwords wait to be checked.
    Busy,
    /// An old refresh token was used again, which ended the session.
    Reused,
}

impl Outcome {
    const ALL: [Self; 5] = [Self::Success, Self::InvalidCredentials, Self::Limited, Self::Busy, Self::Reused];

    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::InvalidCredentials => "invalid_credentials",
            Self::Limited => "limited",
            Self::Busy => "busy",
            Self::Reused => "reused",
        }
    }
}

/// Who did something, for the log.
pub(crate) struct Actor<'a> {
    /// `None` if it is nobody in particular.
    pub(crate) subject: Option<&'a str>,
    pub(crate) client: Option<&'a str>,
}

/// Shows an optional value as itself, or as an empty text.
struct Shown<T>(Option<T>);

impl<T: fmt::Display> fmt::Display for Shown<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |value| value.fmt(f))
    }
}

impl Audit {
    /// Creates the metric.
    ///
    /// # Errors
    /// Returns an error if it is already registered.
    pub(crate) fn new(registry: &Registry) -> anyhow::Result<Self> {
        let logins = Opts::new("auth_logins_total", "Requests for tokens, by outcome.");
        let logins = IntCounterVec::new(logins, &["outcome"])?;
        for outcome in Outcome::ALL {
            logins.with_label_values(&[outcome.as_str()]);
        }
        registry.register(Box::new(logins.clone()))?;
        Ok(Self { logins })
    }

    /// A login with a password, a refresh or a login of a client. `subject` is `None` if nobody knows who it was.
    pub(crate) fn login(
        &self,
        event: &'static str,
        subject: Option<Uuid>,
        client: Option<&str>,
        origin: &Origin,
        outcome: Outcome,
    ) {
        let outcome = outcome.as_str();
        self.logins.with_label_values(&[outcome]).inc();
        let (subject, client, address) = (Shown(subject), Shown(client), Shown(origin.address()));
        tracing::info!(target: "audit", event, %subject, %client, %address, outcome, "login");
    }

    /// A change by `actor` to a user, session or client.
    #[expect(clippy::unused_self, reason = "only an issuer has something to record")]
    pub(crate) fn change(&self, event: &'static str, actor: &Actor<'_>, object: impl fmt::Display, origin: &Origin) {
        let (subject, client, address) = (Shown(actor.subject), Shown(actor.client), Shown(origin.address()));
        tracing::info!(target: "audit", event, %subject, %client, %object, %address, outcome = "success", "change");
    }

    /// A new signing key, which will be used later.
    #[expect(clippy::unused_self, reason = "only an issuer has something to record")]
    pub(crate) fn key_made(&self, kid: &str) {
        tracing::info!(target: "audit", event = "key_made", object = kid, outcome = "success", "change");
    }

    /// A signing key that this replica signs with from now on.
    #[expect(clippy::unused_self, reason = "only an issuer has something to record")]
    pub(crate) fn key_in_use(&self, kid: &str) {
        tracing::info!(target: "audit", event = "key_in_use", object = kid, outcome = "success", "change");
    }
}
