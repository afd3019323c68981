//! Probes of URLs and TCP addresses.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use clap::Args;
use http::{Request, header::HOST, uri::Authority};
use http_body_util::Full;
use humantime::parse_duration;
use serde::Serialize;
use tokio::time::{self, Instant};

use crate::client::{self, Connection, Failure, Kind, Url};

/// The interval between the attempts of `wait`, and the timeout of each.
const INTERVAL: Duration = Duration::from_millis(200);
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);

/// The target of a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Succeeds if there is a response.
    Http(Url),
    /// Succeeds if a connection can be made.
    Tcp(Authority),
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("tcp://").map(str::parse::<Authority>) {
            Some(Ok(authority)) if authority.port().is_some() => Ok(Self::Tcp(authority)),
            Some(_) => Err("not tcp://HOST:PORT".to_owned()),
            None => text.parse().map(Self::Http),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(Url { authority, path }) => write!(f, "http://{authority}{path}"),
            Self::Tcp(authority) => write!(f, "tcp://{authority}"),
        }
    }
}

/// Options of `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// URLs to request
    #[arg(value_name = "URL", required = true)]
    pub urls: Vec<Address>,
    /// Timeout of a connection attempt, and of a response
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Succeed if every name resolves but no connection can be made, for example because of a network policy
    #[arg(long)]
    pub expect_blocked: bool,
}

/// Options of `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// URL to request
    #[arg(value_name = "URL")]
    pub url: Address,
    /// When to give up
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// The result of a probe, as a line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// The target.
    pub url: String,
    /// The status of the response, unless the probe only connects.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The body of the response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Why there is no response.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl Observation {
    /// Whether the name resolved but no connection could be made.
    fn is_blocked(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.kind == Kind::Connect)
    }

    /// Whether the response is a 2xx, or the connection was made.
    fn is_success(&self) -> bool {
        self.failure.is_none() && self.status.is_none_or(|status| (200..300).contains(&status))
    }
}

/// Probes each URL once. Returns whether all results are as expected.
pub async fn get(args: &Get, mut print: impl FnMut(&Observation)) -> bool {
    let mut as_expected = true;
    for url in &args.urls {
        let observation = observe(url, args.timeout).await;
        print(&observation);
        as_expected &= if args.expect_blocked { observation.is_blocked() } else { observation.failure.is_none() };
    }
    as_expected
}

/// Probes until it succeeds or times out, and prints the last result. Returns whether it succeeded.
pub async fn wait(args: &Wait, mut print: impl FnMut(&Observation)) -> bool {
    let started = Instant::now();
    loop {
        let observation = observe(&args.url, ATTEMPT_TIMEOUT).await;
        if observation.is_success() || started.elapsed() >= args.timeout {
            print(&observation);
            return observation.is_success();
        }
        time::sleep(INTERVAL).await;
    }
}

async fn observe(address: &Address, timeout: Duration) -> Observation {
    let mut observation = Observation { url: address.to_string(), status: None, body: None, failure: None };
    match address {
        Address::Tcp(authority) => observation.failure = client::connect(authority, timeout).await.err(),
        Address::Http(url) => match request(url, timeout).await {
            Ok(response) => {
                observation.status = Some(response.status().as_u16());
                observation.body = Some(String::from_utf8_lossy(response.body()).into_owned());
            }
            Err(failure) => observation.failure = Some(failure),
        },
    }
    observation
}

async fn request(url: &Url, timeout: Duration) -> Result<http::Response<Bytes>, Failure> {
    let request = Request::get(&url.path).header(HOST, url.authority.as_str()).body(Full::default());
    let request = request.map_err(|error| Failure::new(Kind::Connect, error.to_string()))?;
    Connection::new(url.authority.clone(), timeout).exchange(request).await
}
