//! An HTTP/1.1 client whose every connection and failure is in plain sight: no pool, no retries.

use std::{str::FromStr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri, uri::Authority};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{
    TrySendError,
    http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::{
    net::{TcpStream, lookup_host},
    time::{self, Instant},
};

/// How long a connection may be idle and still be used: less than the services keep one, so that no request is sent on
/// a connection that its server is closing.
const IDLE: Duration = Duration::from_secs(10);

/// An `http://` URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    /// Host and port.
    pub authority: Authority,
    /// Path and query.
    pub path: String,
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri = text.parse::<Uri>().map_err(|error| error.to_string())?;
        match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => {
                let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
                Ok(Self { authority: authority.clone(), path })
            }
            _ => Err("not an http:// URL".to_owned()),
        }
    }
}

/// What kind of thing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The host's name is not known.
    Name,
    /// No connection was made: refused, or none in time.
    Connect,
    /// The connection ended before the whole answer.
    Reset,
    /// The answer did not come in time.
    Timeout,
    /// Another status than expected.
    Status,
    /// Another body than expected.
    Answer,
}

impl Kind {
    /// Each of them.
    pub const ALL: [Self; 6] = [Self::Name, Self::Connect, Self::Reset, Self::Timeout, Self::Status, Self::Answer];
}

/// A request that was not answered as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// The error, or what was answered.
    pub detail: String,
}

impl Failure {
    pub(crate) fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into() }
    }

    fn reset(error: &hyper::Error) -> Self {
        let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(Kind::Reset, format!("{error}{cause}"))
    }
}

/// Connects.
///
/// # Errors
/// [`Kind::Name`] or [`Kind::Connect`].
pub async fn connect(authority: &Authority, timeout: Duration) -> Result<TcpStream, Failure> {
    let (host, port) = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let addresses = match time::timeout(timeout, lookup_host((host, port))).await {
        Ok(found) => found.map_err(|error| Failure::new(Kind::Name, error.to_string()))?.collect::<Vec<_>>(),
        Err(_) => return Err(Failure::new(Kind::Name, "no address in time")),
    };
    match time::timeout(timeout, TcpStream::connect(addresses.as_slice())).await {
        Ok(stream) => stream.map_err(|error| Failure::new(Kind::Connect, error.to_string())),
        Err(_) => Err(Failure::new(Kind::Connect, "no connection in time")),
    }
}

/// A connection to one host, opened anew whenever the server has closed it.
pub struct Connection {
    authority: Authority,
    timeout: Duration,
    /// Its end where requests go in, once it is open.
    sender: Option<SendRequest<Full<Bytes>>>,
    used: Instant,
    /// How many times it was opened.
    pub opened: u64,
}

impl Connection {
    /// One that is opened when it is first used. `timeout` is for a connection, and again for an answer.
    #[must_use]
    pub fn new(authority: Authority, timeout: Duration) -> Self {
        Self { authority, timeout, sender: None, used: Instant::now(), opened: 0 }
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// Where there is none; [`Kind::Status`] and [`Kind::Answer`] are for the caller to find.
    pub async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        if let Some(sender) = self.still_open().await {
            match self.send(sender, request).await {
                // The server closed it just before: not a byte had left, so sending it now is no retry.
                Err(Lost { unsent: Some(unsent), .. }) => request = unsent,
                ended => return ended.map_err(|lost| lost.failure),
            }
        }
        let sender = self.open().await?;
        self.send(sender, request).await.map_err(|lost| lost.failure)
    }

    /// The connection, unless the server has closed it or soon may.
    async fn still_open(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut sender = self.sender.take().filter(|_| self.used.elapsed() < IDLE)?;
        sender.ready().await.is_ok().then_some(sender)
    }

    async fn open(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = connect(&self.authority, self.timeout).await?;
        // A failure to set it only costs latency.
        let _ = stream.set_nodelay(true);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| Failure::reset(&error))?;
        // How it ends is seen by the request that meets the end.
        tokio::spawn(connection);
        self.opened += 1;
        Ok(sender)
    }

    async fn send(
        &mut self,
        mut sender: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, Lost> {
        let exchange = async {
            let (head, body) = sender.try_send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, Lost>(Response::from_parts(head, body))
        };
        let late = || Lost { failure: Failure::new(Kind::Timeout, "no answer in time"), unsent: None };
        let answer = time::timeout(self.timeout, exchange).await.map_err(|_| late())??;
        (self.sender, self.used) = (Some(sender), Instant::now());
        Ok(answer)
    }
}

/// A request without an answer.
struct Lost {
    failure: Failure,
    /// The request, where none of it was sent.
    unsent: Option<Request<Full<Bytes>>>,
}

impl From<hyper::Error> for Lost {
    fn from(error: hyper::Error) -> Self {
        Self { failure: Failure::reset(&error), unsent: None }
    }
}

impl From<TrySendError<Request<Full<Bytes>>>> for Lost {
    fn from(mut error: TrySendError<Request<Full<Bytes>>>) -> Self {
        Self { unsent: error.take_message(), failure: Failure::reset(error.error()) }
    }
}
