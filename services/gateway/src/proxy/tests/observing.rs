//! What is told of requests: headers, metrics, the access log.

use test_support::raw::Raw;
use tokio::io::AsyncReadExt;

use super::{
    stub::{read_head, whole},
    *,
};

/// Says what ids came with the request.
async fn told_ids() -> Stub {
    Stub::answering(async |request| {
        let header =
            |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or("-").to_owned();
        let text = format!("{} {} {}", header("x-request-id"), header("traceparent"), header("tracestate"));
        Response::builder().header("x-request-id", "own").body(whole(text)).expect("a response")
    })
    .await
}

#[tokio::test]
async fn a_request_has_an_id_and_a_trace_that_its_service_and_its_log_line_know_too() {
    let stub = told_ids().await;
    let site = Site::with(&[], &[&stub]);
    let answer = site.get("/test").await;
    let (id, traceparent) = answer.text().split_once(' ').expect("two");
    assert_eq!(answer.headers.get_all("x-request-id").iter().collect::<Vec<_>>(), [id]);
    assert!(id.len() == 36, "{id}");
    let parts: Vec<_> = traceparent.split([' ', '-']).collect();
    assert!(
        matches!(parts[..], ["00", trace, parent, "01", ..] if trace.len() == 32 && parent.len() == 16),
        "{traceparent}"
    );
    let line = &site.log(1).await[0];
    assert_eq!((&line["request_id"], &line["trace_id"]), (&id.into(), &parts[1].into()));
}

#[tokio::test]
async fn an_id_and_a_trace_that_come_are_passed_on_if_they_make_sense() {
    const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let stub = told_ids().await;
    let site = Site::with(&[], &[&stub]);
    let with = async |id: &str, trace: &str| {
        let mut request = request(Method::GET, "/test", "");
        for (name, value) in [("x-request-id", id), ("traceparent", trace), ("tracestate", "a=b")] {
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        site.send(request).await.text().to_owned()
    };
    assert_eq!(with("abc", TRACE).await, format!("abc {TRACE} a=b"));
    let text = with("a b", "00-00000000000000000000000000000000-b7ad6b7169203331-00").await;
    assert!(
        !text.contains("a b") && !text.contains("-00000000000000000000000000000000-") && text.ends_with(" -"),
        "{text}"
    );
}

#[tokio::test]
async fn every_answer_tells_browsers_to_be_careful_and_none_what_software_it_is_of() {
    let stub = Stub::answering(async |_| {
        let response = Response::builder().header("server", "nginx").header("x-frame-options", "SAMEORIGIN");
        response.body(whole("hello")).expect("a response")
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    for (path, frames) in [("/test", "SAMEORIGIN"), ("/openapi.json", "DENY"), ("/nobody", "DENY")] {
        let answer = site.get(path).await;
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(answer.headers.get_all("x-frame-options").iter().collect::<Vec<_>>(), [frames], "{path}");
        assert_eq!(answer.header("server"), None, "{path}");
    }
}

#[tokio::test]
async fn each_request_is_counted_under_its_route() {
    let stub = Stub::answering(async |request| {
        let status = if request.uri().path().ends_with("missing") { 404 } else { 200 };
        Response::builder().status(status).body(whole("hello")).expect("a response")
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    for path in ["/test", "/test/1", "/test/2", "/test/missing", "/elsewhere"] {
        site.get(path).await;
    }
    site.post("/test", "x").await;
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
        site.metric_becomes(&labels.0, expected).await;
        site.metric_becomes(&labels.1, expected).await;
    }
    assert_eq!(site.metric("http_requests_in_flight"), 0);
}

#[tokio::test]
async fn each_request_is_one_line_of_the_log() {
    let stub = Stub::saying("hello").await;
    let site = Site::with(&[], &[&stub]);
    site.get("/test/a%22b?secret=1").await;
    site.post("/elsewhere", "x").await;
    let mut client = http_2(site.address).await;
    let request = Request::delete("http://a/test").body(Full::new(Bytes::new())).expect("a request");
    client.send_request(request).await.expect("an answer").into_body().collect().await.expect("a body");
    let mut lines = site.log(3).await;
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
async fn a_request_whose_client_does_not_wait_for_the_answer_is_noted_as_such() {
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
    let site = Site::with(&["--header-timeout=60s"], &[&stub]);
    let begun = async |count| {
        eventually("it is with the service", PATIENCE, async || (stub.connections() == count).then_some(())).await;
    };
    let mut client = http_2(site.address).await;
    let request = Request::get("http://a/test").body(Full::new(Bytes::new())).expect("a request");
    let waiting = tokio::spawn(client.send_request(request));
    begun(1).await;
    waiting.abort();

    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send("GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    begun(2).await;
    drop(raw);

    for line in site.log(2).await {
        assert_eq!((&line["status"], &line["complete"]), (&499.into(), &false.into()));
    }
    site.metric_becomes("http_requests_in_flight", 0).await;
    let told = async || (ended.load(Ordering::SeqCst) == 2).then_some(());
    eventually("the service is told", PATIENCE, told).await;
    assert_eq!(stub.connections(), 2, "it is not sent again");
}

#[tokio::test]
async fn a_head_request_that_the_gateway_answers_itself_has_no_body_and_is_complete() {
    let site = Site::with(&[], &[]);
    let mut client = http_2(site.address).await;
    let paths = ["/nobody", "/test", "/openapi.json"];
    for path in paths {
        let head = |host: &str| Request::head(format!("{host}{path}")).header("host", "a").body(Full::default());
        let two = client.send_request(head("http://a").expect("a request")).await.expect("an answer");
        let two = Answer::read(two).await.expect("no body, and no error");
        let one = site.send(head("").expect("a request")).await;
        let got = site.get(path).await;
        for answer in [&one, &two] {
            assert_eq!((answer.status, &*answer.body), (got.status, &b""[..]), "{path}");
            assert_eq!(answer.header("content-length"), Some(&*got.body.len().to_string()), "{path}");
        }
    }
    for line in site.log(paths.len() * 3).await {
        assert_eq!(line["complete"], Value::Null, "{line}");
    }
}
