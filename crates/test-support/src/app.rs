//! A service started inside the test, on its own database.

use std::{env, io, net::SocketAddr, sync::mpsc, thread, time::Duration};

use chassis::{ServeArgs, Service, grpc::PeerUrl, process::ProcessArgs};
use reqwest::{
    Method, RequestBuilder, Url,
    header::{HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
    sync::oneshot,
    time,
};

pub use futures_util::future::join_all;

/// How long anything may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running service, and a client of it.
pub struct App {
    /// Where it serves requests.
    pub http: SocketAddr,
    /// Where it serves gRPC, if it does.
    pub grpc: Option<SocketAddr>,
    /// Where it serves probes and metrics.
    pub admin: SocketAddr,
    client: reqwest::Client,
    /// The service's own: its end is the end of the service's tasks and of their database connections.
    runtime: Option<Runtime>,
}

impl App {
    /// Starts the service on free ports, and on a test's own database.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start<S: Clone + Send + Sync + 'static>(
        service: &'static Service<S>,
        database: &PgConnectOptions,
    ) -> Self {
        Self::start_on(service, database_url(database)).await
    }

    /// Starts the service on the database of this URL.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_on<S: Clone + Send + Sync + 'static>(service: &'static Service<S>, database: String) -> Self {
        Self::start_with_peers(service, database, Vec::new()).await
    }

    /// Starts the service and tells it where its peers are.
    ///
    /// # Panics
    /// Where it does not start.
    pub async fn start_with_peers<S: Clone + Send + Sync + 'static>(
        service: &'static Service<S>,
        database: String,
        peers: Vec<(&'static str, PeerUrl)>,
    ) -> Self {
        let process = ProcessArgs {
            http_addr: ([127, 0, 0, 1], 0).into(),
            admin_addr: ([127, 0, 0, 1], 0).into(),
            drain_delay: Duration::ZERO,
            shutdown_timeout: DEADLINE,
            log_level: "info".to_owned(),
            otel_exporter_otlp_endpoint: None,
        };
        let args = ServeArgs {
            process,
            grpc_addr: ([127, 0, 0, 1], 0).into(),
            database_url: Some(database.into()),
            database_pool_size: 3,
            peers,
        };
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let running = runtime.spawn(service.start(args)).await.expect("no panic").expect("the service starts");
        let client = reqwest::Client::builder().no_proxy().redirect(redirect::Policy::none()).timeout(DEADLINE);
        let client = client.build().expect("a client");
        let (http, grpc, admin) = (running.http, running.grpc, running.admin);
        Self { http, grpc, admin, client, runtime: Some(runtime) }
    }

    /// A request to make ready and to [`send`](Self::send).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.http))
    }

    /// Sends a request.
    ///
    /// # Panics
    /// Where no answer comes.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("the whole answer").to_vec();
        Answer { status, headers, body }
    }

    /// `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// `POST` of a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// `DELETE`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// `GET` on the admin port.
    pub async fn admin(&self, path: &str) -> Answer {
        self.send(self.client.get(format!("http://{}{path}", self.admin))).await
    }

    /// Keeps the service's first thread busy, which serves no requests, for as long as what is returned is there.
    ///
    /// # Panics
    /// Where it is not even free once.
    pub async fn keep_busy(&self) -> mpsc::Sender<()> {
        let (end, ended) = mpsc::channel();
        let (begin, is_busy) = oneshot::channel();
        self.runtime.as_ref().expect("it runs").spawn(async move {
            let _ = begin.send(());
            let _ = ended.recv();
        });
        is_busy.await.expect("the thread is free");
        end
    }

    /// Follows a list to its end: the rows of each of its pages.
    pub async fn walk(&self, path: &str) -> Vec<Vec<Value>> {
        let mut pages = Vec::new();
        let mut next = Some(path.to_owned());
        while let Some(path) = next {
            let page = self.get(&path).await;
            next = page.next();
            pages.push(page.rows());
        }
        pages
    }

    /// Sends these bytes on a connection of their own, all of them before it reads the answer.
    ///
    /// # Panics
    /// Where the connection is dropped before the answer is read, or not closed after it.
    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.http).await?;
            stream.write_all(bytes).await?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = time::timeout(DEADLINE, exchange).await.expect("the connection is closed in time");
        Answer::parse(&answer.expect("the connection is not dropped"))
    }
}

impl Drop for App {
    /// Waits for the service's end, so that the test's database can be dropped.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime cannot be waited for inside another one.
            let _ = thread::spawn(move || runtime.shutdown_timeout(DEADLINE)).join();
        }
    }
}

/// `DATABASE_URL` with the name of the test's own database: the options cannot be turned into a URL without losing a
/// Unix socket.
///
/// # Panics
/// Where there is no such variable.
#[must_use]
pub fn database_url(options: &PgConnectOptions) -> String {
    let url = env::var("DATABASE_URL").expect("DATABASE_URL names a throwaway server; `make test` starts one");
    let mut url = Url::parse(&url).expect("DATABASE_URL is a URL");
    url.set_path(options.get_database().expect("the test has a database"));
    url.into()
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

#[expect(clippy::must_use_candidate, reason = "an assertion is of use by itself")]
impl Answer {
    /// Reads what came over a socket.
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an HTTP/1 answer");
        let (head, body) = (String::from_utf8_lossy(&bytes[..end]), bytes[end + 4..].to_vec());
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').expect("a header");
            (name.parse::<HeaderName>().expect("a name"), value.trim().parse::<HeaderValue>().expect("a value"))
        });
        Self { status, headers: headers.collect(), body }
    }

    /// A header's value.
    ///
    /// # Panics
    /// Where it is not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("an ASCII value"))
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON body of an answer that must have this status.
    ///
    /// # Panics
    /// Where it has another one, or is not JSON.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// The rows of a page.
    ///
    /// # Panics
    /// Where it is none.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        self.json(200).as_array().expect("an array").clone()
    }

    /// The `ETag` of an answer that must have one.
    ///
    /// # Panics
    /// Where it has none.
    #[must_use]
    #[track_caller]
    pub fn etag(&self) -> String {
        self.header("etag").expect("an ETag").to_owned()
    }

    /// Where the next page is: a path, for links are relative.
    ///
    /// # Panics
    /// Where the `Link` is not of this form.
    #[must_use]
    #[track_caller]
    pub fn next(&self) -> Option<String> {
        let link = self.header("link")?;
        let path = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        let path = path.filter(|path| path.starts_with('/'));
        Some(path.unwrap_or_else(|| panic!("not a relative link: {link}")).to_owned())
    }

    /// The body of a refusal that must have this status, and everything that each refusal has.
    ///
    /// # Panics
    /// Where it is not so.
    #[track_caller]
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text());
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
        let problem: Value = serde_json::from_slice(&self.body).expect("a JSON body");
        assert_eq!(problem["status"], status);
        for member in ["type", "title", "detail"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem}");
        }
        problem
    }

    /// The places that a 422 names: pointers into the body, or else parameters.
    ///
    /// # Panics
    /// Where it is no 422, or a fault has no place.
    #[track_caller]
    pub fn faults(&self) -> Vec<String> {
        let problem = self.problem(422);
        let faults = problem["errors"].as_array().expect("a list of faults").iter();
        let place = |fault: &Value| Some(fault["pointer"].as_str().or(fault["parameter"].as_str())?.to_owned());
        faults.map(|fault| place(fault).unwrap_or_else(|| panic!("a fault without a place: {problem}"))).collect()
    }
}
