//! Exit codes.

use std::process::ExitCode;

/// Invalid arguments or configuration; the same as clap's.
const USAGE: u8 = 2;

/// Reports invalid arguments or configuration in one line.
pub(crate) fn usage(message: &str) -> ExitCode {
    eprintln!("operator: {message}");
    ExitCode::from(USAGE)
}
