//! Where the keys of an issuer are read from.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, ensure};
use http::{StatusCode, header};
use reqwest::{Client, redirect::Policy};
use serde::Deserialize;

use crate::{args::read_file, config::IssuerConfig};

/// The maximum size of a response, in bytes.
const MAX_BODY: usize = 1 << 20;

/// Where the keys are.
#[derive(Debug)]
pub(crate) enum Source {
    File(PathBuf),
    Http(Client, String),
    /// Below the issuer.
    Discovery(Client, String),
}

/// What of an issuer's metadata matters here (OpenID Connect Discovery 1.0, RFC 8414).
#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

impl Source {
    pub(crate) fn new(config: &IssuerConfig, timeout: Duration) -> anyhow::Result<Self> {
        Ok(match &config.jwks_url {
            Some(url) => match url.strip_prefix("file://") {
                Some(path) => Self::File(path.into()),
                None => Self::Http(client(timeout)?, url.clone()),
            },
            None => Self::Discovery(client(timeout)?, config.issuer.clone()),
        })
    }

    /// Whether it costs so little to read that changes are noticed by reading often.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self, Self::File(_))
    }

    /// Reads the key set.
    pub(crate) async fn read(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File(path) => Ok(read_file(path).context("cannot read the file")?.into_bytes()),
            Self::Http(client, url) => get(client, url).await,
            Self::Discovery(client, issuer) => {
                let url = discover(client, issuer).await?;
                get(client, &url).await
            }
        }
    }
}

/// A redirect is not followed: it would let whoever controls one URL choose the keys.
fn client(timeout: Duration) -> anyhow::Result<Client> {
    let builder = Client::builder().redirect(Policy::none()).timeout(timeout).pool_max_idle_per_host(0);
    builder.build().context("cannot create an HTTP client")
}

/// Finds the URL of the keys in the metadata of the issuer.
async fn discover(client: &Client, issuer: &str) -> anyhow::Result<String> {
    let openid = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let document = match get(client, &openid).await {
        Ok(document) => document,
        Err(error) => match get(client, &oauth_metadata_url(issuer)).await {
            Ok(document) => document,
            Err(_) => return Err(error.context("cannot read the issuer's metadata")),
        },
    };
    let Metadata { issuer: named, jwks_uri } =
        serde_json::from_slice(&document).context("the issuer's metadata are invalid")?;
    ensure!(named == issuer, "the metadata are of another issuer");
    let is_safe = jwks_uri.starts_with("https://") || jwks_uri.starts_with("http://") && issuer.starts_with("http://");
    ensure!(is_safe, "the jwks_uri in the issuer's metadata is not an https URL");
    Ok(jwks_uri)
}

/// RFC 8414, section 3.1: the well-known path goes between the host and the path of the issuer.
fn oauth_metadata_url(issuer: &str) -> String {
    let issuer = issuer.trim_end_matches('/');
    let authority = issuer.find("://").map_or(0, |scheme| scheme + "://".len());
    let path = issuer[authority..].find('/').map_or(issuer.len(), |path| authority + path);
    format!("{}/.well-known/oauth-authorization-server{}", &issuer[..path], &issuer[path..])
}

async fn get(client: &Client, url: &str) -> anyhow::Result<Vec<u8>> {
    let request = client.get(url).header(header::ACCEPT, "application/json");
    let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
    ensure!(response.status() == StatusCode::OK, "the response is {}", response.status());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
        ensure!(body.len() + chunk.len() <= MAX_BODY, "the response is larger than {MAX_BODY} bytes");
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_well_known_path_goes_before_the_issuers_path() {
        for (issuer, expected) in [
            ("https://a.example", "https://a.example/.well-known/oauth-authorization-server"),
            ("https://a.example/", "https://a.example/.well-known/oauth-authorization-server"),
            ("https://a.example:1/x/y", "https://a.example:1/.well-known/oauth-authorization-server/x/y"),
        ] {
            assert_eq!(oauth_metadata_url(issuer), expected);
        }
    }
}
