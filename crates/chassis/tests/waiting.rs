//! Clients that never send the bodies of their requests.

use axum::routing::get;
use chassis::{Fields, FromFields, Json, Service};
use http::{Method, Request};
use serde_json::json;
use sqlx::migrate::Migrator;
use test_support::{
    app::App,
    process::{TIMEOUT, eventually},
};
use tokio::net::TcpStream;
use utoipa_axum::router::OpenApiRouter;

static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

struct Nothing;

impl FromFields for Nothing {
    fn from_fields(_: &mut Fields) -> Option<Self> {
        Some(Self)
    }
}

static SERVICE: Service<()> = Service {
    name: "waiting",
    about: "Reads bodies",
    version: "1.0.0",
    migrations: &NO_MIGRATIONS,
    api: || OpenApiRouter::new().route("/body", get(async || {}).post(async |Json(Nothing): Json<Nothing>| {})),
    grpc: None,
    peers: &[],
    state: |_| (),
};

/// The streams that the server allows a connection.
const STREAMS: usize = 256;

/// The requests that a service handles at a time.
const HANDLED: usize = 2048;

const CONNECTIONS: usize = HANDLED / STREAMS + 1;

#[tokio::test]
async fn bodies_that_never_come_keep_nobody_out() {
    let app = App::start_on(&SERVICE, "postgres://nobody@127.0.0.1:1/none".to_owned()).await;
    let address = app.http;
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let socket = TcpStream::connect(address).await.expect("a connection");
        let (mut client, connection) = h2::client::handshake(socket).await.expect("HTTP/2");
        tokio::spawn(connection);
        for _ in 0..STREAMS {
            client = client.ready().await.expect("another stream");
            let request = Request::builder().method(Method::POST).uri(format!("http://{address}/body"));
            let request = request.header("content-type", "application/json").body(()).expect("a request");
            streams.push(client.send_request(request, false).expect("it is sent"));
        }
    }
    let begun = async || {
        let metrics = app.admin("/metrics").await.text();
        let in_flight = metrics.lines().find_map(|line| line.strip_prefix("http_requests_in_flight "))?;
        (in_flight.parse::<usize>().ok()? >= HANDLED).then_some(())
    };
    eventually("the requests are in flight", TIMEOUT, begun).await;
    assert_eq!(app.get("/body").await.status, 200);
    assert_eq!(app.post("/body", &json!({})).await.status, 200);
    drop(streams);
}
