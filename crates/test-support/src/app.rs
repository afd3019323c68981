//! A service started inside the test, with its own database.

mod response;

use std::{env, io, net::SocketAddr, sync::mpsc, thread, time::Duration};

use chassis::{AllowFrom, AuthArgs, ServeArgs, Service, grpc::PeerUrl, process::ProcessArgs};
use clap::Args;
use reqwest::{Method, RequestBuilder, Url, redirect};
use serde_json::Value;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    runtime::{Builder, Runtime},
    sync::oneshot,
    time,
};

pub use self::response::Response;
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
    pub async fn start<S: Clone + Send + Sync + 'static, A: Args + Default + Send + 'static>(
        service: &'static Service<S, A>,
        database: &PgConnectOptions,
    ) -> Self {
        Self::start_on(service, database_url(database)).await
    }

    /// Starts the service with settings of its own.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start_with_settings<S: Clone + Send + Sync + 'static, A: Args + Send + 'static>(
        service: &'static Service<S, A>,
        database: &PgConnectOptions,
        settings: A,
    ) -> Self {
        Self::start_with(service, database_url(database), settings, Vec::new()).await
    }

    /// Starts the service with the database of this URL.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start_on<S: Clone + Send + Sync + 'static, A: Args + Default + Send + 'static>(
        service: &'static Service<S, A>,
        database: String,
    ) -> Self {
        Self::start_with_peers(service, database, Vec::new()).await
    }

    /// Starts the service with the URLs of its peers.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start_with_peers<S: Clone + Send + Sync + 'static, A: Args + Default + Send + 'static>(
        service: &'static Service<S, A>,
        database: String,
        peers: Vec<(&'static str, PeerUrl)>,
    ) -> Self {
        Self::start_with(service, database, A::default(), peers).await
    }

    async fn start_with<S: Clone + Send + Sync + 'static, A: Args + Send + 'static>(
        service: &'static Service<S, A>,
        database: String,
        settings: A,
        peers: Vec<(&'static str, PeerUrl)>,
    ) -> Self {
        Self::start_with_args(service, database, settings, |args| args.peers = peers).await
    }

    /// Starts the service with the database of this URL, settings of its own, and other arguments than usual.
    ///
    /// # Panics
    /// Panics if it does not start.
    pub async fn start_with_args<S: Clone + Send + Sync + 'static, A: Args + Send + 'static>(
        service: &'static Service<S, A>,
        database: String,
        settings: A,
        change: impl FnOnce(&mut ServeArgs<A>),
    ) -> Self {
        let process = ProcessArgs {
            http_addr: ([127, 0, 0, 1], 0).into(),
            admin_addr: ([127, 0, 0, 1], 0).into(),
            drain_delay: Duration::ZERO,
            shutdown_timeout: DEADLINE,
            log_level: "info".to_owned(),
            otel_exporter_otlp_endpoint: None,
        };
        let mut args = ServeArgs {
            process,
            grpc_addr: ([127, 0, 0, 1], 0).into(),
            database_url: Some(database.into()),
            database_pool_size: 5,
            auth: AuthArgs::default(),
            auth_allow_from: AllowFrom::default(),
            auth_token_dir: None,
            settings,
            peers: Vec::new(),
        };
        change(&mut args);
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
    pub async fn send(&self, request: RequestBuilder) -> Response {
        let response = request.send().await.expect("a response");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body = response.bytes().await.expect("a complete body").to_vec();
        Response { status, headers, body }
    }

    /// Sends `GET`.
    pub async fn get(&self, path: &str) -> Response {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends `POST` with a JSON body.
    pub async fn post(&self, path: &str, body: &Value) -> Response {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    /// Sends `PATCH` with a JSON body.
    pub async fn patch(&self, path: &str, body: &Value) -> Response {
        self.send(self.request(Method::PATCH, path).json(body)).await
    }

    /// Sends `DELETE`.
    pub async fn delete(&self, path: &str) -> Response {
        self.send(self.request(Method::DELETE, path)).await
    }

    /// Sends `GET` to the admin port.
    pub async fn admin(&self, path: &str) -> Response {
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
    pub async fn raw(&self, bytes: &[u8]) -> Response {
        let exchange = async {
            let mut stream = TcpStream::connect(self.http).await?;
            stream.write_all(bytes).await?;
            let mut response = Vec::new();
            stream.read_to_end(&mut response).await?;
            io::Result::Ok(response)
        };
        let response = time::timeout(DEADLINE, exchange).await.expect("the connection is closed in time");
        Response::parse(&response.expect("no reset"))
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
