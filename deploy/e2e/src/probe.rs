//! Whether something answers.

use std::{fmt, str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Request, header::HOST, uri::Authority};
use http_body_util::Full;
use serde::Serialize;
use tokio::time::{self, Instant};

use crate::{
    cli::{Get, Wait},
    client::{self, Connection, Failure, Kind, Url},
};

/// How often, and how long each time, `wait` asks.
const PERIOD: Duration = Duration::from_millis(200);
const PATIENCE: Duration = Duration::from_secs(2);

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// For an answer.
    Http(Url),
    /// For a connection.
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

/// What was seen, as a line of output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Seen {
    /// Who was asked.
    pub url: String,
    /// The answer's status; none where only a connection was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// The answer's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// Why there is no answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

impl Seen {
    /// Whether no connection could be made to a host that is known.
    fn is_blocked(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.kind == Kind::Connect)
    }

    /// Whether it is a 2xx, or the connection that was asked for.
    fn is_success(&self) -> bool {
        self.failure.is_none() && self.status.is_none_or(|status| (200..300).contains(&status))
    }
}

/// Asks each once; whether all was as expected.
pub async fn get(args: &Get, mut print: impl FnMut(&Seen)) -> bool {
    let mut as_expected = true;
    for url in &args.urls {
        let seen = look(url, args.timeout).await;
        print(&seen);
        as_expected &= if args.expect_blocked { seen.is_blocked() } else { seen.failure.is_none() };
    }
    as_expected
}

/// Asks until the answer is a success, and prints the last one; whether it is.
pub async fn wait(args: &Wait, mut print: impl FnMut(&Seen)) -> bool {
    let begun = Instant::now();
    loop {
        let seen = look(&args.url, PATIENCE).await;
        if seen.is_success() || begun.elapsed() >= args.timeout {
            print(&seen);
            return seen.is_success();
        }
        time::sleep(PERIOD).await;
    }
}

async fn look(address: &Address, timeout: Duration) -> Seen {
    let mut seen = Seen { url: address.to_string(), status: None, body: None, failure: None };
    match address {
        Address::Tcp(authority) => seen.failure = client::connect(authority, timeout).await.err(),
        Address::Http(url) => match answer(url, timeout).await {
            Ok(answer) => {
                seen.status = Some(answer.status().as_u16());
                seen.body = Some(String::from_utf8_lossy(answer.body()).into_owned());
            }
            Err(failure) => seen.failure = Some(failure),
        },
    }
    seen
}

async fn answer(url: &Url, timeout: Duration) -> Result<http::Response<Bytes>, Failure> {
    let request = Request::get(&url.path).header(HOST, url.authority.as_str()).body(Full::default());
    let request = request.map_err(|error| Failure::new(Kind::Connect, error.to_string()))?;
    Connection::new(url.authority.clone(), timeout).exchange(request).await
}
