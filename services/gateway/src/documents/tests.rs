use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures_util::FutureExt as _;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use test_support::{
    port::Port,
    process::{PATIENCE, eventually},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

use super::*;

/// A service's endpoint that gives every request the same answer, and counts them.
async fn endpoint(answer: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await?);
                }
                assert!(request.starts_with(b"GET /openapi.json HTTP/1.1\r\n"));
                stream.write_all(answer.as_bytes()).await?;
                // Until the other side has gone: it need not have read all.
                stream.read_u8().await
            });
        }
    });
    (address, requests)
}

fn response(status: u16, body: &str) -> String {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn document_of(path: &str) -> String {
    response(200, &json!({"openapi": "3.1.0", "paths": {path: {"get": {"responses": {}}}}}).to_string())
}

fn service(name: &str, http: Vec<SocketAddr>) -> Service {
    Service { name: name.to_owned(), paths: vec![format!("/{name}")], http, grpc: None }
}

fn documents(services: Vec<Service>) -> (watch::Sender<Arc<[Service]>>, Documents) {
    let (sender, receiver) = watch::channel(services.into());
    (sender, Documents::new(receiver))
}

async fn ask(
    documents: &Documents,
    method: Method,
    path: &str,
    lines: &[(&str, &str)],
) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    let answer: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(documents.answer(&parts));
    let (parts, body) = answer.await.into_parts();
    (parts.status, parts.headers, body.collect().await.expect("a body").to_bytes())
}

async fn get(documents: &Documents, path: &str, lines: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
    ask(documents, Method::GET, path, lines).await
}

async fn merged(documents: &Documents) -> Value {
    let (status, headers, body) = get(documents, "/openapi.json", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers.get(header::CONTENT_TYPE), Some(&HeaderValue::from_static("application/json")));
    assert_eq!(headers.get(header::CACHE_CONTROL), Some(&HeaderValue::from_static("no-cache")));
    serde_json::from_slice(&body).expect("JSON")
}

fn paths(document: &Value) -> Vec<&str> {
    document["paths"].as_object().expect("paths").keys().map(String::as_str).collect()
}

fn absent(document: &Value) -> Vec<(&str, &str)> {
    let absent = document["x-hedgerow-unavailable"].as_array().expect("a list").iter();
    absent.filter_map(|absent| Some((absent["service"].as_str()?, absent["reason"].as_str()?))).collect()
}

