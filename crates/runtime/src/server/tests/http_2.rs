//! HTTP/2 on the same port.

use super::*;

#[tokio::test]
async fn a_client_that_never_opens_its_window_is_disconnected() {
    let server = server_with(Timeouts { http_2_age: Duration::from_millis(100), ..TIMEOUTS }).await;
    for window in [0, 1] {
        let (mut sender, connection) = server.http_2_with_window(Some(window)).await;
        let response = sender.send_request(request("/large")).await.expect("a response head");
        // The body is kept but not read.
        time::timeout(TIMEOUT, connection).await.expect("closed").expect("no panic").ok();
        drop(response);
    }
    server.stop().await;
}

/// Long before the connection reaches its maximum age, and without an effect on other streams.
#[tokio::test]
async fn a_stream_whose_client_reads_nothing_is_reset() {
    let server = server_with(TIMEOUTS).await;
    for window in [0_u32, 1, 70_000] {
        let mut connection = server.connect().await;
        let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
        let large = frame(HEADERS, 0b101, 3, b"\x82\x86\x04\x06/large\x41\x04test");
        let wait = frame(HEADERS, 0b101, 1, b"\x82\x86\x04\x05/wait\x41\x04test");
        let sent = [PREFACE.as_bytes(), &frame(SETTINGS, 0, 0, &settings), &wait, &large].concat();
        connection.send(sent).await.expect("sent");
        server.waiting.notified().await;
        receives(&mut connection, RST_STREAM, 1).await;
        server.go.notify_one();
        receives(&mut connection, HEADERS, 2).await;
    }
    server.stop().await;
}

/// Waits until frames of a type have been received.
async fn receives(connection: &mut Raw, kind: u8, count: usize) {
    eventually("frames are received", TIMEOUT, async || {
        let _ = time::timeout(Duration::from_millis(10), connection.closed()).await;
        let received = kinds(connection.rest());
        (received.into_iter().filter(|received| *received == kind).count() >= count).then_some(())
    })
    .await;
}

/// It takes no more room than its client has given.
#[tokio::test]
async fn a_response_that_just_fits_the_window_is_complete() {
    let server = server_with(TIMEOUTS).await;
    let (mut sender, _connection) = server.http_2_with_window(Some(u32::try_from(LARGE).expect("short"))).await;
    let response = sender.send_request(request("/large")).await.expect("a response head");
    assert_eq!(text(response).await.len(), LARGE);
    server.stop().await;
}

/// A stream of events may be silent for hours.
#[tokio::test]
async fn a_stream_that_waits_for_the_service_outlives_the_max_age() {
    let timeouts =
        Timeouts { http_2_age: Duration::from_millis(1), write_timeout: Duration::from_millis(20), ..TIMEOUTS };
    let server = server_with(timeouts).await;
    let (mut sender, connection) = server.http_2().await;
    let response = sender.send_request(request("/events")).await.expect("a response head");
    let mut events = response.into_body();
    for _ in 0..2 {
        // Meanwhile, other connections open and close.
        let started = Instant::now();
        while started.elapsed() < timeouts.write_timeout * 5 {
            let (mut sender, other) = server.http_2_with_window(Some(0)).await;
            let stuck = sender.send_request(request("/large")).await;
            time::timeout(TIMEOUT, other).await.expect("closed").expect("no panic").ok();
            drop(stuck);
        }
        server.go.notify_one();
        let event = events.frame().await.expect("an event").expect("an event without an error");
        assert_eq!(event.data_ref().expect("data"), "event");
    }
    assert!(!connection.is_finished());
    drop(events);
    connection.await.expect("no panic").expect("the connection closes after its last stream");
    server.stop().await;
}

#[tokio::test]
async fn http_2_without_tls_is_served_on_the_same_port() {
    let server = server().await;
    let (mut sender, _connection) = server.http_2().await;
    for _ in 0..3 {
        assert_eq!(text(sender.send_request(request("/")).await.expect("a response")).await, "hello");
    }
    // The same if the preface arrives in pieces.
    let mut connection = server.connect().await;
    for piece in [&PREFACE[..3], &PREFACE[3..20], &PREFACE[20..], "\0\0\0\x04\0\0\0\0\0"] {
        let pause = time::timeout(Duration::from_millis(10), connection.closed()).await;
        assert!(pause.is_err());
        connection.send(piece).await.expect("sent");
    }
    // The server sends its settings, a frame of type 4.
    while connection.rest().len() < 9 {
        let _ = time::timeout(Duration::from_millis(10), connection.closed()).await;
    }
    assert_eq!(connection.rest()[3], 4);
}

