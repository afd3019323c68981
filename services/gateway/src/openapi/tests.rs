mod fetch;

use std::{
    io::Read as _,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
};

use flate2::read::GzDecoder;
use http::{HeaderMap, Request};
use http_body_util::BodyExt as _;
use prometheus::Registry;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};

use super::*;
use crate::auth::AuthenticatorArgs;

/// An endpoint that sends the same response to every request, and counts the requests.
async fn endpoint(response: String) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = requests.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let response = response.clone();
            tokio::spawn(async move {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await?);
                }
                assert!(request.starts_with(b"GET /openapi.json HTTP/1.1\r\n"));
                stream.write_all(response.as_bytes()).await?;
                // Keep the connection open until the client closes it.
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
    let paths = vec![format!("/{name}")];
    Service { name: name.to_owned(), paths, http, grpc: None, idempotency_keys: Vec::new(), access: Arc::default() }
}

fn api_docs(services: Vec<Service>) -> (watch::Sender<Arc<[Service]>>, ApiDocs) {
    let (sender, receiver) = watch::channel(services.into());
    let authenticator = Authenticator::start(&AuthenticatorArgs::default(), &Registry::new()).expect("no issuers");
    (sender, ApiDocs::new(receiver, Arc::new(authenticator)))
}

async fn request(docs: &ApiDocs, method: Method, path: &str, lines: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).expect("a request").into_parts();
    let accepts_gzip = parts.headers.contains_key(header::ACCEPT_ENCODING);
    let response: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(docs.respond(&parts, accepts_gzip));
    let (parts, body) = response.await.into_parts();
    (parts.status, parts.headers, body.collect().await.expect("a body").to_bytes())
}

async fn get(docs: &ApiDocs, path: &str, lines: &[(&str, &str)]) -> (StatusCode, HeaderMap, Bytes) {
    request(docs, Method::GET, path, lines).await
}

async fn merged(docs: &ApiDocs) -> Value {
    let (status, headers, body) = get(docs, "/openapi.json", &[]).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(headers.get(header::CONTENT_TYPE), Some(&HeaderValue::from_static("application/json")));
    assert_eq!(headers.get(header::CACHE_CONTROL), Some(&HeaderValue::from_static("no-cache")));
    serde_json::from_slice(&body).expect("JSON")
}

fn paths(document: &Value) -> Vec<&str> {
    document["paths"].as_object().expect("paths").keys().map(String::as_str).collect()
}

fn unavailable(document: &Value) -> Vec<(&str, &str)> {
    let services = document["x-hedgerow-unavailable"].as_array().expect("a list").iter();
    services.filter_map(|service| Some((service["service"].as_str()?, service["reason"].as_str()?))).collect()
}

