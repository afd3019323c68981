//! `e2e relay`, between a client and a small server.

use std::time::Duration;

use clap::Parser;
use e2e::{cli::Cli, relay};
use test_support::process::{TIMEOUT, eventually};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::server::{Reply, Server};

/// Starts a relay to the server, and returns its address.
async fn relay(server: &Server, words: &[&str], stop: &CancellationToken) -> String {
    let to = format!("--to={}", server.address);
    let args = match Cli::try_parse_from(["e2e", "relay", "--listen=127.0.0.1:0", &to].iter().chain(words)) {
        Ok(Cli::Relay(args)) => args,
        other => panic!("{other:?}"),
    };
    let (address, relay) = relay::start(args, stop.clone()).await.expect("a free address");
    tokio::spawn(relay);
    address.to_string()
}

#[tokio::test]
async fn it_forwards_requests_until_it_stops() {
    let server = Server::start(|_| Reply::Normal).await;
    let stop = CancellationToken::new();
    let url = format!("http://{}/", relay(&server, &[], &stop).await);
    assert!(reqwest::get(&url).await.expect("a response").status().is_success());
    stop.cancel();
    let gone = async { while reqwest::get(&url).await.is_ok() {} };
    timeout(Duration::from_secs(5), gone).await.expect("the relay stops");
}

#[tokio::test]
async fn it_goes_silent_and_keeps_its_connections() {
    let server = Server::start(|_| Reply::Normal).await;
    let stop = CancellationToken::new();
    // This is longer than any pause of the machine before the first request.
    let address = relay(&server, &["--silent-after", "10s"], &stop).await;
    let client = reqwest::Client::new();
    let attempt = async || timeout(Duration::from_millis(600), client.get(format!("http://{address}/")).send()).await;
    let mut responses = 0;
    eventually("the relay goes silent", TIMEOUT, async || match attempt().await {
        Ok(response) => {
            response.expect("an open connection");
            responses += 1;
            None
        }
        // If only a pause of the machine delayed the response, the next attempt succeeds.
        Err(_) => attempt().await.is_err().then_some(()),
    })
    .await;
    assert!(responses > 0, "the relay was silent from the start");
}
