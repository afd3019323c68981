//! HTTP by the letter: what RFC 9110, 9112 and 9113 require of a proxy.

use http::{HeaderValue, header};
use test_support::raw::Raw;
use tokio::io::AsyncWriteExt;

use super::{
    stub::{full_body, read_head, write_response},
    *,
};

/// Responds with the value of a header of the request.
async fn echoing(name: &'static str) -> Stub {
    Stub::responding(move |request| async move {
        let values: Vec<_> =
            request.headers().get_all(name).iter().map(|value| value.to_str().expect("text")).collect();
        Response::new(full_body(values.join("|")))
    })
    .await
}

/// Responds to each request with these bytes.
async fn writing(response: &'static str) -> Stub {
    Stub::raw(move |mut stream, _| async move {
        while read_head(&mut stream).await.is_some() {
            if stream.write_all(response.as_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await
}

/// Sends bytes on a new connection.
async fn raw(gateway: &TestGateway, bytes: &str) -> Raw {
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    raw.send(bytes).await.expect("sent");
    raw
}

/// RFC 9113, section 8.3.1, and RFC 9110, section 7.2.
#[tokio::test]
async fn http_2_has_one_host() {
    let stub = echoing("host").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut client = http_2(gateway.address).await;
    for (hosts, status) in [
        (&[][..], 200),
        (&["shop.example"], 200),
        (&["SHOP.example"], 200),
        (&["shop.example", "shop.example"], 400),
        (&["shop.example", "other.example"], 400),
        (&["other.example"], 400),
    ] {
        let mut request = Request::get("http://shop.example/test").body(Full::<Bytes>::default()).expect("a request");
        for host in hosts {
            request.headers_mut().append(header::HOST, HeaderValue::from_static(host));
        }
        let response = client.send_request(request).await.expect("a response");
        let response = TestResponse::read(response).await.expect("a complete response");
        assert_eq!(response.status, status, "{hosts:?}");
        if status == 200 {
            assert_eq!(response.text(), "shop.example");
        }
    }
}

#[tokio::test]
async fn invalid_hosts_are_refused() {
    let stub = echoing("host").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    for host in
        ["a:b", "[::1", "a]b", "a%zz", "a%2", "::1", "[a]", "[::1]x", "a:1:2", "a:65536", "a[b", ":80", "", "[]"]
    {
        for line in ["/test", "http://other.example/test"] {
            // A target with an authority replaces the header.
            let status = if line.starts_with('/') { 400 } else { 200 };
            let mut raw = raw(&gateway, &format!("GET {line} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
            assert_eq!(raw.response().await.expect("a response").status, status, "{line} {host}");
        }
    }
    for target in ["http://a:b/test", "http://a%zz/test", "http://a:65536/test"] {
        let mut raw = raw(&gateway, &format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert_eq!(raw.response().await.expect("a response").status, 400, "{target}");
    }
    for host in ["a", "a.example:80", "a:", "127.0.0.1:8080", "[::1]", "[2001:db8::1]:443", "a%20b", "a_b"] {
        let mut raw = raw(&gateway, &format!("GET /test HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(raw.response().await.expect("a response").body, host);
    }
}

/// RFC 9113, section 8.2.3.
#[tokio::test]
async fn cookies_are_joined_into_one_header() {
    let stub = echoing("cookie").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let request = Request::get("http://shop.example/test").header("cookie", "a=1").header("cookie", "b=2; c=3");
    let request = request.header("cookie", "d=4").body(Full::<Bytes>::default()).expect("a request");
    let response = http_2(gateway.address).await.send_request(request).await.expect("a response");
    let response = TestResponse::read(response).await.expect("a complete response");
    assert_eq!(response.text(), "a=1; b=2; c=3; d=4");
}

/// RFC 9110, sections 7.6.2 and 9.3.8.
#[tokio::test]
async fn max_forwards_ends_at_the_gateway_and_trace_is_refused() {
    let stub = echoing("max-forwards").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let send = async |method: Method, path: &str, hops: Option<&'static str>| {
        let mut request = request(method, path, "");
        request.headers_mut().extend(hops.map(|hops| (header::MAX_FORWARDS, HeaderValue::from_static(hops))));
        gateway.send(request).await
    };
    for (method, sent, expected) in [
        (Method::OPTIONS, "1", "0"),
        (Method::OPTIONS, "10", "9"),
        (Method::OPTIONS, "99999999999999999999", "4294967294"),
        // Ignored if it is malformed, and for other methods.
        (Method::OPTIONS, "-1", "-1"),
        (Method::GET, "0", "0"),
    ] {
        assert_eq!(send(method, "/test", Some(sent)).await.text(), expected, "{sent}");
    }
    assert_eq!(stub.requests(), 5);
    let own = send(Method::OPTIONS, "/test", Some("0")).await;
    assert_eq!(own.status, 204);
    assert!(own.header("allow").is_some_and(|methods| methods.contains("PATCH") && !methods.contains("TRACE")));
    let all = raw(&gateway, "OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n").await.response().await.expect("a response");
    assert_eq!(all.status, 204, "{}", all.head);
    for hops in [None, Some("0"), Some("5")] {
        let trace = send(Method::TRACE, "/test", hops).await;
        assert_eq!(trace.problem().0, 405);
        assert_eq!(trace.header("allow"), own.header("allow"));
    }
    assert_eq!(stub.requests(), 5);
}

/// RFC 9110, section 6.5.1.
#[tokio::test]
async fn trailers_of_responses_are_filtered() {
    let stub = writing(concat!(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n",
        "trailer: x-sum, connection, server, x-powered-by, content-length, set-cookie, transfer-encoding, www-authenticate\r\n\r\n",
        "2\r\nok\r\n0\r\nx-sum: 1\r\nconnection: close\r\nserver: stub\r\nx-powered-by: stub\r\ncontent-length: 9\r\n",
        "set-cookie: a=1\r\ntransfer-encoding: chunked\r\nwww-authenticate: Basic\r\n\r\n",
    ))
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let request = Request::get("http://shop.example/test").body(Full::<Bytes>::default()).expect("a request");
    let response = http_2(gateway.address).await.send_request(request).await.expect("a response");
    let response = TestResponse::read(response).await.expect("a complete response");
    let trailers = response.trailers.expect("trailers");
    let names: Vec<_> = trailers.keys().map(ToString::to_string).collect();
    assert_eq!((response.body, names), ("ok".into(), vec!["x-sum".to_owned()]));
}

/// RFC 9110, sections 8.6 and 15.5.22.
#[tokio::test]
async fn response_headers_fit_the_status() {
    let stub = writing("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let response = gateway.get("/test").await;
    assert_eq!((response.status.as_u16(), response.header("content-length")), (204, None));

    let stub = writing(
        "HTTP/1.1 426 Upgrade Required\r\nconnection: upgrade\r\nupgrade: websocket, foo/2\r\ncontent-length: 0\r\n\r\n",
    )
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut raw = raw(&gateway, "GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let response = raw.response().await.expect("a response");
    assert_eq!((response.status, response.header("upgrade")), (426, Some("websocket, foo/2")), "{}", response.head);
    assert_eq!(response.header("connection"), Some("upgrade"));
    // The connection stays usable.
    raw.send("GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    assert_eq!(raw.response().await.expect("a response").status, 426);
}

#[tokio::test]
async fn a_malformed_chunk_gets_400() {
    let stub = Stub::responding(async |request| {
        let body = request.into_body().collect().await;
        Response::new(full_body(if body.is_ok() { "complete" } else { "incomplete" }))
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let head = "POST /test HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    for body in ["x\r\n", "5\r\nhelloX\r\n0\r\n\r\n", "5\nhello\n0\n\n", "5\r\nhello\r\n0\r\nx: y\n\r\n"] {
        for pieces in [vec![format!("{head}{body}")], vec![head.to_owned(), body.to_owned()]] {
            let mut raw = Raw::connect(gateway.address).await.expect("a connection");
            for piece in &pieces {
                raw.send(piece).await.expect("sent");
            }
            let response = raw.response().await.expect("a response");
            assert!(response.status == 400 && response.closes(), "{pieces:?}: {}", response.head);
            raw.closed().await.expect("closed");
        }
    }
}

/// RFC 9110, section 15.3.6.
#[tokio::test]
async fn a_205_has_no_content() {
    for framing in ["content-length: 5\r\n\r\nhello", "transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let stub = Stub::raw(move |mut stream, _| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(format!("HTTP/1.1 205 Reset Content\r\n{framing}").as_bytes()).await;
        })
        .await;
        let response = TestGateway::with(&[], &[&stub]).get("/test").await;
        assert_eq!((response.status.as_u16(), response.text()), (205, ""), "{framing}");
        assert!([None, Some("0")].contains(&response.header("content-length")), "{response:?}");
    }
}

/// A service that sends the content after all would have it taken for the next response.
#[tokio::test]
async fn announced_content_that_is_not_read_ends_the_connection() {
    let respond = |head: &'static str| {
        Stub::raw(move |mut stream, number| async move {
            while let Some(request) = read_head(&mut stream).await {
                if request.contains("/test/next") {
                    write_response(&mut stream, if number == 0 { "the first" } else { "another" }).await;
                } else if stream.write_all(head.as_bytes()).await.is_err() {
                    return;
                }
            }
        })
    };
    for (method, head, expected) in [
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", "another"),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "another"),
        (Method::HEAD, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", "another"),
        (Method::HEAD, "HTTP/1.1 200 OK\r\n\r\n", "another"),
        (Method::GET, "HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n", "another"),
        (Method::GET, "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n", "another"),
        (Method::GET, "HTTP/1.1 204 No Content\r\n\r\n", "the first"),
        (Method::GET, "HTTP/1.1 205 Reset Content\r\ncontent-length: 5\r\n\r\n", "another"),
        (Method::GET, "HTTP/1.1 205 Reset Content\r\n\r\n", "another"),
        (Method::GET, "HTTP/1.1 205 Reset Content\r\ncontent-length: 0\r\n\r\n", "the first"),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", "another"),
        (Method::GET, "HTTP/1.1 304 Not Modified\r\n\r\n", "the first"),
    ] {
        let stub = respond(head).await;
        let gateway = TestGateway::with(&[], &[&stub]);
        // One client connection stays on one thread of the gateway.
        let mut client = http_1(gateway.address).await;
        let response = client.send_request(request(method.clone(), "/test", "")).await.expect("a response");
        TestResponse::read(response).await.expect("a complete response");
        client.ready().await.expect("an open connection");
        let next = client.send_request(request(Method::GET, "/test/next", "")).await.expect("a response");
        assert_eq!(TestResponse::read(next).await.expect("a complete response").text(), expected, "{method} {head}");
    }
}

/// RFC 6585, section 5. A service may have the same limit, so what the gateway adds counts.
#[tokio::test]
async fn too_many_header_fields_are_refused_by_the_gateway() {
    let stub = Stub::text("hello").await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let with = |mut request: Request<Full<Bytes>>, name: &'static str, count: usize| {
        for _ in 0..count {
            request.headers_mut().append(name, HeaderValue::from_static("1"));
        }
        request
    };
    let mut client = http_2(gateway.address).await;
    for (count, status) in [(80, Some(200)), (85, None), (88, None), (91, None), (95, Some(431)), (100, Some(431))] {
        let http_2 = Request::post("http://shop.example/test").body(Full::from("x")).expect("a request");
        let response = client.send_request(with(http_2, "a", count)).await.expect("a response");
        let http_2 = TestResponse::read(response).await.expect("a complete response");
        let http_1 = gateway.send(with(request(Method::POST, "/test", "x"), "a", count - 5)).await;
        for response in [http_2, http_1] {
            if response.status != 200 {
                assert_eq!(response.problem().0, 431, "{count}");
            }
            assert!(status.is_none_or(|status| response.status == status), "{count}: {response:?}");
        }
    }
    let requests = stub.requests();
    for count in [101, 500] {
        let http_2 = Request::get("http://shop.example/test").body(Full::default()).expect("a request");
        let response = client.send_request(with(http_2, "a", count)).await.expect("a response");
        assert_eq!(TestResponse::read(response).await.expect("a complete response").problem().0, 431);
    }
    assert_eq!(stub.requests(), requests);
    // Cookies are one field.
    let http_2 = Request::get("http://shop.example/test").body(Full::default()).expect("a request");
    let response = client.send_request(with(http_2, "cookie", 200)).await.expect("a response");
    assert_eq!(response.status(), 200);
}