#[tokio::test]
async fn services_are_asked_once_for_all_who_come_meanwhile_and_soon_after() {
    let (address, requests) = endpoint(document_of("/a")).await;
    let (_services, documents) = documents(vec![service("a", vec![address])]);
    let all = futures_util::future::join_all((0..10).map(|_| merged(&documents))).await;
    assert!(all.iter().all(|document| paths(document) == ["/a"]));
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn clients_that_go_away_do_not_have_services_asked_again() {
    let (address, requests) = endpoint(document_of("/a")).await;
    let (_services, documents) = documents(vec![service("a", vec![address])]);
    for _ in 0..10 {
        assert!(merged(&documents).now_or_never().is_none(), "it takes longer to ask");
    }
    assert_eq!(paths(&merged(&documents).await), ["/a"]);
    assert_eq!(requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn services_are_asked_again_after_a_while() {
    let (address, requests) = endpoint(document_of("/a")).await;
    let (_services, mut documents) = documents(vec![service("a", vec![address])]);
    documents.lifetime = Duration::from_millis(20);
    let deadline = Instant::now() + Duration::from_secs(10);
    while requests.load(Ordering::SeqCst) < 3 {
        assert!(Instant::now() < deadline, "asked {} times", requests.load(Ordering::SeqCst));
        merged(&documents).await;
    }
}

#[tokio::test]
async fn services_are_followed_as_they_come_and_go() {
    let (a, asked_a) = endpoint(document_of("/a")).await;
    let (b, _) = endpoint(document_of("/b")).await;
    let (services, documents) = documents(vec![service("a", vec![a])]);
    assert_eq!(paths(&merged(&documents).await), ["/a"]);
    services.send_replace([service("a", vec![a]), service("b", vec![b])].into());
    assert_eq!(paths(&merged(&documents).await), ["/a", "/b"]);
    services.send_replace([service("b", vec![b])].into());
    assert_eq!(paths(&merged(&documents).await), ["/b"]);
    services.send_replace([service("a", vec![a]), service("b", Vec::new())].into());
    let document = merged(&documents).await;
    assert_eq!((paths(&document), absent(&document)), (vec!["/a"], vec![("b", "no endpoint is ready")]));
    assert_eq!(asked_a.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn services_that_have_no_document_hold_nobody_up_for_long() {
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
        ("endless", endless, "its document is too long"),
        ("failing", failing, "it does not answer"),
        ("gone", gone.address, "it does not answer"),
        ("good", good, ""),
        ("noise", noise, "it does not answer"),
        ("page", page, "its document is not one of OpenAPI 3.0 or 3.1"),
        ("silent", silent, "it does not answer"),
        ("stuck", stuck, "it does not answer"),
        ("without", without, "it has no document"),
    ];
    let (_services, mut documents) = documents(cases.iter().map(|(name, at, _)| service(name, vec![*at])).collect());
    documents.lifetime = Duration::ZERO;
    let expected: Vec<_> = cases.iter().filter(|case| case.0 != "good").map(|case| (case.0, case.2)).collect();
    let late = |absent: &[(&str, &str)]| absent.iter().filter(|absent| absent.1 == "it does not answer").count();
    // Where the machine pauses, it takes longer, and others too may be late.
    let document = eventually("nobody is held up", PATIENCE, async || {
        let begun = Instant::now();
        let document = merged(&documents).await;
        let is_late = begun.elapsed() >= Duration::from_secs(4) || late(&absent(&document)) > late(&expected);
        (!is_late).then_some(document)
    })
    .await;
    assert_eq!(paths(&document), ["/good"]);
    assert_eq!(absent(&document), expected);
}

#[tokio::test]
async fn no_more_is_read_than_fits_whatever_the_number_of_services() {
    let mut services = Vec::new();
    for name in ["a", "b", "c", "d", "e", "f"] {
        let document =
            json!({"openapi": "3.1.0", "paths": {format!("/{name}"): {"get": {"responses": {}}}}}).to_string();
        let (address, _) = endpoint(response(200, &(document + &" ".repeat(3 * 1024 * 1024)))).await;
        services.push(service(name, vec![address]));
    }
    let (_services, mut documents) = documents(services);
    documents.lifetime = Duration::ZERO;
    // Where the machine pauses, they may not be read in their time.
    let document = eventually("all answer in time", PATIENCE, async || {
        let document = merged(&documents).await;
        let is_late = absent(&document).iter().any(|(_, reason)| *reason == "it does not answer");
        (!is_late).then_some(document)
    })
    .await;
    let reasons: Vec<_> = absent(&document).into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(reasons, ["the documents of all services are too long together"]);
    assert_eq!(paths(&document).len(), 5);
}

#[tokio::test]
async fn another_endpoint_is_asked_where_one_is_gone() {
    let (address, _) = endpoint(document_of("/a")).await;
    let gone = Port::free();
    for _ in 0..8 {
        let (_services, documents) = documents(vec![service("a", vec![gone.address, address])]);
        assert_eq!(paths(&merged(&documents).await), ["/a"]);
    }
}

#[tokio::test]
async fn who_has_it_is_told_so() {
    let (_services, documents) = documents(Vec::new());
    for path in ["/openapi.json", "/docs/swagger-ui.css"] {
        let (_, headers, _) = get(&documents, path, &[]).await;
        let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).expect("a tag").to_owned();
        for known in [tag.clone(), format!("\"x\", {tag}"), tag.replace("W/", ""), "*".to_owned()] {
            let (status, again, body) = get(&documents, path, &[("if-none-match", &known)]).await;
            assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{known}");
            assert_eq!(again.get(header::ETAG), headers.get(header::ETAG));
        }
        let (status, ..) = get(&documents, path, &[("if-none-match", "W/\"x\"")]).await;
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_page_has_all_its_files_and_shows_the_document() {
    let (_services, documents) = documents(Vec::new());
    for path in ["/", "/docs"] {
        let (status, headers, _) = get(&documents, path, &[]).await;
        assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(headers.get(header::LOCATION), Some(&HeaderValue::from_static("/docs/")));
    }
    let (_, headers, page) = get(&documents, "/docs/", &[]).await;
    assert_eq!(headers.get(header::CONTENT_TYPE), Some(&HeaderValue::from_static("text/html")));
    let page = String::from_utf8_lossy(&page).into_owned();
    let quoted = page.split('"').filter(|text| text.starts_with("./"));
    let files: Vec<_> = quoted.map(|text| text.trim_start_matches("./")).collect();
    assert!(files.contains(&"swagger-ui-bundle.js"), "{files:?}");
    for file in files {
        assert_eq!(get(&documents, &format!("/docs/{file}"), &[]).await.0, StatusCode::OK, "{file}");
    }
    let (_, _, script) = get(&documents, "/docs/swagger-initializer.js", &[]).await;
    let script = String::from_utf8_lossy(&script).into_owned();
    assert!(script.contains("\"url\": \"/openapi.json\"") && script.contains("\"validatorUrl\": \"none\""), "{script}");
    assert_eq!(get(&documents, "/docs/none.js", &[]).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn they_are_only_to_be_read() {
    let (_services, documents) = documents(Vec::new());
    for path in ["/", "/docs", "/docs/", "/docs/none.js", "/openapi.json"] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let (status, headers, _) = ask(&documents, method.clone(), path, &[]).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(headers.get(header::ALLOW), Some(&HeaderValue::from_static("GET, HEAD")), "{method} {path}");
        }
        assert_ne!(ask(&documents, Method::HEAD, path, &[]).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[test]
fn other_paths_and_what_a_service_claims_are_not_the_gateways_own() {
    let route = |paths: &[&str], path: &str| {
        let mut service = service("a", Vec::new());
        service.paths = paths.iter().map(|path| (*path).to_owned()).collect();
        documents(vec![service]).1.route(path)
    };
    for (path, own) in [
        ("/", "/"),
        ("/docs", "/docs"),
        ("/docs/", "/docs"),
        ("/docs/index.html", "/docs"),
        ("/docs/nothing", "/docs"),
        ("/openapi.json", "/openapi.json"),
    ] {
        assert_eq!(route(&[], path), Some(own), "{path}");
    }
    for path in ["/docsy", "/openapi.json/x", "/users", "//docs", "*", ""] {
        assert_eq!(route(&[], path), None, "{path}");
    }
    // Who claims all but what others have does not have these.
    assert_eq!(route(&["/"], "/docs/"), Some("/docs"));
    assert_eq!(route(&["/"], "/openapi.json"), Some("/openapi.json"));
    assert_eq!(route(&["/"], "/"), None);
    assert_eq!(route(&["/docs"], "/docs/"), None);
    assert_eq!(route(&["/docs"], "/openapi.json"), Some("/openapi.json"));
    assert_eq!(route(&["/docs/index.html"], "/docs/index.html"), None);
    assert_eq!(route(&["/docs/more"], "/docs/index.html"), Some("/docs"));
    assert_eq!(route(&["/openapi.json"], "/openapi.json"), None);
}
