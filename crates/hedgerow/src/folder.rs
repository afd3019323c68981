//! Where the data go: where the user says, unless Postgres cannot get there.

use std::path::{Path, PathBuf};

use anyhow::Context;
use embedded_postgres::{Account, DataDir};

/// Below it is the data of folders that the account which runs Postgres cannot enter, such as `/root`.
const ELSEWHERE: &str = "/var/lib/hedgerow";

/// Opens the data folder, and says so when it is another than the one asked for.
pub fn open(asked: &Path) -> anyhow::Result<DataDir> {
    let asked = std::path::absolute(asked).context("the data folder")?;
    let account = Account::of(&asked)?;
    if account.can_enter(&asked) {
        return Ok(DataDir::open(&asked)?);
    }
    let moved = moved(&asked);
    let (asked, account) = (asked.display(), account.name());
    eprintln!(
        "hedgerow: data go to {}, as the user `{account}`, who runs Postgres, cannot enter {asked}",
        moved.display()
    );
    Ok(DataDir::open(&moved)?)
}

/// The same path below [`ELSEWHERE`], so that each folder has its own.
fn moved(asked: &Path) -> PathBuf {
    Path::new(ELSEWHERE).join(asked.strip_prefix("/").unwrap_or(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_moved_elsewhere_keep_their_path() {
        assert_eq!(moved(Path::new("/root/a b/.hedgerow")), Path::new("/var/lib/hedgerow/root/a b/.hedgerow"));
    }
}
