//! What users logs about a peer.

use test_support::process::{Program, TIMEOUT, eventually};

#[tokio::test]
async fn a_peer_whose_name_does_not_resolve_is_logged() {
    // Nothing listens on this port: users also starts without its database.
    let users = Program::new(env!("CARGO_BIN_EXE_users"))
        .variable("DATABASE_URL", "postgres://users@127.0.0.1:1/users")
        .variable("INVENTORY_GRPC_URL", "http://no-such-host.invalid:50051,127.0.0.1:1");
    let users = users.serve().await;
    let line = eventually("a line about the host", TIMEOUT, async || {
        users.log().into_iter().find(|line| line["message"] == "peer does not resolve")
    })
    .await;
    assert_eq!((&line["level"], &line["peer"]), (&"WARN".into(), &"inventory".into()), "{line}");
    assert_eq!(line["host"], "no-such-host.invalid:50051", "{line}");
    assert!(line["reason"].is_string(), "{line}");
}
