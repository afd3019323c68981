//! Fetching the documents of services.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use serde_json::json;
use test_support::{
    port::Port,
    process::{TIMEOUT, eventually},
};

use super::{api_docs, document_of, endpoint, merged, paths, response, service, unavailable};

#[tokio::test]
async fn concurrent_and_soon_following_requests_share_one_fetch() {
    let (address, requests) = endpoint(document_of("/a")).await;
    let (_services, docs) = api_docs(vec![service("a", vec![address])]);
    let merged = futures_util::future::join_all((0..10).map(|_| merged(&docs))).await;
    assert!(merged.iter().all(|document| paths(document) == ["/a"]));
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn clients_that_disconnect_cause_no_additional_fetches() {
    let (address, requests) = endpoint(document_of("/a")).await;
    let (_services, docs) = api_docs(vec![service("a", vec![address])]);
    for _ in 0..10 {
        assert!(merged(&docs).now_or_never().is_none(), "fetching takes longer than one poll");
    }
    assert_eq!(paths(&merged(&docs).await), ["/a"]);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn services_are_asked_again_after_the_lifetime() {
    let (address, requests) = endpoint(document_of("/a")).await;
    let (_services, mut docs) = api_docs(vec![service("a", vec![address])]);
    docs.lifetime = Duration::from_millis(20);
    let deadline = Instant::now() + Duration::from_secs(10);
    while requests.load(Ordering::SeqCst) < 3 {
        assert!(Instant::now() < deadline, "fetched {} times", requests.load(Ordering::SeqCst));
        merged(&docs).await;
    }
}

#[tokio::test]
async fn the_document_follows_added_and_removed_services() {
    let (a, fetches_of_a) = endpoint(document_of("/a")).await;
    let (b, _) = endpoint(document_of("/b")).await;
    let (services, docs) = api_docs(vec![service("a", vec![a])]);
    assert_eq!(paths(&merged(&docs).await), ["/a"]);
    services.send_replace([service("a", vec![a]), service("b", vec![b])].into());
    assert_eq!(paths(&merged(&docs).await), ["/a", "/b"]);
    services.send_replace([service("b", vec![b])].into());
    assert_eq!(paths(&merged(&docs).await), ["/b"]);
    services.send_replace([service("a", vec![a]), service("b", Vec::new())].into());
    let document = merged(&docs).await;
    assert_eq!((paths(&document), unavailable(&document)), (vec!["/a"], vec![("b", "no ready endpoint")]));
    assert_eq!(fetches_of_a.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn services_without_a_document_do_not_delay_the_response() {
    let (silent, _) = endpoint(String::new()).await;
    let (stuck, _) = endpoint("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".to_owned()).await;
    let (without, _) = endpoint(response(404, "")).await;
    let (failing, _) = endpoint(response(503, "")).await;
    let (page, _) = endpoint(response(200, "<html>")).await;
    let (endless, _) = endpoint(response(200, &" ".repeat(5 * 1024 * 1024))).await;
    let (noise, _) = endpoint("SSH-2.0-x\r\n".to_owned()).await;
    let (good, _) = endpoint(document_of("/good")).await;
    let gone = Port::free();
    let cases = [
        ("endless", endless, "document is larger than 4 MiB"),
        ("failing", failing, "document could not be fetched"),
        ("gone", gone.address, "document could not be fetched"),
        ("good", good, ""),
        ("noise", noise, "document could not be fetched"),
        ("page", page, "not an OpenAPI 3.0 or 3.1 document"),
        ("silent", silent, "document could not be fetched"),
        ("stuck", stuck, "document could not be fetched"),
        ("without", without, "no document at /openapi.json"),
    ];
    let (_services, mut docs) = api_docs(cases.iter().map(|(name, at, _)| service(name, vec![*at])).collect());
    docs.lifetime = Duration::ZERO;
    let expected: Vec<_> = cases.iter().filter(|case| case.0 != "good").map(|case| (case.0, case.2)).collect();
    let missing = |unavailable: &[(&str, &str)]| {
        unavailable.iter().filter(|service| service.1 == "document could not be fetched").count()
    };
    // On a busy machine it may take longer, and other services may miss the timeout too.
    let document = eventually("a response without delay", TIMEOUT, async || {
        let start = Instant::now();
        let document = merged(&docs).await;
        let is_late =
            start.elapsed() >= Duration::from_secs(4) || missing(&unavailable(&document)) > missing(&expected);
        (!is_late).then_some(document)
    })
    .await;
    assert_eq!(paths(&document), ["/good"]);
    assert_eq!(unavailable(&document), expected);
}

#[tokio::test]
async fn the_total_length_of_documents_is_limited() {
    let mut services = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let document =
            json!({"openapi": "3.1.0", "paths": {format!("/{name}"): {"get": {"responses": {}}}}}).to_string();
        let (address, _) = endpoint(response(200, &(document + &" ".repeat(3 * 1024 * 1024)))).await;
        services.push(service(name, vec![address]));
    }
    let (_services, mut docs) = api_docs(services);
    docs.lifetime = Duration::ZERO;
    // On a busy machine, services may miss the timeout.
    let document = eventually("responses of all services in time", TIMEOUT, async || {
        let document = merged(&docs).await;
        let is_late = unavailable(&document).iter().any(|(_, reason)| *reason == "document could not be fetched");
        (!is_late).then_some(document)
    })
    .await;
    let reasons: Vec<_> = unavailable(&document).into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, ["the documents of all services together are larger than 16 MiB"]);
    assert_eq!(paths(&document).len(), 5);
}

#[tokio::test]
async fn another_endpoint_is_asked_if_one_is_gone() {
    let (address, _) = endpoint(document_of("/a")).await;
    let gone = Port::free();
    for _ in 0..8 {
        let (_services, docs) = api_docs(vec![service("a", vec![gone.address, address])]);
        assert_eq!(paths(&merged(&docs).await), ["/a"]);
    }
}
