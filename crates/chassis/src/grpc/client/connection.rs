//! An HTTP/2 connection to one address of a peer.

use std::{error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, Response, Uri, header, uri::Authority};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::{net::TcpStream, task::JoinHandle, time};
use tonic::Code;
use tonic_health::pb::{HealthCheckResponse, health_check_response::ServingStatus};

use crate::grpc::call;

/// How long connecting and the first health check may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a later health check may take.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// The interval of HTTP/2 pings and the timeout for their replies. They detect a peer that disappeared with its
/// machine, without closing the connection.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The maximum length of a response body, in bytes.
const RESPONSE_LIMIT: usize = 4 * 1024 * 1024;

/// An empty message as it is encoded: not compressed, 0 bytes (gRPC's `PROTOCOL-HTTP2.md`).
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

/// A connection whose peer has reported that it serves.
pub(super) struct Connection {
    pub(super) sender: Sender,
    authority: Authority,
    /// Completes when the connection ends.
    ended: JoinHandle<()>,
}

/// Sends concurrent requests over a connection.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// Why there is no response.
pub(super) enum CallError {
    /// The peer did not receive the request, or reported that it did not process it.
    NotSent,
    /// It is unknown whether the peer processed the request.
    Lost(Box<dyn Error + Send + Sync>),
}

impl Connection {
    /// Connects and checks the peer's health: a peer may accept connections and never respond.
    pub(super) async fn open(address: SocketAddr, authority: &Authority) -> Result<Self, String> {
        let open = async {
            let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            let _ = stream.set_nodelay(true);
            let (sender, connection) = Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true)
                .handshake(TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
            let ended = tokio::spawn(async {
                let _ = connection.await;
            });
            let connection = Self { sender, authority: authority.clone(), ended };
            if connection.serves().await { Ok(connection) } else { Err("health check failed".to_owned()) }
        };
        time::timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| Err("connecting timed out".to_owned()))
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Returns whether the peer reports in time that it serves.
    pub(super) async fn still_serves(&self) -> bool {
        !self.sender.is_closed() && time::timeout(CHECK_TIMEOUT, self.serves()).await.unwrap_or(false)
    }

    /// Checks the peer's health (`grpc.health.v1`). A peer without this service counts as healthy.
    async fn serves(&self) -> bool {
        let uri = Uri::builder().scheme("http").authority(self.authority.clone());
        let request = uri.path_and_query("/grpc.health.v1.Health/Check").build().map(|uri| {
            let request = Request::post(uri).header(header::TE, "trailers");
            request.header(header::CONTENT_TYPE, "application/grpc").body(Full::from(&EMPTY_MESSAGE[..]))
        });
        let Ok(Ok(request)) = request else { return false };
        let Ok(response) = exchange(self.sender.clone(), request).await else { return false };
        match code(&response) {
            Code::Unimplemented => true,
            Code::Ok => {
                let body = response.into_body().to_bytes();
                let health = body.get(EMPTY_MESSAGE.len()..).and_then(|body| HealthCheckResponse::decode(body).ok());
                health.is_some_and(|health| health.status() == ServingStatus::Serving)
            }
            _ => false,
        }
    }
}

/// Sends a request and reads the whole response.
pub(super) async fn exchange(
    mut sender: Sender,
    request: Request<Full<Bytes>>,
) -> Result<Response<Collected<Bytes>>, CallError> {
    let response = sender.try_send_request(request).await.map_err(|mut error| {
        let sent = error.take_message().is_none();
        let error = error.into_error();
        if sent && !is_refusal(&error) { CallError::Lost(error.into()) } else { CallError::NotSent }
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, RESPONSE_LIMIT).collect().await.map_err(CallError::Lost)?;
    Ok(Response::from_parts(head, body))
}

/// Returns whether the peer reported that it did not process the request (RFC 9113, sections 6.8 and 8.7).
fn is_refusal(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|source| source.downcast_ref::<h2::Error>());
    cause.is_some_and(|error| {
        let reason = error.reason();
        error.is_remote()
            && (error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM)
                || error.is_go_away() && reason == Some(h2::Reason::NO_ERROR))
    })
}

/// Returns the code of a response that was read to its end.
pub(super) fn code(response: &Response<Collected<Bytes>>) -> Code {
    let of_trailers = || response.body().trailers().and_then(call::code);
    call::code(response.headers()).or_else(of_trailers).unwrap_or(Code::Unknown)
}
