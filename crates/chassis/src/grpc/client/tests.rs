//! What is sent again, of calls that change something and of those that do not.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use test_support::process::{PATIENCE, eventually};
use tokio::net::TcpListener;
use tower::Service;

use super::*;

/// What comes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Unavailable,
    /// Its stream ends without an answer: nobody knows what was done.
    Lost,
    /// The peer says that it did nothing about it.
    Refused,
}

/// Two peers that count the calls of both; the first so many have this outcome, the others are done.
struct Fakes {
    channel: Channel,
    calls: Arc<AtomicUsize>,
}

impl Fakes {
    async fn start(outcome: Outcome, count: usize) -> Self {
        let calls = Arc::new(AtomicUsize::new(0));
        let mut addresses = Vec::new();
        for _ in 0..2 {
            addresses.push(serve(calls.clone(), outcome, count).await.to_string());
        }
        let url = format!("http://{}", addresses.join(",")).parse().expect("a URL");
        let peers = Peers::connect(&["fake"], &[("fake", url)], &Registry::new()).expect("metrics");
        let channel = peers.channel("fake").expect("a channel");
        let pool = &channel.0.pool;
        eventually("both are of use", PATIENCE, async || {
            let lease = pool.lease(None).await?;
            pool.others_are_ready(&lease).then_some(())
        })
        .await;
        Self { channel, calls }
    }

    /// Makes a call; returns its status, and how often it was received.
    async fn call(&mut self, changes_nothing: bool) -> (Code, usize) {
        let mut request = Request::post("/test.Test/Call").body(Body::empty()).expect("a request");
        if changes_nothing {
            request.extensions_mut().insert(ChangesNothing);
        }
        let answer = self.channel.call(request).await;
        (answer.map_or_else(|status| status.code(), |answer| code(&answer)), self.calls.load(Ordering::SeqCst))
    }
}

/// A peer that does not know of health, and is therefore taken for well.
async fn serve(calls: Arc<AtomicUsize>, outcome: Outcome, count: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    let answer = move |request: Request<Incoming>| {
        let is_health = request.uri().path().starts_with("/grpc.health.");
        let is_of_those = !is_health && calls.fetch_add(1, Ordering::SeqCst) < count;
        async move {
            let code = match outcome {
                _ if is_health => Code::Unimplemented,
                _ if !is_of_those => Code::Ok,
                Outcome::Done => Code::Ok,
                Outcome::Unavailable => Code::Unavailable,
                Outcome::Lost => return Err(h2::Error::from(h2::Reason::INTERNAL_ERROR)),
                Outcome::Refused => return Err(h2::Error::from(h2::Reason::REFUSED_STREAM)),
            };
            let response = Response::builder().header("grpc-status", i32::from(code));
            Ok(response.body(Empty::<Bytes>::new()).expect("a response"))
        }
    };
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = service_fn(answer.clone());
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn a_call_that_may_have_changed_something_is_sent_once() {
    for (outcome, code) in
        [(Outcome::Done, Code::Ok), (Outcome::Unavailable, Code::Unavailable), (Outcome::Lost, Code::Unknown)]
    {
        assert_eq!(Fakes::start(outcome, 1).await.call(false).await, (code, 1), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_call_that_changes_nothing_is_sent_once_more() {
    for outcome in [Outcome::Unavailable, Outcome::Lost] {
        assert_eq!(Fakes::start(outcome, 1).await.call(true).await, (Code::Ok, 2), "{outcome:?}");
        let (code, calls) = Fakes::start(outcome, usize::MAX).await.call(true).await;
        assert_eq!((code == Code::Ok, calls), (false, 2), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_call_about_which_nothing_was_done_is_sent_again_whatever_it_changes() {
    for changes_nothing in [false, true] {
        assert_eq!(Fakes::start(Outcome::Refused, 2).await.call(changes_nothing).await, (Code::Ok, 3));
        let (code, calls) = Fakes::start(Outcome::Refused, usize::MAX).await.call(changes_nothing).await;
        assert_eq!((code, calls), (Code::Unavailable, MOST_TRIES));
    }
}
