//! The flags that say who may call the services.

#![allow(clippy::doc_markdown, reason = "`--help` shows backticks as they are")]

use clap::Args;
use identity::{DEFAULT_AUDIENCE, IssuerConfig, Mode};

use crate::manifests::{Authentication, Issuer};

/// The HTTP port of an issuer that does not exist yet.
const DEFAULT_PORT: u16 = 8080;

/// The flags of `operator run` and `operator render`.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuthArgs {
    /// Whether requests to services need a token. With open and without further issuers, services do not look at tokens
    #[arg(long, env, value_name = "MODE", value_enum, default_value = "open")]
    auth: Mode,
    /// Further issuers whose tokens services accept: a JSON list, as in AUTH_ISSUERS of a service
    #[arg(long, env, value_name = "JSON", default_value = "[]", value_parser = issuers)]
    auth_issuers: Issuers,
    /// Microservice that issues the tokens of users
    #[arg(long, env, value_name = "NAME", requires = "auth_issuer_url")]
    auth_issuer: Option<String>,
    /// URL of that issuer, as clients see it
    #[arg(long, env, value_name = "URL", requires = "auth_issuer")]
    auth_issuer_url: Option<String>,
}

/// The further issuers.
#[derive(Debug, Clone)]
struct Issuers(Vec<IssuerConfig>);

fn issuers(text: &str) -> Result<Issuers, String> {
    identity::parse_issuers(text, DEFAULT_AUDIENCE).map(Issuers).map_err(|error| format!("{error:#}"))
}

impl AuthArgs {
    /// Who may call services; `None` if everyone may, and nobody verifies tokens.
    pub(crate) fn authentication(&self) -> Option<Authentication> {
        if self.auth == Mode::Open && self.auth_issuers.0.is_empty() {
            return None;
        }
        let (service, url) = (self.auth_issuer.clone(), self.auth_issuer_url.clone());
        let issuer = service.zip(url).map(|(service, url)| Issuer { service, url, port: DEFAULT_PORT });
        Some(Authentication { mode: self.auth, issuer })
    }

    /// The further issuers.
    pub(crate) fn issuers(&self) -> &[IssuerConfig] {
        &self.auth_issuers.0
    }
}
