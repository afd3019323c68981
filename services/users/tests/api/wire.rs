//! Bytes that no well-behaved client sends are refused with a response that arrives, never with a 5xx.

use serde_json::json;
use sqlx::PgPool;
use test_support::{
    app::{App, Response, join_all},
    raw::{chunked, whole},
};

use crate::{count, create, path, start};

const KIB: usize = 1024;

/// A valid user in a body of exactly this many bytes.
fn padded(email: &str, length: usize) -> Vec<u8> {
    let body = json!({"name": "Ada", "email": email}).to_string();
    let padding = " ".repeat(length - body.len());
    format!("{body}{padding}").into_bytes()
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_body_has_at_most_64_kib(pool: PgPool) {
    let app = start(&pool).await;
    for (number, encode) in [whole, chunked].into_iter().enumerate() {
        let body = |length| padded(&format!("ada{number}@example.com"), length);
        app.raw(&encode("POST /users", &body(64 * KIB + 1))).await.problem(413);
        assert_eq!(app.raw(&encode("POST /users", &body(64 * KIB))).await.status, 201);
    }
    assert_eq!(count(&pool).await, 2);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_client_that_is_still_sending_gets_the_response(pool: PgPool) {
    let app = start(&pool).await;
    let user = create(&app, "Ada", "ada@example.com").await;
    let ada = path(&user);
    let large = vec![b' '; 8 * KIB * KIB];
    for encode in [whole, chunked] {
        app.raw(&encode("POST /users", &large)).await.problem(413);
        app.raw(&encode(&format!("PATCH {ada}"), &large)).await.problem(413);
        app.raw(&encode("POST /nothing", &large)).await.problem(404);
        app.raw(&encode("GET /nothing", &large)).await.problem(404);
        app.raw(&encode("PUT /users", &large)).await.problem(405);
        app.raw(&encode("GET /users?limit=x", &large)).await.problem(422);
        assert_eq!(app.raw(&encode("GET /users", &large)).await.status, 200);
        assert_eq!(app.raw(&encode(&format!("GET {ada}"), &large)).await.status, 200);
    }
    let text = String::from_utf8(whole("POST /users", &large)).expect("ASCII");
    app.raw(text.replace("application/json", "text/plain").as_bytes()).await.problem(415);
    assert_eq!(app.get("/users").await.rows(), [user]);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_large_body_is_refused_without_waiting_for_it(pool: PgPool) {
    let app = start(&pool).await;
    let head = "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for more in ["", "expect: 100-continue\r\n"] {
        let bytes = format!("{head}{more}content-length: 1000000\r\n\r\n");
        app.raw(bytes.as_bytes()).await.problem(413);
    }
}

/// Asserts that the HTTP parser itself refused the request, with a bare response.
fn assert_refused(what: &str, response: &Response) {
    assert!((400..500).contains(&response.status), "{what}: {} {}", response.status, response.text());
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn header_floods_are_refused(pool: PgPool) {
    let app = start(&pool).await;
    let flood = |count: usize, length: usize| {
        let value = "x".repeat(length);
        let headers: Vec<_> = (0..count).map(|number| format!("x-{number}: {value}\r\n")).collect();
        let headers = headers.concat();
        format!("GET /users HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")
    };
    assert_eq!(app.raw(flood(90, 10).as_bytes()).await.status, 200);
    for (count, length) in [(101, 1), (1000, 10), (10_000, 10), (1, 100_000), (10, 10_000), (1, 8_000_000)] {
        assert_refused(&format!("{count} of {length}"), &app.raw(flood(count, length).as_bytes()).await);
    }
    let long = format!("GET /{} HTTP/1.1\r\nhost: localhost\r\n\r\n", "a".repeat(100_000));
    assert_refused("a long path", &app.raw(long.as_bytes()).await);
    assert_eq!(app.get("/users").await.status, 200);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn garbage_is_refused(pool: PgPool) {
    let app = start(&pool).await;
    let garbage: [&[u8]; 18] = [
        b"\r\n\r\n\r\nx\r\n\r\n",
        b"\x00\x00\x00\x00\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS handshake \r\n\r\n",
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /users\r\n\r\n",
        b"GET /users HTTP/9.9\r\n\r\n",
        b"GET  HTTP/1.1\r\n\r\n",
        b"GET /us ers HTTP/1.1\r\n\r\n",
        b"GET /users/\xff HTTP/1.1\r\nconnection: close\r\n\r\n",
        b"GET /users/\x01 HTTP/1.1\r\n\r\n",
        b"GET /users HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET /users HTTP/1.1\r\nbad\x00name: x\r\n\r\n",
        b"GET /users HTTP/1.1\r\nx: a\x00b\r\n\r\n",
        b"GET /users HTTP/1.1\r\n folded: x\r\n\r\n",
        b"POST /users HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /users HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        b"POST /users HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n{}",
    ];
    for bytes in garbage {
        assert_refused(&String::from_utf8_lossy(bytes), &app.raw(bytes).await);
    }
    assert_eq!(app.get("/users").await.status, 200);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn unusual_targets_are_refused_with_a_problem(pool: PgPool) {
    let app = start(&pool).await;
    let head = |line: &str| format!("{line} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    for line in ["OPTIONS *", "GET *", "CONNECT localhost:80", "GET http://x/nothing", "GET /users/..", "GET /./users"]
    {
        app.raw(head(line).as_bytes()).await.problem(404);
    }
    let absolute = app.raw(head("GET http://elsewhere.example/users?limit=1").as_bytes()).await;
    assert_eq!(absolute.rows(), [json!(null); 0]);
    app.raw(head("GET /users/é").as_bytes()).await.problem(404);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn an_incomplete_body_is_400(pool: PgPool) {
    let app = start(&pool).await;
    let head =
        "POST /users HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ntransfer-encoding: chunked";
    for body in ["zz\r\n", "5\r\n{\"nameX", "ffffffffffffffffff\r\n", "-1\r\n", "2\r\n{}0\r\n\r\n"] {
        app.raw(format!("{head}\r\n\r\n{body}").as_bytes()).await.problem(400);
    }
    assert_eq!(count(&pool).await, 0);
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn a_refused_request_does_not_affect_the_next_one(pool: PgPool) {
    let app = start(&pool).await;
    let head = "host: localhost\r\ncontent-type: application/json\r\n";
    let pipelined = format!(
        "POST /users HTTP/1.1\r\n{head}content-length: 2\r\n\r\n{{}}\
         DELETE /users/x HTTP/1.1\r\n{head}\r\n\
         GET /users HTTP/1.1\r\n{head}connection: close\r\n\r\n"
    );
    let responses = app.raw(pipelined.as_bytes()).await;
    assert_eq!(responses.status, 422);
    let rest = responses.text();
    let statuses: Vec<_> = rest.split("HTTP/1.1 ").skip(1).map(|response| &response[..3]).collect();
    assert_eq!(statuses, ["404", "200"]);
    assert!(rest.ends_with("\r\n\r\n[]"), "{rest}");
}

#[sqlx::test(migrator = "users::MIGRATIONS")]
async fn clients_that_disconnect_do_no_harm(pool: PgPool) {
    async fn leave(app: &App, bytes: &[u8]) {
        use tokio::net::TcpStream;
        let stream = TcpStream::connect(app.http).await.expect("a connection");
        stream.writable().await.expect("writable");
        let _ = stream.try_write(bytes);
    }
    let app = start(&pool).await;
    let cut: [&[u8]; 6] = [
        b"",
        b"GET /us",
        b"GET /users HTTP/1.1\r\nhost: loc",
        b"POST /users HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{\"name\"",
        b"PRI",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n and then garbage that is no frame",
    ];
    join_all(cut.iter().cycle().take(60).map(|bytes| leave(&app, bytes))).await;
    create(&app, "Ada", "ada@example.com").await;
    assert_eq!(count(&pool).await, 1);
}
