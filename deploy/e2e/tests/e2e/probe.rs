//! `e2e get` and `e2e wait`.

use clap::Parser;
use e2e::{
    cli::Cli,
    client::Kind,
    probe::{self, Observation},
};
use http::StatusCode;
use test_support::{
    port::Port,
    process::{TIMEOUT, eventually},
};

use crate::server::{Reply, Server};

/// Runs a command. Returns whether it succeeds, and its last result.
async fn run(words: &[&str]) -> (bool, Observation) {
    let mut last = None;
    let print = |observation: &Observation| last = Some(observation.clone());
    let succeeded = match Cli::try_parse_from(["e2e"].iter().chain(words)) {
        Ok(Cli::Get(args)) => probe::get(&args, print).await,
        Ok(Cli::Wait(args)) => probe::wait(&args, print).await,
        other => panic!("{other:?}"),
    };
    (succeeded, last.expect("a line"))
}

#[tokio::test]
async fn any_response_counts() {
    let server = Server::start(|_| Reply::Status(StatusCode::NOT_FOUND)).await;
    let url = server.url("/unknown");
    let (succeeded, observation) = run(&["get", &url]).await;
    assert!(succeeded);
    assert_eq!((observation.status, observation.body.as_deref()), (Some(404), Some("[]")));
    assert!(run(&["get", &format!("tcp://{}", server.address)]).await.0);
    assert!(!run(&["get", "--expect-blocked", &url]).await.0);
}

#[tokio::test]
async fn blocked_means_that_no_connection_can_be_made() {
    let closed = Port::free();
    for url in [format!("http://{}/", closed.address), format!("tcp://{}", closed.address)] {
        let (succeeded, observation) = run(&["get", &url]).await;
        assert!(!succeeded);
        assert_eq!(observation.failure.expect("a failure").kind, Kind::Connect);
        assert!(run(&["get", "--expect-blocked", &url]).await.0);
    }
}

/// Otherwise a typo would look like a working network policy.
#[tokio::test]
async fn an_unknown_name_is_not_blocked() {
    let (succeeded, observation) = run(&["get", "--expect-blocked", "http://unknown.invalid/"]).await;
    assert!(!succeeded);
    assert_eq!(observation.failure.expect("a failure").kind, Kind::Name);
}

#[tokio::test]
async fn get_fails_if_one_url_does_not_respond() {
    let server = Server::start(|_| Reply::Normal).await;
    let closed = Port::free();
    assert!(!run(&["get", &format!("tcp://{}", closed.address), &server.url("/")]).await.0);
}

#[tokio::test]
async fn wait_retries_until_the_response_is_a_success() {
    let unready = |n| if n < 3 { Reply::Status(StatusCode::SERVICE_UNAVAILABLE) } else { Reply::Normal };
    let server = Server::start(unready).await;
    let (succeeded, observation) = run(&["wait", &server.url("/readyz")]).await;
    assert_eq!((succeeded, observation.status), (true, Some(200)));
    let server = Server::start(|_| Reply::Drop).await;
    // Repeat until the machine does not pause for as long as the last attempt may take.
    eventually("the last attempt is printed", TIMEOUT, async || {
        let (succeeded, observation) = run(&["wait", "--timeout", "300ms", &server.url("/readyz")]).await;
        assert!(!succeeded);
        (observation.failure.expect("a failure").kind == Kind::Reset).then_some(())
    })
    .await;
}
