//! File descriptors: how many the gateway may have, and what happens when there are no more.

use test_support::{
    process::{Process, Program, TIMEOUT, eventually},
    raw::{self, Raw},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// Starts the gateway under limits set by `ulimit`.
async fn limited(limits: &str, routes: &str) -> Process {
    let script = format!("{limits}; exec \"$0\"");
    let shell = Program::new("/bin/sh").argument("-c").argument(script).argument(env!("CARGO_BIN_EXE_gateway"));
    shell.variable("ROUTES", routes).variable("WORKERS", "2").serve().await
}

/// Starts a service that responds to one request on each connection.
async fn service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        }
    });
    port
}

async fn status(raw: &mut Raw, path: &str) -> u16 {
    raw.send(raw::get(path)).await.expect("sent");
    raw.response().await.expect("a response").status
}

#[tokio::test]
async fn the_soft_limit_of_descriptors_is_raised() {
    let gateway = limited("ulimit -Sn 64", "test:/test=http://127.0.0.1:1").await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let mut raw = Raw::connect(gateway.http).await.expect("a connection");
        assert_eq!(status(&mut raw, "/none").await, 404);
        held.push(raw);
    }
}

#[tokio::test]
async fn no_endpoint_is_ejected_because_the_gateway_has_no_descriptor() {
    let (first, second) = (service().await, service().await);
    let routes = format!("test:/test=http://127.0.0.1:{first},http://127.0.0.1:{second}");
    let gateway = limited("ulimit -n 64", &routes).await;
    let mut client = Raw::connect(gateway.http).await.expect("a connection");
    assert_eq!(status(&mut client, "/none").await, 404);
    let mut held = Vec::new();
    eventually("no descriptor is left", TIMEOUT, async || {
        held.push(Raw::connect(gateway.http).await.expect("a connection"));
        gateway.log().iter().any(|line| line["message"] == "cannot accept connections").then_some(())
    })
    .await;
    assert_eq!(status(&mut client, "/test").await, 503);
    drop(held);
    let metrics = eventually("a descriptor is free", TIMEOUT, async || {
        let mut admin = Raw::connect(gateway.admin).await.expect("a connection");
        admin.send(raw::get("/metrics")).await.ok()?;
        admin.response().await.ok()
    })
    .await;
    let has = |line: &str| metrics.body.lines().any(|found| found == line);
    assert!(has("gateway_upstream_ejections_total{service=\"test\"} 0"), "{}", metrics.body);
    assert!(!has("gateway_upstream_errors_total{kind=\"local\",service=\"test\"} 0"), "{}", metrics.body);
    assert_eq!(status(&mut client, "/test").await, 200);
}
