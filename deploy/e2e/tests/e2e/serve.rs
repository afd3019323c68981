//! `e2e serve`.

use std::time::Duration;

use clap::Parser;
use e2e::{
    cli::Cli,
    serve::{Bound, Serve},
};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

/// The drain delay is longer than any pause of the machine.
fn args() -> Serve {
    let words =
        ["e2e", "serve", "--http-addr=127.0.0.1:0", "--admin-addr=127.0.0.1:0", "--name=echo", "--drain-delay=3s"];
    match Cli::try_parse_from(words) {
        Ok(Cli::Serve(args)) => args,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_returns_name_and_path_and_is_unready_while_draining() {
    let (args, stop, client) = (args(), CancellationToken::new(), Client::new());
    let bound = Bound::new(&args).await.expect("free addresses");
    let (http, admin) = (bound.http, bound.admin);
    let stopping = stop.clone();
    let served = tokio::spawn(async move { bound.serve(&args, stopping).await });
    let response = client.get(format!("http://{http}/a/b?c")).send().await.expect("a response");
    assert_eq!(response.json::<Value>().await.expect("JSON"), json!({ "service": "echo", "path": "/a/b" }));
    let probe =
        async |path: &str| client.get(format!("http://{admin}{path}")).send().await.expect("a response").status();
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(probe(path).await, StatusCode::OK);
    }
    stop.cancel();
    let unready = async { while probe("/readyz").await != StatusCode::SERVICE_UNAVAILABLE {} };
    tokio::time::timeout(Duration::from_secs(5), unready).await.expect("the service drains");
    let response = client.get(format!("http://{http}/")).send().await.expect("a response while draining");
    assert_eq!(response.status(), StatusCode::OK);
    served.await.expect("the service exits");
}
