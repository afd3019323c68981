//! The server.

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

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It is answered as it should be: GET 200, POST 201 with its own body.
    Answered,
    /// The same, and the connection is closed, which the answer says.
    Last,
    /// The connection is closed instead.
    Dropped,
    /// It is answered after so long.
    Late(Duration),
    /// It is answered with this status.
    Refused(StatusCode),
    /// It is answered with another body.
    Wrong,
}

/// A running server; it ends with the test.
pub struct Server {
    pub address: SocketAddr,
    /// Requests that have arrived.
    pub requests: Arc<AtomicU64>,
    /// Connections that were made.
    pub connections: Arc<AtomicU64>,
    /// The idempotency keys that have come.
    keys: Arc<Mutex<BTreeSet<String>>>,
}

impl Server {
    /// Starts a server; `fate` says what becomes of the nth request, counted from 0.
    pub async fn start(fate: impl Fn(u64) -> Fate + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (requests, connections, fate) = (Arc::new(AtomicU64::new(0)), Arc::default(), Arc::new(fate));
        let keys = Arc::<Mutex<BTreeSet<String>>>::default();
        let server =
            Self { address, requests: requests.clone(), connections: Arc::clone(&connections), keys: keys.clone() };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::Relaxed);
                let (requests, fate, keys) = (requests.clone(), fate.clone(), keys.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    if let Some(key) = request.headers().get("idempotency-key") {
                        keys.lock().expect("no panics").insert(key.to_str().expect("text").to_owned());
                    }
                    let fate = fate(requests.fetch_add(1, Ordering::Relaxed));
                    answer(request, fate)
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        server
    }

    /// The different idempotency keys that have come.
    pub fn keys(&self) -> BTreeSet<String> {
        self.keys.lock().expect("no panics").clone()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn answer(request: Request<Incoming>, fate: Fate) -> Result<Response<Full<Bytes>>, &'static str> {
    let created = *request.method() == Method::POST;
    let body = request.into_body().collect().await.map_err(|_| "half a request")?.to_bytes();
    let mut response = Response::new(Full::from(if body.is_empty() { "[]".into() } else { body }));
    if created {
        *response.status_mut() = StatusCode::CREATED;
    }
    match fate {
        Fate::Answered => {}
        Fate::Last => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Fate::Dropped => return Err("dropped"),
        Fate::Late(by) => time::sleep(by).await,
        Fate::Refused(status) => *response.status_mut() = status,
        Fate::Wrong => *response.body_mut() = Full::from("{}"),
    }
    Ok(response)
}
