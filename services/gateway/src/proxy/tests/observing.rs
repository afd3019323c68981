//! Request ids, traces, metrics and the access log.

use test_support::raw::Raw;
use tokio::io::AsyncReadExt;

use super::{
    stub::{full_body, read_head},
    *,
};

/// Responds with the ids of the request.
async fn echo_ids() -> Stub {
    Stub::responding(async |request| {
        let header =
            |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let text = format!("{} {} {}", header("x-request-id"), header("traceparent"), header("tracestate"));
        Response::builder().header("x-request-id", "own").body(full_body(text)).expect("a response")
    })
    .await
}

#[tokio::test]
async fn request_id_and_trace_reach_the_service_and_the_access_log() {
    let stub = echo_ids().await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let response = gateway.get("/test").await;
    let (id, traceparent) = response.text().split_once(' ').expect("two ids");
    assert_eq!(response.headers.get_all("x-request-id").iter().collect::<Vec<_>>(), [id]);
    assert!(id.len() == 36, "{id}");
    let parts: Vec<_> = traceparent.split([' ', '-']).collect();
    assert!(
        matches!(parts[..], ["00", trace, parent, "01", ..] if trace.len() == 32 && parent.len() == 16),
        "{traceparent}"
    );
    let line = &gateway.log(1).await[0];
    assert_eq!((&line["request_id"], &line["trace_id"]), (&id.into(), &parts[1].into()));
}

#[tokio::test]
async fn a_valid_request_id_and_trace_are_passed_on() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let stub = echo_ids().await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let with = async |id: &str, trace: &str| {
        let mut request = request(Method::GET, "/test", "");
        for (name, value) in [("x-request-id", id), ("traceparent", trace), ("tracestate", "a=b")] {
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        gateway.send(request).await.text().to_owned()
    };
    assert_eq!(with("abc", TRACE).await, format!("abc {TRACE} a=b"));
    let text = with("a b", "00-00000000000000000000000000000000-b7ad6b7169203331-00").await;
    assert!(
        !text.contains("a b") && !text.contains("-00000000000000000000000000000000-") && text.ends_with(" -"),
        "{text}"
    );
}

