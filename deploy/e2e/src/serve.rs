//! A minimal service without a database, which meets the contract of the operator. Each response contains the path of
//! the request and the name of the service.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use humantime::parse_duration;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address for requests
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Address for /livez, /readyz and /metrics
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
    /// The name in responses
    #[arg(long, env, value_name = "NAME", default_value = "e2e")]
    pub name: String,
    /// How long to keep serving after SIGTERM
    #[arg(long, env, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub drain_delay: Duration,
}

/// The addresses that it listens on.
pub struct Bound {
    /// For requests.
    pub http: SocketAddr,
    /// For probes.
    pub admin: SocketAddr,
    http_listener: TcpListener,
    admin_listener: TcpListener,
}

impl Bound {
    /// Starts to listen.
    ///
    /// # Errors
    /// Returns an error if an address cannot be bound.
    pub async fn new(args: &Serve) -> io::Result<Self> {
        let http_listener = TcpListener::bind(args.http_addr).await?;
        let admin_listener = TcpListener::bind(args.admin_addr).await?;
        let (http, admin) = (http_listener.local_addr()?, admin_listener.local_addr()?);
        Ok(Self { http, admin, http_listener, admin_listener })
    }

    /// Serves until `stop` is cancelled and the drain delay has passed, so that the cluster can stop sending requests.
    pub async fn serve(self, args: &Serve, stop: CancellationToken) {
        let name: Arc<str> = args.name.as_str().into();
        tokio::spawn(listen(self.http_listener, move |path| {
            let body = json!({ "service": &*name, "path": path }).to_string();
            (StatusCode::OK, body)
        }));
        let draining = Arc::new(AtomicBool::new(false));
        let is_draining = draining.clone();
        tokio::spawn(listen(self.admin_listener, move |path| match path {
            "/readyz" if is_draining.load(Ordering::Relaxed) => {
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

async fn listen(listener: TcpListener, respond: impl Fn(&str) -> (StatusCode, String) + Clone + Send + Sync + 'static) {
    loop {
        // A client that disconnected before it was accepted is ignored.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let respond = respond.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (status, body) = respond(request.uri().path());
            let mut response = Response::new(Full::new(Bytes::from(body)));
            *response.status_mut() = status;
            response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service));
    }
}
