//! One HTTP/2 connection, to one address.

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

/// How long an address may take until it is connected and says that it serves.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long an address that is in doubt may take to say that it serves.
const CHECK_TIMEOUT: Duration = Duration::from_millis(500);

/// How often a peer is asked whether it is still there, and how long it may take to say so: it may have gone without a
/// word, with the machine it ran on.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest answer that is read, in bytes.
const ANSWER_LIMIT: usize = 4 * 1024 * 1024;

/// A message without content, as it is sent: not compressed, 0 bytes (`PROTOCOL-HTTP2.md` of gRPC).
const EMPTY_MESSAGE: [u8; 5] = [0; 5];

/// A connection whose peer serves.
pub(super) struct Connection {
    pub(super) sender: Sender,
    authority: Authority,
    /// Ends with the connection.
    ended: JoinHandle<()>,
}

/// What sends requests over a connection, side by side.
pub(super) type Sender = SendRequest<Full<Bytes>>;

/// Why there is no answer.
pub(super) enum Failure {
    /// The peer did not get the request, or says that it did nothing about it.
    NotSent,
    /// Nobody knows what became of it.
    Lost(Box<dyn Error + Send + Sync>),
}

impl Connection {
    /// Connects, and asks whether the peer serves: one that takes connections and never answers is of no use.
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
            if connection.serves().await { Ok(connection) } else { Err("it does not serve".to_owned()) }
        };
        time::timeout(CONNECT_TIMEOUT, open).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
    }

    /// Waits until the connection has ended.
    pub(super) async fn ended(&mut self) {
        let _ = (&mut self.ended).await;
    }

    /// Whether the peer says, in time, that it serves.
    pub(super) async fn still_serves(&self) -> bool {
        !self.sender.is_closed() && time::timeout(CHECK_TIMEOUT, self.serves()).await.unwrap_or(false)
    }

    /// Asks for the peer's health (`grpc.health.v1`); one that knows no such question is taken for well.
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
                let answer = response.into_body().to_bytes();
                let answer =
                    answer.get(EMPTY_MESSAGE.len()..).and_then(|answer| HealthCheckResponse::decode(answer).ok());
                answer.is_some_and(|answer| answer.status() == ServingStatus::Serving)
            }
            _ => false,
        }
    }
}

/// Sends a request and reads the whole answer.
pub(super) async fn exchange(
    mut sender: Sender,
    request: Request<Full<Bytes>>,
) -> Result<Response<Collected<Bytes>>, Failure> {
    let response = sender.try_send_request(request).await.map_err(|mut error| {
        let sent = error.take_message().is_none();
        let error = error.into_error();
        if sent && !is_refusal(&error) { Failure::Lost(error.into()) } else { Failure::NotSent }
    })?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_LIMIT).collect().await.map_err(Failure::Lost)?;
    Ok(Response::from_parts(head, body))
}

/// Whether the peer says that it did nothing about the request: RFC 9113, sections 6.8 (GOAWAY) and 8.7.
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
