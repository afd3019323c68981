//! The gateway's command line.

use std::process::ExitCode;

/// The whole of the gateway's `main`.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
