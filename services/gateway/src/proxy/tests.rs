//! Tests of the proxy in-process, over real sockets, with stub services.

mod auth;
mod backpressure;
mod balancing;
mod bodies;
mod closing;
mod conformance;
mod connections;
mod ejections;
mod fallback;
mod grpc;
mod hostile;
mod http2_failures;
mod http2_peers;
mod limits;
mod observing;
mod outcomes;
mod retries;
mod route_changes;
mod routing;
mod sharing;
mod smuggling;
mod streaming;
mod stub;
mod upgrades;

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use clap::Parser;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::{Registry, TextEncoder};
use runtime::{
    Checks, Lifecycle, Problem, Running,
    process::{Bound, ProcessArgs},
    server::{Server, Workers},
};
use serde_json::Value;
use test_support::process::{TIMEOUT, eventually};
use tokio::{net::TcpStream, sync::watch};

use super::{Gateway, ProxyDeps};
use crate::{
    access_log::{AccessLog, Writer},
    auth::{Access, Authenticator, AuthenticatorArgs},
    cli::ProxyArgs,
    discovery::Service,
    metrics::Metrics,
    policy::{Policy, PolicyArgs},
};
use stub::Stub;

/// A running gateway whose discovery is under the test's control.
struct TestGateway {
    address: SocketAddr,
    services: watch::Sender<Arc<[Service]>>,
    registry: Registry,
    log: Sink,
    lifecycle: Lifecycle,
    running: Running,
    _writer: Writer,
}

/// Collects the access log.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("a lock").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[derive(Parser)]
#[command(args_override_self = true)]
struct Flags {
    #[command(flatten)]
    process: ProcessArgs,
    #[command(flatten)]
    proxy: ProxyArgs,
    #[command(flatten)]
    policy: PolicyArgs,
    #[command(flatten)]
    auth: AuthenticatorArgs,
}

fn service(name: &str, paths: &[&str], http: &[SocketAddr]) -> Service {
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let idempotency_keys = vec!["/test".to_owned()];
    Service { name: name.to_owned(), paths, http: http.to_vec(), grpc: None, idempotency_keys, access: Arc::default() }
}

/// A service with two endpoints.
fn both(first: SocketAddr, second: SocketAddr) -> Vec<Service> {
    vec![service("test", &["/test"], &[first, second])]
}

impl TestGateway {
    /// Starts a gateway in front of one service, `test`, at `/test`.
    fn with(flags: &[&str], endpoints: &[&Stub]) -> Self {
        let endpoints: Vec<_> = endpoints.iter().map(|stub| stub.address).collect();
        Self::of(flags, vec![service("test", &["/test"], &endpoints)])
    }

