//! Retries of read-only calls and of calls that change something, and the tokens of calls.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use http_body_util::Empty;
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use test_support::process::{TIMEOUT, eventually};
use tokio::net::TcpListener;
use tower::Service;

use super::*;

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    Unavailable,
    /// The stream ends without a response: it is unknown whether the call was processed.
    Lost,
    /// The peer reports that it did not process the call.
    Refused,
}

/// Two peers with a shared count of calls. The first `count` calls have the given outcome, later ones succeed.
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
        let peers = Peers::connect(&["fake"], &[("fake", url)], None, &Registry::new()).expect("metrics");
        let channel = peers.channel("fake").expect("a channel");
        let pool = &channel.0.pool;
        eventually("both endpoints are ready", TIMEOUT, async || {
            let checkout = pool.checkout(None).await?;
            pool.others_are_ready(&checkout).then_some(())
        })
        .await;
        Self { channel, calls }
    }

    /// Makes a call. Returns its status and the number of calls received.
    async fn call(&mut self, is_read_only: bool) -> (Code, usize) {
        let mut request = Request::post("/test.Test/Call").body(Body::empty()).expect("a request");
        if is_read_only {
            request.extensions_mut().insert(ReadOnly);
        }
        let result = self.channel.call(request).await;
        (result.map_or_else(|status| status.code(), |response| code(&response)), self.calls.load(Ordering::SeqCst))
    }
}

/// Starts a peer without a health service, which therefore counts as healthy.
async fn serve(calls: Arc<AtomicUsize>, outcome: Outcome, count: usize) -> SocketAddr {
    listen(move |request: Request<Incoming>| {
        let is_health = request.uri().path().starts_with("/grpc.health.");
        let is_affected = !is_health && calls.fetch_add(1, Ordering::SeqCst) < count;
        async move {
            let code = match outcome {
                _ if is_health => Code::Unimplemented,
                _ if !is_affected => Code::Ok,
                Outcome::Done => Code::Ok,
                Outcome::Unavailable => Code::Unavailable,
                Outcome::Lost => return Err(h2::Error::from(h2::Reason::INTERNAL_ERROR)),
                Outcome::Refused => return Err(h2::Error::from(h2::Reason::REFUSED_STREAM)),
            };
            let response = Response::builder().header("grpc-status", i32::from(code));
            Ok(response.body(Empty::<Bytes>::new()).expect("a response"))
        }
    })
    .await
}

/// Starts a peer that responds like this.
async fn listen<F>(respond: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static) -> SocketAddr
where
    F: Future<Output = Result<Response<Empty<Bytes>>, h2::Error>> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a connection");
            let service = service_fn(respond.clone());
            tokio::spawn(http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

#[tokio::test]
async fn a_call_that_may_have_taken_effect_is_not_retried() {
    for (outcome, code) in
        [(Outcome::Done, Code::Ok), (Outcome::Unavailable, Code::Unavailable), (Outcome::Lost, Code::Unknown)]
    {
        assert_eq!(Fakes::start(outcome, 1).await.call(false).await, (code, 1), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_read_only_call_is_retried_once() {
    for outcome in [Outcome::Unavailable, Outcome::Lost] {
        assert_eq!(Fakes::start(outcome, 1).await.call(true).await, (Code::Ok, 2), "{outcome:?}");
        let (code, calls) = Fakes::start(outcome, usize::MAX).await.call(true).await;
        assert_eq!((code == Code::Ok, calls), (false, 2), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_call_that_was_not_processed_is_always_sent_again() {
    for is_read_only in [false, true] {
        assert_eq!(Fakes::start(Outcome::Refused, 2).await.call(is_read_only).await, (Code::Ok, 3));
        let (code, calls) = Fakes::start(Outcome::Refused, usize::MAX).await.call(is_read_only).await;
        assert_eq!((code, calls), (Code::Unavailable, MAX_ATTEMPTS));
    }
}

/// A peer that accepts only one token, and the channel of a service that has a folder of tokens.
struct Guarded {
    channel: Channel,
    folder: TempDir,
    /// The headers of all calls.
    received: Arc<Mutex<Vec<HeaderMap>>>,
}

impl Guarded {
    async fn start(accepted: &'static str, own: Option<&str>) -> Self {
        let folder = TempDir::new().expect("a folder");
        if let Some(own) = own {
            fs::write(folder.path().join("fake"), own).expect("written");
        }
        let received = Arc::new(Mutex::new(Vec::new()));
        let calls = received.clone();
        let address = listen(move |request| {
            let is_health = request.uri().path().starts_with("/grpc.health.");
            let is_accepted = request.headers().get(header::AUTHORIZATION).is_some_and(|token| token == accepted);
            if !is_health {
                calls.lock().expect("no panic").push(request.headers().clone());
            }
            let code = match (is_health, is_accepted) {
                (true, _) => Code::Unimplemented,
                (false, true) => Code::Ok,
                (false, false) => Code::Unauthenticated,
            };
            let response = Response::builder().header("grpc-status", i32::from(code)).body(Empty::new());
            async move { Ok(response.expect("a response")) }
        })
        .await;
        let url = format!("http://{address}").parse().expect("a URL");
        let peers = Peers::connect(&["fake"], &[("fake", url)], Some(folder.path()), &Registry::new());
        let channel = peers.expect("metrics").channel("fake").expect("a channel");
        Self { channel, folder, received }
    }

    async fn call(&mut self) -> Code {
        let request = Request::post("/test.Test/Call").body(Body::empty()).expect("a request");
        self.channel.call(request).await.map_or_else(|status| status.code(), |response| code(&response))
    }

    /// The values of a header in all calls.
    fn received(&self, name: &str) -> Vec<Option<String>> {
        let received = self.received.lock().expect("no panic");
        let value = |headers: &HeaderMap| Some(headers.get(name)?.to_str().expect("ASCII").to_owned());
        received.iter().map(value).collect()
    }
}

#[tokio::test]
async fn a_call_that_is_refused_because_of_an_old_token_is_sent_with_the_next_one() {
    let mut peer = Guarded::start("Bearer next", Some("old")).await;
    assert_eq!(peer.call().await, Code::Unauthenticated);
    assert_eq!(peer.received("authorization"), [Some("Bearer old".to_owned())]);
    fs::write(peer.folder.path().join("fake"), "next\n").expect("written");
    // Although the file has not been read again at its time.
    assert_eq!(peer.call().await, Code::Ok);
    assert_eq!(peer.received("authorization").last(), Some(&Some("Bearer next".to_owned())));
}

#[tokio::test]
async fn a_call_has_the_token_of_the_user_only_beside_the_service_s_own() {
    let token = || Some(http::HeaderValue::from_static("Bearer user"));
    let mut peer = Guarded::start("Bearer own", Some("own")).await;
    assert_eq!(on_behalf::scope(token(), peer.call()).await, Code::Ok);
    assert_eq!(on_behalf::scope(None, peer.call()).await, Code::Ok);
    assert_eq!(peer.call().await, Code::Ok);
    assert_eq!(peer.received("hedgerow-on-behalf-of"), [Some("Bearer user".to_owned()), None, None]);

    let mut peer = Guarded::start("", None).await;
    assert_eq!(on_behalf::scope(token(), peer.call()).await, Code::Unauthenticated);
    assert_eq!(peer.received("hedgerow-on-behalf-of"), [None]);
    assert_eq!(peer.received("authorization"), [None]);
}
