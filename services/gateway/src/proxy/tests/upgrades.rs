//! WebSocket: after 101 the bytes are passed both ways, whatever they are.

use test_support::raw::{self, Raw};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::{stub::read_head, *};

const UPGRADE: &str = "GET /test HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: k\r\n\r\n";

/// Answers 101 and an early greeting, then echoes.
async fn echo() -> Stub {
    Stub::raw(async |mut stream, _| {
        let Some(head) = read_head(&mut stream).await else { return };
        assert!(head.contains("sec-websocket-key: k"), "{head}");
        assert!(head.to_lowercase().contains("upgrade: websocket"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: s\r\n\r\nearly";
        stream.write_all(answer.as_bytes()).await.expect("written");
        let (mut from, mut to) = stream.split();
        let _ = tokio::io::copy(&mut from, &mut to).await;
        let _ = to.write_all(b"bye").await;
    })
    .await
}

/// Asks for another protocol.
async fn ask(site: &Site) -> (Raw, raw::Answer) {
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    raw.send(UPGRADE).await.expect("sent");
    let answer = raw.answer().await.expect("an answer");
    (raw, answer)
}

/// The connection after 101 was read.
async fn upgraded(site: &Site) -> TcpStream {
    let (raw, answer) = ask(site).await;
    opened(raw, &answer).await
}

async fn opened(raw: Raw, answer: &raw::Answer) -> TcpStream {
    assert_eq!(answer.status, 101, "{}", answer.head);
    for (name, value) in [("connection", "upgrade"), ("upgrade", "websocket"), ("sec-websocket-accept", "s")] {
        assert_eq!(answer.header(name), Some(value), "{}", answer.head);
    }
    assert!(answer.header("x-request-id").is_some());
    let seen = raw.rest().to_vec();
    let mut stream = raw.into_stream();
    let mut rest = vec![0; 5 - seen.len()];
    stream.read_exact(&mut rest).await.expect("what was sent early");
    assert_eq!([seen, rest].concat(), b"early");
    stream
}

#[tokio::test]
async fn bytes_go_both_ways_until_both_ends_have_ended() {
    let stub = echo().await;
    let site = Site::with(&["--total-timeout=200ms", "--header-timeout=100ms"], &[&stub]);
    let mut tries = 0;
    let (raw, answer) = eventually("it is answered in its short time", PATIENCE, async || {
        tries += 1;
        Some(ask(&site).await).filter(|(_, answer)| answer.status != 504)
    })
    .await;
    let mut stream = opened(raw, &answer).await;
    // No HTTP, and longer than any time limit of a request.
    for piece in ["\0\r\n\r\n", "GET / HTTP/1.1\n\n", "\u{1f980}"] {
        tokio::time::sleep(MOMENT).await;
        stream.write_all(piece.as_bytes()).await.expect("sent");
        let mut echo = vec![0; piece.len()];
        stream.read_exact(&mut echo).await.expect("an echo");
        assert_eq!(echo, piece.as_bytes());
    }
    // It is none of the requests in flight.
    assert_eq!(site.metric("http_requests_in_flight"), 0);
    assert_eq!(site.metric(r#"gateway_upstream_requests_in_flight{service="test"}"#), 1);
    stream.shutdown().await.expect("half closed");
    let mut rest = Vec::new();
    timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("in time").expect("the rest");
    assert_eq!(rest, b"bye");
    let lines = site.log(tries).await;
    let is_it = |line: &Value| (&line["status"], &line["bytes"]) == (&101.into(), &(5 + 5 + 16 + 4 + 3).into());
    assert!(lines.iter().any(is_it), "{lines:?}");
    site.metric_becomes(r#"gateway_upstream_requests_in_flight{service="test"}"#, 0).await;
}

#[tokio::test]
async fn much_goes_through() {
    let stub = echo().await;
    let site = Site::with(&[], &[&stub]);
    let (mut from, mut to) = upgraded(&site).await.into_split();
    let sent: Vec<u8> = (0..10_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[2]).collect();
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            to.write_all(&sent).await.expect("sent");
            to
        }
    });
    let mut got = vec![0; sent.len()];
    timeout(PATIENCE, from.read_exact(&mut got)).await.expect("in time").expect("an echo");
    assert!(got == sent);
    sending.await.expect("no panic");
}

#[tokio::test]
async fn an_answer_other_than_101_is_an_answer() {
    let stub = Stub::saying("no").await;
    let site = Site::with(&[], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    for _ in 0..2 {
        raw.send(UPGRADE).await.expect("sent");
        assert_eq!(raw.answer().await.expect("an answer").body, "no");
    }
}

/// With `h2c` a client would have an HTTP connection to the service that no rule of the gateway applies to.
#[tokio::test]
async fn other_protocols_are_not_asked_for() {
    let stub = Stub::answering(async |request| {
        assert!(!request.headers().contains_key("upgrade") && !request.headers().contains_key("http2-settings"));
        Response::new(stub::whole("plain"))
    })
    .await;
    let site = Site::with(&[], &[&stub]);
    let mut raw = Raw::connect(site.address).await.expect("a connection");
    let head = "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n";
    raw.send(format!("GET /test HTTP/1.1\r\nhost: a\r\n{head}\r\n")).await.expect("sent");
    assert_eq!(raw.answer().await.expect("an answer").body, "plain");
}

/// The gateway stops though neither end does.
#[tokio::test]
async fn a_stop_does_not_wait_for_a_tunnel_that_does_not_end() {
    let stub = echo().await;
    let site = Site::with(&["--shutdown-timeout=60s"], &[&stub]);
    let mut stream = upgraded(&site).await;
    let stopped = tokio::spawn(site.running.stop());
    stream.write_all(b"still").await.expect("sent");
    let mut echo = [0; 5];
    stream.read_exact(&mut echo).await.expect("it goes on for a moment");
    let left = timeout(PATIENCE, stopped).await.expect("it stops").expect("no panic");
    assert!(left > PATIENCE, "{left:?}");
    assert_eq!(stream.read(&mut [0]).await.unwrap_or(0), 0);
}
