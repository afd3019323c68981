//! The settings, as flags that mirror environment variables.

use std::{fs, io::Read, path::PathBuf};

use anyhow::{Context, bail, ensure};
use clap::{Args, ValueEnum};

use crate::config::{IssuerConfig, parse};

/// The audience of tokens, unless `AUTH_AUDIENCE` or an issuer's own `audience` says otherwise.
pub const DEFAULT_AUDIENCE: &str = "hedgerow";

/// The maximum size of a file of issuers, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Whether a request needs a token where a route asks for one. A bad token is refused in both modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// A request without a token may do everything.
    Open,
    /// A request without a token is refused wherever a caller is asked for.
    Required,
}

/// The flags of a process that verifies tokens.
#[derive(Debug, Clone, Args)]
pub struct AuthArgs {
    /// Whether requests need a token; if unset, `required` once an issuer or a file of issuers is configured, else
    /// `open`. A bad token is refused in both modes
    #[arg(long, env = "AUTH", global = true, value_name = "MODE")]
    pub auth: Option<Mode>,
    /// Issuers whose tokens are accepted: a JSON list, or the path of a file with one, which is read again when it
    /// changes
    #[arg(long, env = "AUTH_ISSUERS", global = true, value_name = "JSON|FILE")]
    pub auth_issuers: Option<String>,
    /// Audience that tokens must name, unless their issuer's configuration says otherwise; the operator and
    /// `hedgerow up --auth` set it to the name of the service
    #[arg(long, env = "AUTH_AUDIENCE", global = true, value_name = "NAME", default_value = DEFAULT_AUDIENCE)]
    pub auth_audience: String,
}

impl Default for AuthArgs {
    fn default() -> Self {
        Self { auth: None, auth_issuers: None, auth_audience: DEFAULT_AUDIENCE.to_owned() }
    }
}

/// Where the list of issuers comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Inline(String),
    File(PathBuf),
}

impl AuthArgs {
    /// Reads the configured issuers once. Those without an audience get [`auth_audience`](Self::auth_audience).
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or the list is invalid.
    pub fn read_issuers(&self) -> anyhow::Result<Vec<IssuerConfig>> {
        self.source().map_or_else(|| Ok(Vec::new()), |source| source.read(&self.auth_audience))
    }

    /// Returns the source of the issuers, or `None` if no issuers are configured.
    pub(crate) fn source(&self) -> Option<Source> {
        let text = self.auth_issuers.as_deref().map(str::trim).filter(|text| !text.is_empty())?;
        if text.starts_with('[') {
            return Some(Source::Inline(text.to_owned()));
        }
        Some(Source::File(text.strip_prefix('@').unwrap_or(text).into()))
    }
}

impl Source {
    /// Reads the issuers.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or the list is invalid.
    pub(crate) fn read(&self, audience: &str) -> anyhow::Result<Vec<IssuerConfig>> {
        match self {
            Self::Inline(text) => parse(text, audience).context("AUTH_ISSUERS is invalid"),
            Self::File(path) => {
                let text = read_file(path).with_context(|| format!("cannot read issuers from {}", path.display()))?;
                parse(&text, audience).with_context(|| format!("the issuers in {} are invalid", path.display()))
            }
        }
    }
}

/// Reads a small regular file.
pub(crate) fn read_file(path: &std::path::Path) -> anyhow::Result<String> {
    let file = fs::File::open(path)?;
    ensure!(file.metadata()?.is_file(), "it is not a file");
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE {
        bail!("it is larger than {MAX_FILE} bytes");
    }
    Ok(text)
}
