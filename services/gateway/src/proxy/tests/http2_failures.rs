//! gRPC calls that fail: what they say about the endpoint, and which are sent again.

use tokio::task::JoinHandle;

use super::{
    ejections::EJECTIONS,
    grpc::{echo, with_grpc},
    hostile::{UPSTREAM_IN_FLIGHT, frame, with_body},
    http2_peers::{HEADERS, RST_STREAM, Received, serve, service},
    stub::{Body, full_body},
    *,
};

const MESSAGE: &str = "\0\0\0\0\x05hello";

/// Codes of RFC 9113, section 7.
const NO_ERROR: u32 = 0;
const INTERNAL_ERROR: u32 = 2;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
const ENHANCE_YOUR_CALM: u32 = 11;

type Client = conn::http2::SendRequest<Body>;

/// Resets each call.
async fn resetting(code: u32) -> Stub {
    service(move |Received { kind, stream, .. }| match kind {
        HEADERS => frame(RST_STREAM, 0, stream, &code.to_be_bytes()),
        _ => Vec::new(),
    })
    .await
}

async fn call(mut client: Client) -> hyper::Result<TestResponse> {
    let mut request = with_body(Method::POST, "/test.v1.Test/Call", "application/grpc", full_body(MESSAGE));
    request.headers_mut().insert("te", http::HeaderValue::from_static("trailers"));
    TestResponse::read(client.send_request(request).await?).await
}

/// Starts calls one after the other, so that the endpoints get the same number.
async fn start_calls(
    gateway: &TestGateway,
    client: &Client,
    count: usize,
) -> Vec<JoinHandle<hyper::Result<TestResponse>>> {
    let mut calls = Vec::new();
    for number in 1..=count {
        calls.push(tokio::spawn(call(client.clone())));
        gateway.metric_becomes(UPSTREAM_IN_FLIGHT, number).await;
    }
    calls
}

fn gateway(stubs: [&Stub; 2]) -> TestGateway {
    TestGateway::of(&[], with_grpc(&[], Some(stubs.map(|stub| stub.address).to_vec())))
}

/// A service resets a call because of what its client does, or of the load, and nothing is wrong with it.
#[tokio::test]
async fn resets_that_a_client_may_cause_eject_no_endpoint() {
    for (code, is_failure) in [
        (NO_ERROR, false),
        (CANCEL, false),
        (REFUSED_STREAM, false),
        (ENHANCE_YOUR_CALM, false),
        (INTERNAL_ERROR, true),
    ] {
        let (first, second) = (resetting(code).await, resetting(code).await);
        let gateway = gateway([&first, &second]);
        let client = http_2(gateway.address).await;
        for _ in 0..12 {
            let response = call(client.clone()).await.expect("a response");
            assert_eq!(response.headers["grpc-status"], if code == REFUSED_STREAM { "14" } else { "2" }, "{code}");
        }
        assert_eq!(gateway.metric(EJECTIONS) > 0, is_failure, "{code}");
    }
}

/// Nothing of such a call was processed (RFC 9113, section 8.7).
#[tokio::test]
async fn a_refused_call_is_sent_to_another_endpoint() {
    let (refusing, good) = (resetting(REFUSED_STREAM).await, echo().await);
    let gateway = gateway([&refusing, &good]);
    let client = http_2(gateway.address).await;
    for _ in 0..12 {
        let response = call(client.clone()).await.expect("a response");
        assert_eq!(response.text(), MESSAGE);
        assert_eq!(response.trailers.expect("trailers")["grpc-status"], "0");
    }
    assert!(refusing.connections() > 0, "it was never tried");
    assert_eq!(good.requests(), 12);
}

#[tokio::test]
async fn the_loss_of_a_connection_counts_once() {
    let (first, second) = (service(|_| Vec::new()).await, service(|_| Vec::new()).await);
    let gateway = gateway([&first, &second]);
    let client = http_2(gateway.address).await;
    let calls = start_calls(&gateway, &client, 8).await;
    eventually("both have a connection", TIMEOUT, async || {
        ([first.connections(), second.connections()] == [1, 1]).then_some(())
    })
    .await;
    tokio::time::sleep(MOMENT).await;
    first.kill().await;
    second.kill().await;
    for call in calls {
        assert_eq!(call.await.expect("no panic").expect("a response").headers["grpc-status"], "2");
    }
    assert_eq!(gateway.metric(r#"gateway_upstream_errors_total{kind="reset",service="test"}"#), 8);
    assert_eq!(gateway.metric(EJECTIONS), 0);
}

/// As servers do that limit how often a client cancels calls.
#[tokio::test]
async fn a_connection_that_is_closed_on_a_cancelled_call_ejects_no_endpoint() {
    let closing = || {
        Stub::raw(async |stream, number| {
            let cancelled = Arc::new(tokio::sync::Notify::new());
            let respond = |Received { kind, .. }| {
                if kind == RST_STREAM {
                    cancelled.notify_one();
                }
                Vec::new()
            };
            tokio::select! {
                () = serve(stream, number, respond) => {}
                () = cancelled.notified() => {}
            }
        })
    };
    let (first, second) = (closing().await, closing().await);
    let gateway = gateway([&first, &second]);
    let client = http_2(gateway.address).await;
    for round in 1..=4 {
        let mut calls = start_calls(&gateway, &client, 4).await;
        eventually("both have a connection", TIMEOUT, async || {
            ([first.connections(), second.connections()] == [round, round]).then_some(())
        })
        .await;
        tokio::time::sleep(MOMENT).await;
        for call in calls.drain(..2) {
            call.abort();
        }
        for call in calls {
            assert_eq!(call.await.expect("no panic").expect("a response").headers["grpc-status"], "2");
        }
        gateway.metric_becomes(UPSTREAM_IN_FLIGHT, 0).await;
    }
    assert_eq!(gateway.metric(EJECTIONS), 0);
}