#[tokio::test]
async fn a_cached_copy_is_confirmed_with_304() {
    let (_services, docs) = api_docs(Vec::new());
    for path in ["/openapi.json", "/docs/swagger-ui.css"] {
        let (_, headers, _) = get(&docs, path, &[]).await;
        let tag = headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()).expect("a tag").to_owned();
        for cached in [tag.clone(), format!("\"x\", {tag}"), tag.replace("W/", ""), "*".to_owned()] {
            let (status, again, body) = get(&docs, path, &[("if-none-match", &cached)]).await;
            assert_eq!((status, body.len()), (StatusCode::NOT_MODIFIED, 0), "{cached}");
            assert_eq!(again.get(header::ETAG), headers.get(header::ETAG));
        }
        let (status, ..) = get(&docs, path, &[("if-none-match", "W/\"x\"")]).await;
        assert_eq!(status, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_file_is_compressed_once() {
    let (address, _) = endpoint(document_of("/a")).await;
    let (_services, docs) = api_docs(vec![service("a", vec![address])]);
    for path in ["/docs/swagger-ui-bundle.js", "/openapi.json"] {
        let (_, plain, whole) = get(&docs, path, &[]).await;
        let gzip = async || {
            let (_, headers, body) = get(&docs, path, &[("accept-encoding", "gzip")]).await;
            assert_eq!(headers.get(header::CONTENT_ENCODING).expect("an encoding"), "gzip");
            assert_eq!(headers.get(header::ETAG), plain.get(header::ETAG));
            body
        };
        let (first, second) = (gzip().await, gzip().await);
        assert_eq!(first.as_ptr(), second.as_ptr(), "the same memory");
        let mut content = Vec::new();
        GzDecoder::new(&*first).read_to_end(&mut content).expect("valid gzip");
        assert_eq!(content, whole);
        assert!(!plain.contains_key(header::CONTENT_ENCODING));
        assert_eq!(plain[header::VARY], "accept-encoding");
    }
}

#[tokio::test]
async fn the_page_has_all_its_files_and_shows_the_document() {
    let (_services, docs) = api_docs(Vec::new());
    for path in ["/", "/docs"] {
        let (status, headers, _) = get(&docs, path, &[]).await;
        assert_eq!(status, StatusCode::TEMPORARY_REDIRECT);
        assert_eq!(headers.get(header::LOCATION), Some(&HeaderValue::from_static("/docs/")));
    }
    let (_, headers, page) = get(&docs, "/docs/", &[]).await;
    assert_eq!(headers.get(header::CONTENT_TYPE), Some(&HeaderValue::from_static("text/html")));
    let policy = headers.get(header::CONTENT_SECURITY_POLICY).expect("a policy").to_str().expect("text");
    for directive in ["default-src 'none'", "script-src 'self'", "connect-src 'self'"] {
        assert!(policy.split("; ").any(|found| found == directive), "{policy}");
    }
    let page = String::from_utf8_lossy(&page).into_owned();
    // The policy forbids inline scripts.
    assert!(page.split("<script").skip(1).all(|script| script.starts_with(" src=")), "{page}");
    let quoted = page.split('"').filter(|text| text.starts_with("./"));
    let files: Vec<_> = quoted.map(|text| text.trim_start_matches("./")).collect();
    assert!(files.contains(&"swagger-ui-bundle.js"), "{files:?}");
    for file in files {
        assert_eq!(get(&docs, &format!("/docs/{file}"), &[]).await.0, StatusCode::OK, "{file}");
    }
    let (_, _, script) = get(&docs, "/docs/swagger-initializer.js", &[]).await;
    let script = String::from_utf8_lossy(&script).into_owned();
    assert!(script.contains("\"url\": \"/openapi.json\"") && script.contains("\"validatorUrl\": \"none\""), "{script}");
    assert!(script.contains("\"persistAuthorization\": true"), "{script}");
    assert_eq!(get(&docs, "/docs/missing.js", &[]).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn only_get_and_head_are_allowed() {
    let (_services, docs) = api_docs(Vec::new());
    for path in ["/", "/docs", "/docs/", "/docs/missing.js", "/openapi.json"] {
        for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
            let (status, headers, _) = request(&docs, method.clone(), path, &[]).await;
            assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
            assert_eq!(headers.get(header::ALLOW), Some(&HeaderValue::from_static("GET, HEAD")), "{method} {path}");
        }
        assert_ne!(request(&docs, Method::HEAD, path, &[]).await.0, StatusCode::METHOD_NOT_ALLOWED, "{path}");
    }
}

#[test]
fn paths_claimed_by_a_service_are_not_the_gateways_own() {
    let route = |paths: &[&str], path: &str| {
        let mut service = service("a", Vec::new());
        service.paths = paths.iter().map(|path| (*path).to_owned()).collect();
        api_docs(vec![service]).1.route(path)
    };
    for (path, own) in [
        ("/", "/"),
        ("/docs", "/docs"),
        ("/docs/", "/docs"),
        ("/docs/index.html", "/docs"),
        ("/docs/missing", "/docs"),
        ("/openapi.json", "/openapi.json"),
    ] {
        assert_eq!(route(&[], path), Some(own), "{path}");
    }
    for path in ["/docsy", "/openapi.json/x", "/users", "//docs", "*", ""] {
        assert_eq!(route(&[], path), None, "{path}");
    }
    // A catch-all does not claim the page and the document.
    assert_eq!(route(&["/"], "/docs/"), Some("/docs"));
    assert_eq!(route(&["/"], "/openapi.json"), Some("/openapi.json"));
    assert_eq!(route(&["/"], "/"), None);
    assert_eq!(route(&["/docs"], "/docs/"), None);
    assert_eq!(route(&["/docs"], "/openapi.json"), Some("/openapi.json"));
    assert_eq!(route(&["/docs/index.html"], "/docs/index.html"), None);
    assert_eq!(route(&["/docs/more"], "/docs/index.html"), Some("/docs"));
    assert_eq!(route(&["/openapi.json"], "/openapi.json"), None);
}
