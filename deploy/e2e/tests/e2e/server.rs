//! A small HTTP server whose replies the tests choose.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONNECTION};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, time};

/// How the server replies to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply {
    /// The expected response: 200 for a GET, 201 with the body of the request for a POST.
    Normal,
    /// Like `Normal`, with `Connection: close`.
    NormalThenClose,
    /// The connection is closed without a response.
    Drop,
    /// Like `Normal`, after a delay.
    Delayed(Duration),
    /// A response with this status.
    Status(StatusCode),
    /// A response with another body.
    WrongBody,
}

/// A running server, which stops at the end of the test.
pub struct Server {
    pub address: SocketAddr,
    /// The number of requests that have arrived.
    pub requests: Arc<AtomicU64>,
    /// The number of connections that were made.
    pub connections: Arc<AtomicU64>,
    /// The distinct idempotency keys that have arrived.
    keys: Arc<Mutex<BTreeSet<String>>>,
    /// The distinct `Authorization` headers that have arrived.
    authorizations: Arc<Mutex<BTreeSet<String>>>,
}

/// A path where each response has a new token.
pub const TOKENS: &str = "/token";

impl Server {
    /// Starts a server. `reply` chooses the reply to the nth request, counted from 0.
    pub async fn start(reply: impl Fn(u64) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (requests, connections, reply) = (Arc::new(AtomicU64::new(0)), Arc::default(), Arc::new(reply));
        let [keys, authorizations] = [(); 2].map(|()| Arc::<Mutex<BTreeSet<String>>>::default());
        let server = Self {
            address,
            requests: requests.clone(),
            connections: Arc::clone(&connections),
            keys: keys.clone(),
            authorizations: authorizations.clone(),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (requests, reply) = (requests.clone(), reply.clone());
                let headers = [("idempotency-key", keys.clone()), ("authorization", authorizations.clone())];
                let service = service_fn(move |request: Request<Incoming>| {
                    for (name, seen) in &headers {
                        if let Some(value) = request.headers().get(*name) {
                            seen.lock().expect("no panics").insert(value.to_str().expect("text").to_owned());
                        }
                    }
                    let number = requests.fetch_add(1, Ordering::Relaxed);
                    respond(request, number, reply(number))
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    /// The distinct idempotency keys that have arrived.
    pub fn keys(&self) -> BTreeSet<String> {
        self.keys.lock().expect("no panics").clone()
    }

    /// The distinct `Authorization` headers that have arrived.
    pub fn authorizations(&self) -> BTreeSet<String> {
        self.authorizations.lock().expect("no panics").clone()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn respond(request: Request<Incoming>, number: u64, reply: Reply) -> Result<Response<Full<Bytes>>, &'static str> {
    if request.uri().path() == TOKENS && reply == Reply::Normal {
        return Ok(Response::new(Full::from(format!(r#"{{"access_token":"token-{number}"}}"#))));
    }
    let created = *request.method() == Method::POST;
    let body = request.into_body().collect().await.map_err(|_| "the request is incomplete")?.to_bytes();
    let mut response = Response::new(Full::from(if body.is_empty() { "[]".into() } else { body }));
    if created {
        *response.status_mut() = StatusCode::CREATED;
    }
    match reply {
        Reply::Normal => {}
        Reply::NormalThenClose => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Reply::Drop => return Err("dropped"),
        Reply::Delayed(by) => time::sleep(by).await,
        Reply::Status(status) => *response.status_mut() = status,
        Reply::WrongBody => *response.body_mut() = Full::from("{}"),
    }
    Ok(response)
}