    /// Starts a gateway in front of several services.
    fn of(flags: &[&str], services: Vec<Service>) -> Self {
        let fixed = ["gateway", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--drain-delay=0s"];
        let Flags { process, proxy, policy, auth } = Flags::parse_from(fixed.iter().chain(flags));
        let bound = Bound::new(&process).expect("free ports");
        let (sender, receiver) = watch::channel(services.into());
        let registry = Registry::new();
        let metrics = Metrics::new(&registry).expect("metrics");
        let (log, workers) = (Sink::default(), 2);
        let (access_log, writer) = AccessLog::start(workers, metrics.log_dropped.clone(), log.clone()).expect("a log");
        let deps = ProxyDeps {
            limits: proxy.limits(),
            policy: Policy::new(&policy).expect("a policy"),
            authenticator: Arc::new(Authenticator::start(&auth, &registry).expect("an authenticator")),
            services: receiver,
            metrics,
            access_log: Some(access_log),
            workers,
            lifecycle: bound.lifecycle().clone(),
            tasks: bound.tasks().clone(),
        };
        let lifecycle = bound.lifecycle().clone();
        let gateway = Gateway::start(deps);
        let server = Server::default().strict().on(Workers::start(workers).expect("threads"));
        let server = proxy.limit_connections(server, &policy);
        let checks = Checks { live: Arc::new(|| Ok(())), ready: Arc::new(|| Ok(())) };
        let running = bound.start(server, gateway, checks, registry.clone());
        Self { address: running.http, services: sender, registry, log, lifecycle, running, _writer: writer }
    }

    /// Publishes a list of services.
    fn publish(&self, services: Vec<Service>) {
        self.services.send_replace(services.into());
    }

    /// Publishes a list of services, and waits until it is applied.
    async fn apply(&self, mut services: Vec<Service>) {
        static MARKERS: AtomicUsize = AtomicUsize::new(0);
        let marker = format!("/marker-{}", MARKERS.fetch_add(1, Ordering::Relaxed));
        let access = Arc::new(Access::new(Some(&serde_json::json!({ "mode": "none" }))));
        services.push(Service { access, ..service("~marker", &[&marker], &[]) });
        self.publish(services);
        let what = "the services are applied";
        eventually(what, TIMEOUT, async || (self.get(&marker).await.status == 503).then_some(())).await;
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> TestResponse {
        send(self.address, request).await
    }

    async fn get(&self, path: &str) -> TestResponse {
        self.send(request(Method::GET, path, "")).await
    }

    async fn post(&self, path: &str, body: &str) -> TestResponse {
        self.send(request(Method::POST, path, body)).await
    }

    /// The value of a metric, given as name and labels.
    fn metric(&self, name: &str) -> usize {
        let text = TextEncoder::new().encode_to_string(&self.registry.gather()).expect("text");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.unwrap_or_else(|| panic!("{name} is missing in {text}"))
    }

    async fn metric_becomes(&self, name: &str, value: usize) {
        let what = format!("{name} is {value}");
        eventually(&what, TIMEOUT, async || (self.metric(name) == value).then_some(())).await;
    }

    /// Waits until the access log has at least `count` lines, and returns all of them.
    async fn log(&self, count: usize) -> Vec<Value> {
        eventually("the access log is written", TIMEOUT, async || {
            let text = self.log.0.lock().expect("a lock").clone();
            let lines: Vec<Value> = text
                .split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty())
                .map(|line| serde_json::from_slice(line).expect("JSON"))
                .collect();
            (lines.len() >= count).then_some(lines)
        })
        .await
    }
}

/// A response with its complete body.
#[derive(Debug)]
struct TestResponse {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: Option<HeaderMap>,
}

impl TestResponse {
    async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (parts, body) = response.into_parts();
        let body = body.collect().await?;
        let trailers = body.trailers().cloned();
        Ok(Self { status: parts.status, headers: parts.headers, body: body.to_bytes(), trailers })
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).expect("text")
    }

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The status and kind of a problem response; the kind is the last segment of its type.
    #[track_caller]
    fn problem(&self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert!(self.headers.contains_key("x-request-id"), "{self:?}");
        let problem: Value = serde_json::from_slice(&self.body).expect("JSON");
        assert_eq!(problem["status"], self.status.as_u16());
        let kind = problem["type"].as_str().expect("a type").rsplit('/').next().unwrap_or_default().to_owned();
        (self.status.as_u16(), kind)
    }
}

fn request(method: Method, path: &str, body: &str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(path).header("host", "shop.example");
    request.body(Full::new(body.to_owned().into())).expect("a request")
}

/// A POST with an `Idempotency-Key`.
fn keyed(path: &str, body: &str) -> Request<Full<Bytes>> {
    let mut request = request(Method::POST, path, body);
    request.headers_mut().insert("idempotency-key", http::HeaderValue::from_static("k"));
    request
}

async fn http_1<B>(address: SocketAddr) -> conn::http1::SendRequest<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
{
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (sender, connection) = conn::http1::handshake(TokioIo::new(stream)).await.expect("a connection");
    tokio::spawn(connection.with_upgrades());
    sender
}

async fn http_2<B>(address: SocketAddr) -> conn::http2::SendRequest<B>
where
    B: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + Unpin + 'static,
{
    let stream = TcpStream::connect(address).await.expect("a connection");
    let handshake = conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (sender, connection) = handshake.await.expect("an HTTP/2 connection");
    tokio::spawn(connection);
    sender
}

/// Sends a request on a new connection.
async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> TestResponse {
    let response = http_1(address).await.send_request(request).await.expect("a response");
    TestResponse::read(response).await.expect("a complete response")
}

/// How long a test waits to see that something does not happen.
const MOMENT: Duration = Duration::from_millis(100);
