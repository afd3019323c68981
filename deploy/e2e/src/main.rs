//! The tools of the end-to-end suite.

use std::process::ExitCode;

// One thread is enough for this load, and leaves the other cores of a small machine to the services under test.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    e2e::main().await
}
