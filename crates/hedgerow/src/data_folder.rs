//! Chooses the data folder: the one the user asks for, unless there are data in its stead, or Postgres cannot enter it.

use std::fs::{self, DirEntry};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use embedded_postgres::{Account, DataDir};
use nix::unistd::Uid;

/// Root uses a folder below this one in place of a folder that the account running Postgres cannot enter, such as one
/// below `/root`.
const FALLBACK: &str = "/var/lib/hedgerow";

/// Opens the data folder, and says so if it is not the requested one.
pub fn open(requested: &Path) -> anyhow::Result<DataDir> {
    let folder = DataDir::resolve(requested)?;
    let base = DataDir::resolve(Path::new(FALLBACK))?;
    if Uid::effective().is_root() {
        return Ok(DataDir::open(&choose(requested, folder, &base)?)?);
    }
    let fallback = below(&base, &folder);
    if !DataDir::has_data(&folder)? && DataDir::has_data(&fallback).unwrap_or_default() {
        let (folder, fallback) = (folder.display(), fallback.display());
        eprintln!("hedgerow: using an empty data folder {folder}: only root can use the data in {fallback}");
    }
    Ok(DataDir::open(&folder)?)
}

/// Finds the folder that [`open`] opens. Creates and locks nothing.
pub fn find(requested: &Path) -> anyhow::Result<PathBuf> {
    let folder = DataDir::resolve(requested)?;
    if !Uid::effective().is_root() {
        return Ok(folder);
    }
    choose(requested, folder, &DataDir::resolve(Path::new(FALLBACK))?)
}

/// Chooses between `folder`, to which the requested path refers, and folders below `base`. Where there are data
/// already, they decide: the mode of a folder above the requested one may have changed since.
fn choose(requested: &Path, folder: PathBuf, base: &Path) -> anyhow::Result<PathBuf> {
    let fallback = below(base, &folder);
    let mut places = vec![folder.clone(), fallback.clone()];
    places.extend(spelled_by_earlier_versions(requested, &folder, base)?);
    let mut with_data: Vec<PathBuf> = Vec::new();
    for place in places {
        if !with_data.contains(&place) && DataDir::has_data(&place)? {
            with_data.push(place);
        }
    }
    match &with_data[..] {
        [] if is_reachable(&folder, &fallback)? => Ok(folder),
        [] => Ok(fallback),
        [only] if *only == folder => Ok(folder),
        [only] if only.starts_with(base) => {
            eprintln!("hedgerow: using the data folder {}, where the data are", only.display());
            Ok(only.clone())
        }
        [only] => bail!(
            "there are data in {}, where an earlier version may have put those of {}: move them to {}, or choose a path without `..`",
            only.display(),
            folder.display(),
            fallback.display()
        ),
        several => {
            let several: Vec<_> = several.iter().map(|place| format!("in {}", place.display())).collect();
            bail!("there are data {}: move those that you do not need out of the way", several.join(" and "))
        }
    }
}

/// Whether the account that is to run Postgres can enter the requested folder. Says so if it cannot.
fn is_reachable(folder: &Path, fallback: &Path) -> anyhow::Result<bool> {
    let account = Account::for_data_dir(folder)?;
    let reachable = account.can_enter(folder);
    if !reachable {
        let (folder, account, path) = (folder.display(), account.name(), fallback.display());
        eprintln!(
            "hedgerow: using the data folder {path}, because Postgres runs as the user `{account}`, which has no access to {folder}"
        );
    }
    Ok(reachable)
}

/// The same path below `base`, so that different folders stay different.
fn below(base: &Path, path: &Path) -> PathBuf {
    base.join(path.strip_prefix("/").unwrap_or(path))
}

/// The folders that an earlier version can have used in place of `folder`: it named them after the path as it was
/// spelled, with symbolic links and `..`.
fn spelled_by_earlier_versions(requested: &Path, folder: &Path, base: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let requested = std::path::absolute(requested).context("cannot resolve the data folder")?;
    let mut found = vec![DataDir::resolve(&below(base, &requested))?];
    let mut unseen = vec![base.to_owned()];
    while let Some(next) = unseen.pop() {
        // Only root can have made what is in root's folders.
        let entries = fs::read_dir(&next).into_iter().flatten().flatten();
        unseen.extend(entries.filter(is_folder_of_root).map(|entry| entry.path()));
        let spelled = Path::new("/").join(next.strip_prefix(base)?);
        if DataDir::resolve(&spelled).is_ok_and(|resolved| resolved == folder) {
            found.push(next);
        }
    }
    Ok(found)
}

/// Whether it is a folder of root. It is not if it is a symbolic link to one.
fn is_folder_of_root(entry: &DirEntry) -> bool {
    entry.metadata().is_ok_and(|entry| entry.is_dir() && entry.uid() == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fallback_folder_keeps_the_requested_path() {
        let fallback = below(Path::new(FALLBACK), Path::new("/root/a b/.hedgerow"));
        assert_eq!(fallback, Path::new("/var/lib/hedgerow/root/a b/.hedgerow"));
    }
}
