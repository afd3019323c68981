//! Chooses the data folder: the one the user asks for, unless Postgres cannot enter it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use embedded_postgres::{Account, DataDir};

/// Used in place of folders that the account running Postgres cannot enter, such as those below `/root`.
const FALLBACK: &str = "/var/lib/hedgerow";

/// Opens the data folder, and says so if it is not the requested one.
pub fn open(requested: &Path) -> anyhow::Result<DataDir> {
    let requested = std::path::absolute(requested).context("cannot resolve the data folder")?;
    let account = Account::for_data_dir(&requested)?;
    if account.can_enter(&requested) {
        return Ok(DataDir::open(&requested)?);
    }
    let fallback = fallback(&requested);
    let (requested, account, path) = (requested.display(), account.name(), fallback.display());
    eprintln!(
        "hedgerow: using the data folder {path}, because Postgres runs as the user `{account}`, which has no access to {requested}"
    );
    Ok(DataDir::open(&fallback)?)
}

/// The same path below [`FALLBACK`], so that different folders stay different.
fn fallback(requested: &Path) -> PathBuf {
    Path::new(FALLBACK).join(requested.strip_prefix("/").unwrap_or(requested))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_folder_keeps_the_requested_path() {
        assert_eq!(fallback(Path::new("/root/a b/.hedgerow")), Path::new("/var/lib/hedgerow/root/a b/.hedgerow"));
    }
}
