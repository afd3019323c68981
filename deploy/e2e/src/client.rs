//! An HTTP/1.1 client without a pool and without retries, so that every connection and failure is visible.

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

/// The idle time after which a connection is not reused. It is shorter than the idle timeout of the services, so that
/// no request is sent on a connection that the server is closing.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

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

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The host name does not resolve.
    Name,
    /// The connection was refused, or timed out.
    Connect,
    /// The connection ended before the response was complete.
    Reset,
    /// The response timed out.
    Timeout,
    /// The status is not the expected one.
    Status,
    /// The body is not the expected one.
    Body,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::Name, Self::Connect, Self::Reset, Self::Timeout, Self::Status, Self::Body];
}

/// A failed request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its kind.
    pub kind: Kind,
    /// The error or the unexpected response.
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

/// Connects to a host.
///
/// # Errors
/// Returns an error of [`Kind::Name`] or [`Kind::Connect`].
pub async fn connect(authority: &Authority, timeout: Duration) -> Result<TcpStream, Failure> {
    let (host, port) = (authority.host().trim_matches(['[', ']']), authority.port_u16().unwrap_or(80));
    let addresses = match time::timeout(timeout, lookup_host((host, port))).await {
        Ok(found) => found.map_err(|error| Failure::new(Kind::Name, error.to_string()))?.collect::<Vec<_>>(),
        Err(_) => return Err(Failure::new(Kind::Name, "name resolution timed out")),
    };
    match time::timeout(timeout, TcpStream::connect(addresses.as_slice())).await {
        Ok(stream) => stream.map_err(|error| Failure::new(Kind::Connect, error.to_string())),
        Err(_) => Err(Failure::new(Kind::Connect, "connection attempt timed out")),
    }
}

/// A connection to one host, which is reopened when the server has closed it.
pub struct Connection {
    authority: Authority,
    timeout: Duration,
    /// The sending half, while the connection is open.
    sender: Option<SendRequest<Full<Bytes>>>,
    used: Instant,
    /// How often it was opened.
    pub opened: u64,
}

impl Connection {
    /// Creates a connection that is opened on first use. `timeout` applies to the connection attempt and to each
    /// response.
    #[must_use]
    pub fn new(authority: Authority, timeout: Duration) -> Self {
        Self { authority, timeout, sender: None, used: Instant::now(), opened: 0 }
    }

    /// Sends a request and reads the whole response.
    ///
    /// # Errors
    /// Returns an error if there is no complete response. The caller checks for [`Kind::Status`] and [`Kind::Body`].
    pub async fn exchange(&mut self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        if let Some(sender) = self.still_open().await {
            match self.send(sender, request).await {
                // The server has just closed the connection. Nothing was sent, so this is not a retry.
                Err(SendError { unsent: Some(unsent), .. }) => request = unsent,
                result => return result.map_err(|error| error.failure),
            }
        }
        let sender = self.open().await?;
        self.send(sender, request).await.map_err(|error| error.failure)
    }

    /// The open connection, unless the server has closed it or may soon close it.
    async fn still_open(&mut self) -> Option<SendRequest<Full<Bytes>>> {
        let mut sender = self.sender.take().filter(|_| self.used.elapsed() < IDLE_TIMEOUT)?;
        sender.ready().await.is_ok().then_some(sender)
    }

    async fn open(&mut self) -> Result<SendRequest<Full<Bytes>>, Failure> {
        let stream = connect(&self.authority, self.timeout).await?;
        // A failure only costs latency.
        let _ = stream.set_nodelay(true);
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| Failure::reset(&error))?;
        // The request in progress sees any error.
        tokio::spawn(connection);
        self.opened += 1;
        Ok(sender)
    }

    async fn send(
        &mut self,
        mut sender: SendRequest<Full<Bytes>>,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Bytes>, SendError> {
        let exchange = async {
            let (head, body) = sender.try_send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok::<_, SendError>(Response::from_parts(head, body))
        };
        let timed_out = || SendError { failure: Failure::new(Kind::Timeout, "response timed out"), unsent: None };
        let response = time::timeout(self.timeout, exchange).await.map_err(|_| timed_out())??;
        (self.sender, self.used) = (Some(sender), Instant::now());
        Ok(response)
    }
}

/// The error of a request without a complete response.
struct SendError {
    failure: Failure,
    /// The request, if none of it was sent.
    unsent: Option<Request<Full<Bytes>>>,
}

impl From<hyper::Error> for SendError {
    fn from(error: hyper::Error) -> Self {
        Self { failure: Failure::reset(&error), unsent: None }
    }
}

impl From<TrySendError<Request<Full<Bytes>>>> for SendError {
    fn from(mut error: TrySendError<Request<Full<Bytes>>>) -> Self {
        Self { unsent: error.take_message(), failure: Failure::reset(error.error()) }
    }
}
