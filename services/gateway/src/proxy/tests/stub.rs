//! Stub services: one with a request handler, and one that reads and writes raw bytes.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use test_support::port::Port;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};

pub(super) type Body = BoxBody<Bytes, std::io::Error>;

/// A stub service, which closes its connections when it is dropped.
pub(super) struct Stub {
    pub(super) address: SocketAddr,
    port: Port,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    end: watch::Sender<bool>,
}

pub(super) fn full_body(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed()
}

impl Stub {
    /// Serves requests with a handler.
    pub(super) async fn responding<F>(handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::at(Port::free(), handler).await
    }

    /// Serves requests on a given port.
    pub(super) async fn at<F>(
        port: Port,
        handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let requests = Arc::<AtomicUsize>::default();
        let count = requests.clone();
        let serve = move |stream: TcpStream, _| {
            let (handler, count) = (handler.clone(), count.clone());
            async move {
                let service = service_fn(move |request| {
                    count.fetch_add(1, Ordering::SeqCst);
                    let response = handler(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let builder = Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            }
        };
        Self::listening(port, requests, serve).await
    }

    /// Responds to every request with the same text.
    pub(super) async fn text(text: &'static str) -> Self {
        Self::responding(move |_| async move { Response::new(full_body(text)) }).await
    }

    /// Passes each connection, with its number from 0, to a function.
    pub(super) async fn raw<F>(serve: impl Fn(TcpStream, usize) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::listening(Port::free(), Arc::default(), serve).await
    }

    async fn listening<F>(
        port: Port,
        requests: Arc<AtomicUsize>,
        serve: impl Fn(TcpStream, usize) -> F + Clone + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = port.listen().await;
        let connections = Arc::<AtomicUsize>::default();
        let (end, mut ended) = watch::channel(false);
        let count = connections.clone();
        tokio::spawn(async move {
            let mut tasks = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let (stream, _) = accepted.expect("a connection");
                        let number = count.fetch_add(1, Ordering::SeqCst);
                        tasks.spawn(serve(stream, number));
                    }
                    _ = ended.changed() => return,
                }
            }
        });
        Self { address: port.address, port, connections, requests, end }
    }

    /// The number of connections so far.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The number of requests so far.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Ends abruptly, like a killed process. Returns the port once nothing listens on it anymore.
    pub(super) async fn kill(self) -> Port {
        self.end.send_replace(true);
        self.end.closed().await;
        self.port
    }
}

/// Reads requests, and closes the connection without a response.
pub(super) async fn resetting(count: &Arc<AtomicUsize>) -> Stub {
    let count = count.clone();
    Stub::raw(move |mut stream, _| {
        let count = count.clone();
        async move {
            if read_head(&mut stream).await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await
}

/// Reads a request head, and whatever arrives together with it.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Responds to a request that has been read.
pub(super) async fn write_response(stream: &mut TcpStream, body: &str) {
    let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(response.as_bytes()).await;
}