#[tokio::test]
async fn security_headers_are_added_and_the_server_header_removed() {
    let stub = Stub::responding(async |_| {
        let response = Response::builder().header("server", "nginx").header("x-frame-options", "SAMEORIGIN");
        response.body(full_body("hello")).expect("a response")
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for (path, frames) in [("/test", "SAMEORIGIN"), ("/openapi.json", "DENY"), ("/nobody", "DENY")] {
        let response = gateway.get(path).await;
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(response.headers.get_all("x-frame-options").iter().collect::<Vec<_>>(), [frames], "{path}");
        assert_eq!(response.header("server"), None, "{path}");
    }
}

#[tokio::test]
async fn requests_are_counted_by_route() {
    let stub = Stub::responding(async |request| {
        let status = if request.uri().path().ends_with("missing") { 404 } else { 200 };
        Response::builder().status(status).body(full_body("hello")).expect("a response")
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for path in ["/test", "/test/1", "/test/2", "/test/missing", "/elsewhere"] {
        gateway.get(path).await;
    }
    gateway.post("/test", "x").await;
    let count = |route: &str, service: &str, method: &str, status: &str| {
        let labels = format!(r#"method="{method}",route="{route}",service="{service}",status="{status}""#);
        (format!("http_requests_total{{{labels}}}"), format!("http_request_duration_seconds_count{{{labels}}}"))
    };
    for (labels, expected) in [
        (count("/test", "test", "GET", "200"), 3),
        (count("/test", "test", "GET", "404"), 1),
        (count("/test", "test", "POST", "200"), 1),
        (count("unmatched", "", "GET", "404"), 1),
    ] {
        gateway.metric_becomes(&labels.0, expected).await;
        gateway.metric_becomes(&labels.1, expected).await;
    }
    gateway.metric_becomes("http_requests_in_flight", 0).await;
}

#[tokio::test]
async fn each_request_is_one_line_of_the_access_log() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    gateway.get("/test/a%22b?secret=1").await;
    gateway.post("/elsewhere", "x").await;
    let mut client = http_2(gateway.address).await;
    let request = Request::delete("http://a/test").body(Full::new(Bytes::new())).expect("a request");
    client.send_request(request).await.expect("a response").into_body().collect().await.expect("a body");
    let mut lines = gateway.log(3).await;
    lines.sort_by_key(|line| line["timestamp"].to_string());
    let facts = |line: &Value| {
        let text = |name: &str| line[name].as_str().unwrap_or("-").to_owned();
        let facts = ["message", "method", "path", "service", "route", "client", "protocol"].map(text).join(" ");
        format!("{facts} {} {} {}", line["status"], line["bytes"], line["retries"])
    };
    assert_eq!(facts(&lines[0]), "access GET /test/a%22b test /test 127.0.0.1 HTTP/1.1 200 5 0");
    assert_eq!(facts(&lines[2]), "access DELETE /test test /test 127.0.0.1 HTTP/2 200 5 0");
    let unmatched = facts(&lines[1]);
    assert!(unmatched.starts_with("access POST /elsewhere - - 127.0.0.1 HTTP/1.1 404 "), "{unmatched}");
    for line in &lines {
        assert!(line["duration"].as_f64().is_some_and(|duration| duration > 0.0 && duration < 30.0), "{line}");
        assert!(line["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    }
    assert_eq!(lines[0]["upstream"], stub.address.to_string());
}

#[tokio::test]
async fn an_abandoned_request_is_logged_with_status_499() {
    let ended = Arc::new(AtomicUsize::new(0));
    let stub = Stub::raw({
        let ended = ended.clone();
        move |mut stream, _| {
            let ended = ended.clone();
            async move {
                read_head(&mut stream).await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
                ended.fetch_add(1, Ordering::SeqCst);
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&["--header-timeout=60s"], &[&stub]);
    let reached = async |count| {
        eventually("the request reaches the service", TIMEOUT, async || (stub.connections() == count).then_some(()))
            .await;
    };
    let mut client = http_2(gateway.address).await;
    let request = Request::get("http://a/test").body(Full::new(Bytes::new())).expect("a request");
    let waiting = tokio::spawn(client.send_request(request));
    reached(1).await;
    waiting.abort();

    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send("GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    reached(2).await;
    drop(raw);

    for line in gateway.log(2).await {
        assert_eq!((&line["status"], &line["complete"]), (&499.into(), &false.into()));
    }
    gateway.metric_becomes("http_requests_in_flight", 0).await;
    let both_ended = async || (ended.load(Ordering::SeqCst) == 2).then_some(());
    eventually("the service notices", TIMEOUT, both_ended).await;
    assert_eq!(stub.connections(), 2, "it must not be sent again");
}

#[tokio::test]
async fn the_gateways_own_responses_to_head_are_complete() {
    let gateway = TestGateway::with(&[], &[]);
    let mut client = http_2(gateway.address).await;
    let paths = ["/nobody", "/test", "/openapi.json"];
    for path in paths {
        let head = |host: &str| Request::head(format!("{host}{path}")).header("host", "a").body(Full::default());
        let two = client.send_request(head("http://a").expect("a request")).await.expect("a response");
        let two = TestResponse::read(two).await.expect("no body, and no error");
        let one = gateway.send(head("").expect("a request")).await;
        let got = gateway.get(path).await;
        for response in [&one, &two] {
            assert_eq!((response.status, &*response.body), (got.status, &b""[..]), "{path}");
            assert_eq!(response.header("content-length"), Some(&*got.body.len().to_string()), "{path}");
        }
    }
    for line in gateway.log(paths.len() * 3).await {
        assert_eq!(line["complete"], Value::Null, "{line}");
    }
}

#[tokio::test]
async fn a_long_path_is_cut_off_in_the_access_log() {
    let gateway = TestGateway::with(&[], &[]);
    let paths =
        [format!("/{}", "n".repeat(1023)), format!("/{}", "n".repeat(1024)), format!("/{}", "\u{e9}".repeat(2000))];
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    for path in &paths {
        raw.send(format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await.expect("sent");
        raw.response().await.expect("a response");
    }
    let logged: Vec<_> =
        gateway.log(3).await.iter().map(|line| line["path"].as_str().expect("a path").to_owned()).collect();
    let cut = |path: &str, length: usize| format!("{}\u{2026}", &path[..length]);
    assert_eq!(logged, [paths[0].clone(), cut(&paths[1], 1024), cut(&paths[2], 1023)]);
}

/// Over HTTP/2, a method that is sent again costs a byte.
#[tokio::test]
async fn a_long_method_is_refused_and_cut_off_in_the_log() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let method = Method::from_bytes(&[b'M'; 33]).expect("a method");
    assert_eq!(gateway.send(request(method, "/test", "")).await.problem(), (501, "about:blank".to_owned()));
    assert_eq!(gateway.log(1).await[0]["method"], "M".repeat(32));
    let method = Method::from_bytes(&[b'M'; 32]).expect("a method");
    assert_eq!(gateway.send(request(method, "/test", "")).await.status, 200);
    assert_eq!(stub.requests(), 1);
}
