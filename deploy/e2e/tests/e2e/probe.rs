//! Probes.

use clap::Parser;
use e2e::{
    cli::Cli,
    client::Kind,
    probe::{self, Seen},
};
use http::StatusCode;
use test_support::{
    port::Port,
    process::{PATIENCE, eventually},
};

use crate::server::{Fate, Server};

/// Whether the command succeeds, and the last thing it saw.
async fn run(words: &[&str]) -> (bool, Seen) {
    let mut last = None;
    let print = |seen: &Seen| last = Some(seen.clone());
    let succeeded = match Cli::try_parse_from(["e2e"].iter().chain(words)) {
        Ok(Cli::Get(args)) => probe::get(&args, print).await,
        Ok(Cli::Wait(args)) => probe::wait(&args, print).await,
        other => panic!("{other:?}"),
    };
    (succeeded, last.expect("a line"))
}

#[tokio::test]
async fn any_answer_is_an_answer() {
    let server = Server::start(|_| Fate::Refused(StatusCode::NOT_FOUND)).await;
    let url = server.url("/nothing");
    let (succeeded, seen) = run(&["get", &url]).await;
    assert!(succeeded);
    assert_eq!((seen.status, seen.body.as_deref()), (Some(404), Some("[]")));
    assert!(run(&["get", &format!("tcp://{}", server.address)]).await.0);
    assert!(!run(&["get", "--expect-blocked", &url]).await.0);
}

#[tokio::test]
async fn no_connection_is_what_blocked_means() {
    let nobody = Port::free();
    for url in [format!("http://{}/", nobody.address), format!("tcp://{}", nobody.address)] {
        let (succeeded, seen) = run(&["get", &url]).await;
        assert!(!succeeded);
        assert_eq!(seen.failure.expect("a failure").kind, Kind::Connect);
        assert!(run(&["get", "--expect-blocked", &url]).await.0);
    }
}

/// Else a typo would pass for a policy that works.
#[tokio::test]
async fn an_unknown_name_is_not_blocked() {
    let (succeeded, seen) = run(&["get", "--expect-blocked", "http://nobody.invalid/"]).await;
    assert!(!succeeded);
    assert_eq!(seen.failure.expect("a failure").kind, Kind::Name);
}

#[tokio::test]
async fn one_that_does_not_answer_is_enough_to_fail() {
    let server = Server::start(|_| Fate::Answered).await;
    let nobody = Port::free();
    assert!(!run(&["get", &format!("tcp://{}", nobody.address), &server.url("/")]).await.0);
}

#[tokio::test]
async fn wait_goes_on_until_the_answer_is_a_success() {
    let unready = |n| if n < 3 { Fate::Refused(StatusCode::SERVICE_UNAVAILABLE) } else { Fate::Answered };
    let server = Server::start(unready).await;
    let (succeeded, seen) = run(&["wait", &server.url("/readyz")]).await;
    assert_eq!((succeeded, seen.status), (true, Some(200)));
    let server = Server::start(|_| Fate::Dropped).await;
    // Until the machine does not pause for as long as the last look may take.
    eventually("it says what the last look saw", PATIENCE, async || {
        let (succeeded, seen) = run(&["wait", "--timeout", "300ms", &server.url("/readyz")]).await;
        assert!(!succeeded);
        (seen.failure.expect("a failure").kind == Kind::Reset).then_some(())
    })
    .await;
}
