//! `hedgerow token`: prints a token for trying things out.

use std::process::ExitCode;
use std::time::Duration;

use api::identity::ADMIN_ACCOUNT;
use identity::DEFAULT_AUDIENCE;

use crate::authority::Authority;
use crate::cli::Token;
use crate::data_folder;

/// How long it is valid.
const LIFETIME: Duration = Duration::from_hours(1);

/// Prints the token, and nothing else, on standard output.
pub fn run(arguments: &Token) -> anyhow::Result<ExitCode> {
    let authority = Authority::open(&data_folder::find(&arguments.data_dir)?)?;
    let audience = arguments.callee.as_deref().unwrap_or(DEFAULT_AUDIENCE);
    let token = match &arguments.service {
        Some(service) => authority.service_token(service, audience, LIFETIME)?,
        None if arguments.admin => authority.service_token(ADMIN_ACCOUNT, audience, LIFETIME)?,
        None => authority.scoped_token(&arguments.scopes, LIFETIME)?,
    };
    println!("{token}");
    Ok(ExitCode::SUCCESS)
}
