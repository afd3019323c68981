//! Chooses the data folder: the one the user asks for, unless there are data in its stead, or Postgres cannot enter it.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use embedded_postgres::{Account, DataDir};

/// Used in place of folders that the account running Postgres cannot enter, such as those below `/root`.
const FALLBACK: &str = "/var/lib/hedgerow";

/// Opens the data folder, and says so if it is not the requested one. Where there are data already, they decide: the
/// mode of a folder above the requested one may have changed since.
pub fn open(requested: &Path) -> anyhow::Result<DataDir> {
    let requested = std::path::absolute(requested).context("cannot resolve the data folder")?;
    let fallback = fallback(&requested);
    let is_requested = match (DataDir::has_data(&requested)?, DataDir::has_data(&fallback)?) {
        (true, true) => bail!(
            "there are data both in {} and in {}: move those that you do not need out of the way",
            requested.display(),
            fallback.display()
        ),
        (true, false) => true,
        (false, true) => {
            eprintln!("hedgerow: using the data folder {}, where the data are", fallback.display());
            false
        }
        (false, false) => is_reachable(&requested, &fallback)?,
    };
    Ok(DataDir::open(if is_requested { &requested } else { &fallback })?)
}

/// Whether the account that is to run Postgres can enter the requested folder. Says so if it cannot.
fn is_reachable(requested: &Path, fallback: &Path) -> anyhow::Result<bool> {
    let account = Account::for_data_dir(requested)?;
    let reachable = account.can_enter(requested);
    if !reachable {
        let (requested, account, path) = (requested.display(), account.name(), fallback.display());
        eprintln!(
            "hedgerow: using the data folder {path}, because Postgres runs as the user `{account}`, which has no access to {requested}"
        );
    }
    Ok(reachable)
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
