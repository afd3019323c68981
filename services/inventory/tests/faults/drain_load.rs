//! SIGTERM under load: clients in closed loops count their requests and responses.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sqlx::PgPool;
use test_support::{
    process::{Signal, TIMEOUT, eventually},
    raw::Raw,
};
use tokio::{
    net::TcpStream,
    task::{JoinSet, yield_now},
};

use crate::{
    drain::{LONG, not_ready},
    service::{program, serve, url},
};

const ADD_ONE: &str = "PATCH /inventory/p HTTP/1.1\r\nhost: test\r\ncontent-type: application/json\r\n\
                       content-length: 11\r\n\r\n{\"delta\":1}";
const CLIENTS: usize = 40;
const STREAMS: usize = 8;
/// The number of responses before the signal is sent.
const WARM: u32 = 400;

/// The state that all clients share.
#[derive(Clone, Default)]
struct Load {
    answered: Arc<AtomicU32>,
    /// Whether the signal was sent.
    signalled: Arc<AtomicBool>,
    /// Whether the cluster has removed the endpoint: clients make no new connections.
    out_of_service: Arc<AtomicBool>,
}

impl Load {
    async fn warm(&self) {
        let warm = async || (self.answered.load(Ordering::Relaxed) >= WARM).then_some(());
        eventually("the load has started", TIMEOUT, warm).await;
    }

    fn count_response(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends requests on one connection after another, each until the server announces that it closes it. Panics if a
/// request gets no response.
async fn http_1(address: SocketAddr, load: Load) {
    while !load.out_of_service.load(Ordering::Acquire) {
        let mut connection = Raw::connect(address).await.expect("the service accepts connections");
        loop {
            connection.send(ADD_ONE).await.expect("the connection is open");
            let response = connection.response().await.expect("every request gets a response");
            assert_eq!(response.status, 200);
            load.count_response();
            if response.closes() {
                assert!(load.signalled.load(Ordering::Acquire), "closed before the signal");
                break;
            }
            yield_now().await;
        }
        connection.closed().await.expect("closed as announced");
    }
}

/// Like [`http_1`], with several concurrent requests on a connection, until GOAWAY.
async fn http_2(address: SocketAddr, load: Load) {
    while !load.out_of_service.load(Ordering::Acquire) {
        let stream = TcpStream::connect(address).await.expect("the service accepts connections");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an HTTP/2 connection");
        let mut tasks = JoinSet::new();
        for _ in 0..STREAMS {
            let (mut sender, load) = (sender.clone(), load.clone());
            tasks.spawn(async move {
                while sender.ready().await.is_ok() {
                    match sender.send_request(add_one()).await {
                        Ok(response) => {
                            assert_eq!(response.status(), 200);
                            response.into_body().collect().await.expect("a complete response");
                            load.count_response();
                        }
                        Err(error) if was_not_sent(&error) => return,
                        Err(error) => panic!("a request got no response: {error:?}"),
                    }
                }
            });
        }
        drop(sender);
        connection.await.expect("GOAWAY without an error");
        assert!(load.signalled.load(Ordering::Acquire), "closed before the signal");
        while let Some(client) = tasks.join_next().await {
            client.expect("no client panics");
        }
    }
}

fn add_one() -> Request<Full<Bytes>> {
    let request = Request::patch("http://test/inventory/p").header("content-type", "application/json");
    request.body(Full::from(r#"{"delta":1}"#)).expect("a valid request")
}

/// Whether GOAWAY arrived before the request was sent or says that it was not processed (RFC 9113, section 6.8).
fn was_not_sent(error: &hyper::Error) -> bool {
    let http_2 = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<h2::Error>());
    error.is_canceled()
        || http_2.is_some_and(|error| {
            error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR)
        })
}

/// Stops a service under load. Clients go on connecting for the time `notice`.
async fn stop_under_load(pool: &PgPool, drain: &str, notice: Duration) {
    let service = serve(&program(&url(pool)).variable("DRAIN_DELAY", drain)).await;
    let load = Load::default();
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        clients.spawn(http_1(service.http, load.clone()));
    }
    for _ in 0..CLIENTS / STREAMS {
        clients.spawn(http_2(service.http, load.clone()));
    }
    load.warm().await;
    let started = Instant::now();
    if notice.is_zero() {
        load.out_of_service.store(true, Ordering::Release);
    }
    load.signalled.store(true, Ordering::Release);
    service.signal(Signal::SIGTERM);
    let removed = async || (started.elapsed() >= notice).then_some(());
    eventually("the endpoint is removed", TIMEOUT, removed).await;
    load.out_of_service.store(true, Ordering::Release);
    while let Some(client) = clients.join_next().await {
        client.expect("no client panics");
    }
    let end = service.ended().await;
    assert_eq!(end.code(), Some(0));
    assert!(end.stdout.contains(r#""message":"stopped""#), "{}", end.stdout);
    // Every request that took effect got a response.
    let on_hand: i64 = sqlx::query_scalar("SELECT on_hand FROM stock").fetch_one(pool).await.expect("the stock");
    assert_eq!(on_hand, i64::from(load.answered.load(Ordering::Relaxed)));
}

/// A client that connects before the endpoint is removed gets responses, and then GOAWAY.
#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_draining_service_serves_new_http_2_connections(pool: PgPool) {
    let service = serve(&program(&url(&pool)).variable("DRAIN_DELAY", LONG)).await;
    service.signal(Signal::SIGTERM);
    not_ready(&service).await;
    // GOAWAY follows shortly after the connection; if the machine pauses for that long, try again.
    eventually("all requests are sent before GOAWAY", TIMEOUT, async || {
        let stream = TcpStream::connect(service.http).await.expect("the service accepts connections");
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an HTTP/2 connection");
        let mut requests = JoinSet::new();
        for _ in 0..STREAMS {
            let mut sender = sender.clone();
            requests.spawn(async move {
                match sender.send_request(add_one()).await {
                    Ok(response) => Some(response.status()),
                    Err(error) if was_not_sent(&error) => None,
                    Err(error) => panic!("a request got no response: {error:?}"),
                }
            });
        }
        drop(sender);
        connection.await.expect("GOAWAY without an error");
        let responses: Option<Vec<_>> = requests.join_all().await.into_iter().collect();
        assert_eq!(responses?, [200; STREAMS]);
        Some(())
    })
    .await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn no_request_is_lost_on_open_connections(pool: PgPool) {
    stop_under_load(&pool, "0s", Duration::ZERO).await;
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn no_request_is_lost_while_clients_still_connect(pool: PgPool) {
    // The drain delay is much longer than the notice, in case the machine pauses.
    stop_under_load(&pool, "3s", Duration::from_millis(300)).await;
}
