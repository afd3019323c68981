//! A service of the smallest kind, which keeps the contract with whatever runs it and has no database: it answers every
//! request with what it was asked, and by whom it was answered.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;

use crate::cli::Serve;

/// Where it listens.
pub struct Bound {
    /// For requests.
    pub http: SocketAddr,
    /// For probes.
    pub admin: SocketAddr,
    http_listener: TcpListener,
    admin_listener: TcpListener,
}

impl Bound {
    /// Listens.
    ///
    /// # Errors
    /// Where an address is taken.
    pub async fn new(args: &Serve) -> io::Result<Self> {
        let http_listener = TcpListener::bind(args.http_addr).await?;
        let admin_listener = TcpListener::bind(args.admin_addr).await?;
        let (http, admin) = (http_listener.local_addr()?, admin_listener.local_addr()?);
        Ok(Self { http, admin, http_listener, admin_listener })
    }

    /// Serves until `stop` says so and the cluster has had time to take notice.
    pub async fn serve(self, args: &Serve, stop: CancellationToken) {
        let name: Arc<str> = args.name.as_str().into();
        tokio::spawn(listen(self.http_listener, move |path| {
            let answer = json!({ "service": &*name, "path": path }).to_string();
            (StatusCode::OK, answer)
        }));
        let draining = Arc::new(AtomicBool::new(false));
        let drains = draining.clone();
        tokio::spawn(listen(self.admin_listener, move |path| match path {
            "/readyz" if drains.load(Ordering::Relaxed) => {
                (StatusCode::SERVICE_UNAVAILABLE, r#""draining""#.to_owned())
            }
            "/livez" | "/readyz" | "/metrics" => (StatusCode::OK, String::new()),
            _ => (StatusCode::NOT_FOUND, String::new()),
        }));
        stop.cancelled().await;
        draining.store(true, Ordering::Relaxed);
        time::sleep(args.drain_delay).await;
    }
}

async fn listen(listener: TcpListener, answer: impl Fn(&str) -> (StatusCode, String) + Clone + Send + Sync + 'static) {
    loop {
        // One that is gone before it was taken is no loss.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let answer = answer.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (status, body) = answer(request.uri().path());
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service));
    }
}
