//! A service started inside the test, with its own database.

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

/// How long an operation may take before the test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running service and a client for it.
pub struct App {
    /// The address that serves requests.
    pub http: SocketAddr,
    /// The address that serves gRPC, if there is one.
    pub grpc: Option<SocketAddr>,
    /// The address that serves probes and metrics.
    pub admin: SocketAddr,
    client: reqwest::Client,
    /// The service's own runtime. Shutting it down ends its tasks and their database connections.
    runtime: Option<Runtime>,
}

impl App {
    /// Starts the service on free ports, with the database of a test.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start<S: Clone + Send + Sync + 'static>(
        service: &'static Service<S>,
        database: &PgConnectOptions,
    ) -> Self {
        Self::start_on(service, database_url(database)).await
    }

    /// Starts the service with the database of this URL.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start_on<S: Clone + Send + Sync + 'static>(service: &'static Service<S>, database: String) -> Self {
        Self::start_with_peers(service, database, Vec::new()).await
    }

    /// Starts the service with the URLs of its peers.
    ///
    /// # Panics
    /// Panics if it does not start.
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

    /// Creates a request for [`send`](Self::send).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.http))
    }

    /// Sends a request.
    ///
    /// # Panics
    /// Panics if there is no response.
    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("a complete body").to_vec();
        Answer { status, headers, body }
    }

    /// Sends `GET`.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Sends `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// Sends `DELETE`.
    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Sends `GET` to the admin port.
    pub async fn admin(&self, path: &str) -> Answer {
        self.send(self.client.get(format!("http://{}{path}", self.admin))).await
    }

    /// Blocks the service's main thread, which serves no requests, until the returned sender is dropped.
    ///
    /// # Panics
    /// Panics if the service has stopped.
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

    /// Follows the pages of a list to the end. Returns the rows of each page.
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

    /// Sends these bytes on a new connection, then reads the response until the connection is closed.
    ///
    /// # Panics
    /// Panics if the connection is reset before the response is read, or not closed after it.
    pub async fn raw(&self, bytes: &[u8]) -> Answer {
        let exchange = async {
            let mut stream = TcpStream::connect(self.http).await?;
            stream.write_all(bytes).await?;
            let mut response = Vec::new();
            stream.read_to_end(&mut response).await?;
            io::Result::Ok(response)
        };
        let response = time::timeout(DEADLINE, exchange).await.expect("the connection is closed in time");
        Answer::parse(&response.expect("no reset"))
    }
}

impl Drop for App {
    /// Waits until the service has stopped, so that the test's database can be dropped.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime cannot be waited for inside another one.
            let _ = thread::spawn(move || runtime.shutdown_timeout(DEADLINE)).join();
        }
    }
}

/// Returns `DATABASE_URL` with the name of the test's database. Converting the options to a URL would lose a Unix
/// socket.
///
/// # Panics
/// Panics if the variable is not set.
#[must_use]
pub fn database_url(options: &PgConnectOptions) -> String {
    let url = env::var("DATABASE_URL").expect("DATABASE_URL names an ephemeral server; `make test` starts one");
    let mut url = Url::parse(&url).expect("DATABASE_URL is a URL");
    url.set_path(options.get_database().expect("the test has a database"));
    url.into()
}

/// A response with its whole body.
#[derive(Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Vec<u8>,
}

#[expect(clippy::must_use_candidate, reason = "an assertion is useful by itself")]
impl Answer {
    /// Parses the bytes of a response.
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("an HTTP/1 response");
        let (head, body) = (String::from_utf8_lossy(&bytes[..end]), bytes[end + 4..].to_vec());
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status line");
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(':').expect("a header");
            (name.parse::<HeaderName>().expect("a name"), value.trim().parse::<HeaderValue>().expect("a value"))
        });
        Self { status, headers: headers.collect(), body }
    }

    /// Returns the value of a header.
    ///
    /// # Panics
    /// Panics if it is not ASCII.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("an ASCII value"))
    }

    /// Returns the body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Returns the JSON body, and checks the status.
    ///
    /// # Panics
    /// Panics if the status is different or the body is not JSON.
    #[track_caller]
    pub fn json(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(self.header("x-request-id").is_some_and(|id| !id.is_empty()));
        serde_json::from_slice(&self.body).expect("a JSON body")
    }

    /// Returns the rows of a page.
    ///
    /// # Panics
    /// Panics if the response is not a page.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        self.json(200).as_array().expect("an array").clone()
    }

    /// Returns the `ETag`.
    ///
    /// # Panics
    /// Panics if there is none.
    #[must_use]
    #[track_caller]
    pub fn etag(&self) -> String {
        self.header("etag").expect("an ETag").to_owned()
    }

    /// Returns the path of the next page, if there is one.
    ///
    /// # Panics
    /// Panics if the `Link` is malformed.
    #[must_use]
    #[track_caller]
    pub fn next(&self) -> Option<String> {
        let link = self.header("link")?;
        let path = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\""));
        let path = path.filter(|path| path.starts_with('/'));
        Some(path.unwrap_or_else(|| panic!("not a relative link: {link}")).to_owned())
    }

    /// Returns the body of a problem, and checks the status and the members that every problem has.
    ///
    /// # Panics
    /// Panics if the response is not such a problem.
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

    /// Returns the invalid parts that a 422 lists: pointers into the body, or names of parameters.
    ///
    /// # Panics
    /// Panics if the response is not a 422 or an error has neither.
    #[track_caller]
    pub fn faults(&self) -> Vec<String> {
        let problem = self.problem(422);
        let faults = problem["errors"].as_array().expect("a list of errors").iter();
        let place = |fault: &Value| Some(fault["pointer"].as_str().or(fault["parameter"].as_str())?.to_owned());
        faults
            .map(|fault| place(fault).unwrap_or_else(|| panic!("an error without a pointer or parameter: {problem}")))
            .collect()
    }
}