/// Without waiting for the header timeout, and without a busy loop.
#[tokio::test]
async fn an_incomplete_preface_before_eof_closes_at_once() {
    let server = server_with(Timeouts { request_head_timeout: TIMEOUT * 2, ..TIMEOUTS }).await;
    for part in ["", "PRI", &PREFACE[..23]] {
        let mut connection = server.connect().await;
        connection.send(part).await.expect("sent");
        connection.finish_sending().await.expect("half closed");
        connection.closed().await.expect("closed");
    }
}

#[tokio::test]
async fn goaway_lets_streams_in_flight_finish() {
    let server = server().await;
    let (mut sender, connection) = server.http_2().await;
    let response = tokio::spawn(sender.send_request(request("/wait")));
    server.waiting.notified().await;
    server.phases.send_replace(Phase::Draining);
    // Other requests get responses until GOAWAY arrives.
    while let Ok(response) = sender.send_request(request("/")).await {
        assert_eq!(text(response).await, "hello");
    }
    server.go.notify_one();
    assert_eq!(text(response.await.expect("no panic").expect("a response")).await, "waited");
    connection.await.expect("no panic").expect("closed without an error");
    server.phases.send_replace(Phase::Stopping);
    server.task.await.expect("the server stops");
}

/// Encodes a frame (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the types of the received frames.
fn kinds(mut bytes: &[u8]) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        kinds.push(*kind);
        bytes = rest.get(length..).unwrap_or_default();
    }
    kinds
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// A request: GET, http, / and the authority (RFC 7541, appendix A and section 6.2).
fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, 0b101, stream, b"\x82\x86\x84\x41\x04test")
}

/// Requests that are reset at once.
fn resets(streams: std::ops::Range<u32>) -> Vec<u8> {
    let reset = |stream| [get(stream), frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat();
    streams.step_by(2).flat_map(reset).collect()
}

/// A proxy closes it, as each may cost the service behind it a connection.
#[tokio::test]
async fn a_connection_on_which_most_streams_are_reset_is_closed() {
    let server = server_of(super::super::Server::default().strict()).await;
    let mut connection = server.connect().await;
    connection.send([PREFACE.as_bytes(), &frame(SETTINGS, 0, 0, b"")].concat()).await.expect("sent");
    let mut next = 1;
    eventually("the connection is closed", TIMEOUT, async || {
        let streams = next..next + 100;
        next = streams.end + 1;
        let is_sent = connection.send(resets(streams)).await.is_ok();
        let closed = time::timeout(Duration::from_millis(10), connection.closed()).await;
        (!is_sent || closed.is_ok()).then_some(())
    })
    .await;
    server.stop().await;
}

/// The requests on it may be those of other clients.
#[tokio::test]
async fn resets_do_not_end_the_requests_of_a_shared_connection() {
    let server = server_of(super::super::Server::default().strict().shared(true)).await;
    let mut connection = server.connect().await;
    // A request that waits: GET, http, /wait and the authority.
    let wait = frame(HEADERS, 0b101, 1, b"\x82\x86\x04\x05/wait\x41\x04test");
    connection.send([PREFACE.as_bytes(), &frame(SETTINGS, 0, 0, b""), &wait].concat()).await.expect("sent");
    server.waiting.notified().await;
    let mut next = 3;
    let mut reset = async |connection: &mut Raw| {
        let streams = next..next + 100;
        next = streams.end;
        connection.send(resets(streams)).await.expect("an open connection");
        let closed = time::timeout(Duration::from_millis(10), connection.closed()).await;
        assert!(closed.is_err(), "the connection is closed");
    };
    eventually("GOAWAY", TIMEOUT, async || {
        reset(&mut connection).await;
        kinds(connection.rest()).contains(&GOAWAY).then_some(())
    })
    .await;
    for _ in 0..20 {
        reset(&mut connection).await;
    }
    server.go.notify_one();
    eventually("the response", TIMEOUT, async || {
        let _ = time::timeout(Duration::from_millis(10), connection.closed()).await;
        connection.rest().windows(6).any(|bytes| bytes == b"waited").then_some(())
    })
    .await;
    drop(connection);
    server.stop().await;
}

#[tokio::test]
async fn streams_that_are_reset_at_once_do_not_close_the_connection() {
    let server = server().await;
    let mut connection = server.connect().await;
    let mut sent = [PREFACE.as_bytes(), &frame(SETTINGS, 0, 0, b"")].concat();
    sent.extend(resets(1..200));
    sent.extend(get(201));
    connection.send(sent).await.expect("sent");
    let frames = eventually("a response", TIMEOUT, async || {
        let _ = time::timeout(Duration::from_millis(10), connection.closed()).await;
        let kinds = kinds(connection.rest());
        (kinds.contains(&HEADERS) || kinds.contains(&GOAWAY)).then_some(kinds)
    });
    assert!(!frames.await.contains(&GOAWAY));
    drop(connection);
    server.stop().await;
}
