//! The socket's folder: inside the data folder, or elsewhere if that path would be too long.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{env, fs};

use nix::unistd::Uid;

use crate::folder::Folder;
use crate::{Account, DataDir, Error, PORT};

/// The longest path of a Unix socket, in bytes.
const MAX_PATH: usize = 107;

/// Prepares an empty folder for the socket that only the server's account (and root) can enter.
pub fn prepare(data: &DataDir) -> Result<PathBuf, Error> {
    let inside = data.path().join("run");
    let path = if is_usable(&inside) { inside } else { outside(data.path(), data.account()) };
    let folder = make_private(&path, data.account())?;
    // The lock file of a killed server may contain a pid that has been reused.
    for name in [format!(".s.PGSQL.{PORT}"), format!(".s.PGSQL.{PORT}.lock")] {
        let _ = fs::remove_file(folder.at(name));
    }
    Ok(path)
}

/// Clients would split a path with a comma into two hosts.
fn is_usable(folder: &Path) -> bool {
    let socket = folder.join(format!(".s.PGSQL.{PORT}"));
    socket.to_str().is_some_and(|path| path.len() <= MAX_PATH && !path.contains(','))
}

/// A short path, derived from the data folder's path so that it is stable.
fn outside(data: &Path, account: &Account) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    runtime
        .filter(|folder| !account.is_different() && folder.is_dir() && folder.is_absolute())
        .map(|folder| folder.join(format!("hedgerow-{:016x}", hasher.finish())))
        .filter(|folder| is_usable(folder))
        .unwrap_or_else(|| format!("/tmp/hedgerow-{}-{:016x}", account.uid, hasher.finish()).into())
}

/// In /tmp anyone could have created the folder, or a link in its place.
fn make_private(path: &Path, account: &Account) -> Result<Folder, Error> {
    let not_private = || Error::NotPrivate(path.to_owned());
    let (parent, name) = path.parent().zip(path.file_name()).ok_or_else(not_private)?;
    let parent = Folder::open(parent, None)?;
    if fs::symlink_metadata(parent.at(name)).is_ok_and(|found| !found.is_dir()) {
        return Err(not_private());
    }
    let folder = parent.create(name, 0o700)?;
    let owner = folder.owner()?;
    if owner != account.uid && owner != Uid::effective() {
        return Err(not_private());
    }
    if owner != account.uid {
        folder.set_owner(account)?;
    }
    folder.set_mode(0o700)?;
    Ok(folder)
}

#[cfg(test)]
mod tests {
    use std::fs::DirBuilder;
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};

    use super::*;

    #[test]
    fn a_socket_path_has_at_most_107_bytes_and_no_comma() {
        let of_length = |length: usize| PathBuf::from(format!("/{}", "x".repeat(length - 1)));
        let name = "/.s.PGSQL.5432".len();
        assert!(is_usable(&of_length(MAX_PATH - name)));
        assert!(!is_usable(&of_length(MAX_PATH - name + 1)));
        assert!(!is_usable(Path::new("/a,b")));
    }

    #[test]
    fn a_symbolic_link_is_refused() {
        let scratch = tempfile::tempdir().unwrap();
        let account = Account::for_data_dir(scratch.path()).unwrap();
        let link = scratch.path().join("link");
        std::os::unix::fs::symlink(scratch.path(), &link).unwrap();
        assert!(matches!(make_private(&link, &account), Err(Error::NotPrivate(_))));
    }

    #[test]
    fn an_existing_folder_is_made_private() {
        let scratch = tempfile::tempdir().unwrap();
        let account = Account::for_data_dir(scratch.path()).unwrap();
        let folder = scratch.path().join("run");
        DirBuilder::new().mode(0o777).create(&folder).unwrap();
        make_private(&folder, &account).unwrap();
        let made = fs::metadata(&folder).unwrap();
        assert_eq!((made.mode() & 0o777, made.uid()), (0o700, account.uid.as_raw()));
    }
}
