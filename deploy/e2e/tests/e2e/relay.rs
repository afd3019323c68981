//! The relay, between a client and a small server.

use std::time::Duration;

use clap::Parser;
use e2e::{cli::Cli, relay};
use test_support::process::{PATIENCE, eventually};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::server::{Fate, Server};

/// A relay to the server; its address.
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
async fn it_passes_requests_on_until_it_goes_away() {
    let server = Server::start(|_| Fate::Answered).await;
    let stop = CancellationToken::new();
    let url = format!("http://{}/", relay(&server, &[], &stop).await);
    assert!(reqwest::get(&url).await.expect("an answer").status().is_success());
    stop.cancel();
    let gone = async { while reqwest::get(&url).await.is_ok() {} };
    timeout(Duration::from_secs(5), gone).await.expect("it goes away");
}

#[tokio::test]
async fn it_goes_silent_and_keeps_its_connections() {
    let server = Server::start(|_| Fate::Answered).await;
    let stop = CancellationToken::new();
    // Later than the machine may pause before the first request.
    let address = relay(&server, &["--silent-after", "10s"], &stop).await;
    let client = reqwest::Client::new();
    let ask = async || timeout(Duration::from_millis(600), client.get(format!("http://{address}/")).send()).await;
    let mut answers = 0;
    eventually("it goes silent", PATIENCE, async || match ask().await {
        Ok(answer) => {
            answer.expect("no end");
            answers += 1;
            None
        }
        // One that the machine's pause made late is followed by others.
        Err(_) => ask().await.is_err().then_some(()),
    })
    .await;
    assert!(answers > 0, "it was silent from the beginning");
}
