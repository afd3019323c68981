//! Limits on the body of a request: how long it may take, and how long it may be.

use std::{convert::Infallible, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, Request},
};
use bytes::Bytes;
use chassis::{Fields, FromFields, Json, Problem};
use futures_util::{Stream, StreamExt, stream};
use http::StatusCode;
use tokio::time::{self, Instant};

/// An object with the field `x`.
struct Point {
    x: u8,
}

impl FromFields for Point {
    fn from_fields(fields: &mut Fields) -> Option<Self> {
        Some(Self { x: fields.required("x")? })
    }
}

async fn read(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Result<Point, Problem> {
    let body = Body::from_stream(pieces.map(Ok::<_, Infallible>));
    let request = Request::post("/").header("content-type", "application/json").body(body).expect("a valid request");
    Json::from_request(request, &()).await.map(|Json(point)| point)
}

fn piece(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_is_408_after_10_s() {
    let started = Instant::now();
    let never = stream::iter([piece(r#"{"x":"#)]).chain(stream::pending());
    let problem = read(never).await.err().expect("a refusal");
    assert_eq!(problem.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(started.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_trickling_body_does_not_extend_the_timeout() {
    let started = Instant::now();
    let blanks = stream::repeat_with(|| piece(" ")).then(async |blank| {
        time::sleep(Duration::from_secs(3)).await;
        blank
    });
    let problem = read(blanks).await.err().expect("a refusal");
    assert_eq!(problem.status(), StatusCode::REQUEST_TIMEOUT);
    assert_eq!(started.elapsed(), Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_slow_body_within_the_timeout_is_accepted() {
    let pieces = stream::iter([piece("{"), piece(r#""x""#), piece(":7"), piece("}")]).then(async |piece| {
        time::sleep(Duration::from_secs(2)).await;
        piece
    });
    assert_eq!(read(pieces).await.expect("the body is complete in time").x, 7);
}

#[tokio::test]
async fn an_endless_body_is_413_once_it_exceeds_the_limit() {
    let endless = stream::repeat_with(|| piece("                                "));
    let problem = read(endless).await.err().expect("a refusal");
    assert_eq!(problem.status(), StatusCode::PAYLOAD_TOO_LARGE);
}
