//! A service whose handler is the test's, and one that speaks byte by byte.

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

/// A service; its end is that of its connections.
pub(super) struct Stub {
    pub(super) address: SocketAddr,
    port: Port,
    connections: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    end: watch::Sender<bool>,
}

pub(super) fn whole(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).map_err(|never: Infallible| match never {}).boxed()
}

impl Stub {
    /// Answers each request with what this makes of it.
    pub(super) async fn answering<F>(handler: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        Self::at(Port::free(), handler).await
    }

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
                    let answer = handler(request);
                    async move { Ok::<_, Infallible>(answer.await) }
                });
                let builder = Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
            }
        };
        Self::listening(port, requests, serve).await
    }

    /// Answers every request with this text.
    pub(super) async fn saying(text: &'static str) -> Self {
        Self::answering(move |_| async move { Response::new(whole(text)) }).await
    }

    /// Gives each connection, with its number from 0, to this.
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

    /// Connections that were made to it.
    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Requests that came.
    pub(super) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    /// Ends it, as a killed process ends: returns once nobody listens any more, and its port to somebody who may.
    pub(super) async fn kill(self) -> Port {
        self.end.send_replace(true);
        self.end.closed().await;
        self.port
    }
}

/// Reads a request's head, and what has come with it.
pub(super) async fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.windows(4).any(|window| window == b"\r\n\r\n") {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Answers a request that was read.
pub(super) async fn write_answer(stream: &mut TcpStream, body: &str) {
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}
