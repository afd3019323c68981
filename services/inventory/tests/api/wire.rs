//! Bytes that no well-behaved client sends are refused with a response that arrives, never with a 5xx.

use sqlx::PgPool;
use test_support::raw::{chunked, whole};

use crate::{counts, start, stock};

const KIB: usize = 1024;

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_body_has_at_most_64_kib(pool: PgPool) {
    let app = start(&pool).await;
    let padded = |length| format!("{}{}", r#"{"delta": 1}"#, " ".repeat(length - 12)).into_bytes();
    for encode in [whole, chunked] {
        app.raw(&encode("PATCH /inventory/p", &padded(64 * KIB + 1))).await.problem(413);
        assert_eq!(app.raw(&encode("PATCH /inventory/p", &padded(64 * KIB))).await.status, 200);
    }
    assert_eq!(stock(&app, "p").await, 2);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_client_that_is_still_sending_gets_the_response(pool: PgPool) {
    let app = start(&pool).await;
    let large = vec![b' '; 8 * KIB * KIB];
    let cases = [
        ("POST /inventory/p", 413),
        ("PATCH /inventory/p", 413),
        ("POST /inventory/a%00", 422),
        ("DELETE /inventory/p", 405),
        ("POST /nothing", 404),
        ("GET /nothing", 404),
        ("GET /inventory?limit=0", 422),
        ("GET /inventory", 200),
        ("GET /inventory/p", 200),
        ("GET /inventory/p/movements", 200),
    ];
    for (line, status) in cases {
        for encode in [whole, chunked] {
            let response = app.raw(&encode(line, &large)).await;
            assert_eq!(response.status, status, "{line}");
            if status >= 400 {
                response.problem(status);
            }
        }
    }
    assert_eq!(counts(&pool).await, (0, 0));
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn a_malformed_request_is_refused(pool: PgPool) {
    let app = start(&pool).await;
    let headers = (0..101).map(|number| format!("x-{number}: x\r\n")).collect::<Vec<_>>().concat();
    let cases = [
        format!("GET /inventory HTTP/1.1\r\n{headers}\r\n"),
        format!("GET /inventory HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(100_000)),
        format!("GET /inventory/{} HTTP/1.1\r\n\r\n", "x".repeat(100_000)),
        "GET /inventory/a b HTTP/1.1\r\n\r\n".to_owned(),
        "GET /inventory/a\u{7}b HTTP/1.1\r\n\r\n".to_owned(),
        "POST /inventory/p HTTP/1.1\r\ncontent-length: x\r\n\r\n".to_owned(),
        "POST /inventory/p HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 12\r\n\r\n{\"stock\": 1}".to_owned(),
        "\0\u{1}\u{2}\r\n\r\n".to_owned(),
    ];
    for bytes in cases {
        let status = app.raw(bytes.as_bytes()).await.status;
        assert!((400..500).contains(&status), "{status}: {}", &bytes[..bytes.len().min(100)]);
    }
    assert_eq!(counts(&pool).await, (0, 0));
    assert_eq!(app.get("/inventory").await.status, 200);
}

#[sqlx::test(migrator = "inventory::MIGRATIONS")]
async fn an_incomplete_body_is_400_and_changes_nothing(pool: PgPool) {
    let app = start(&pool).await;
    let head = "POST /inventory/p HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    for body in ["zz\r\n", "c\r\n{\"stock\": 1}XX", "c\r\n{\"stock\": 1}\r\nzz\r\n"] {
        app.raw(format!("{head}transfer-encoding: chunked\r\n\r\n{body}").as_bytes()).await.problem(400);
    }
    assert_eq!(counts(&pool).await, (0, 0));
}
