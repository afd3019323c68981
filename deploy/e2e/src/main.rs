//! The tools of the end-to-end suite.

use std::process::ExitCode;

// One thread is enough for the load that is sent here, and leaves the rest of a small machine to what is tested.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    e2e::main().await
}
