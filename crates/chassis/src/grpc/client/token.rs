//! The token by which a service proves to a peer who it is.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, ensure};
use arc_swap::ArcSwapOption;
use http::HeaderValue;
use tokio::time;

use runtime::request::chain;

/// The time between two reads of a file.
const INTERVAL: Duration = Duration::from_secs(1);

/// The maximum size of a file, in bytes.
const MAX_FILE: u64 = 16 << 10;

/// A token in a file, which is renewed while the service runs.
pub(super) struct PeerToken {
    peer: &'static str,
    path: PathBuf,
    /// The last good one, as the value of `Authorization`.
    current: ArcSwapOption<HeaderValue>,
    has_failed: AtomicBool,
}

impl PeerToken {
    /// Reads the token for a peer from the file of its name, now and when it changes. The file may also appear later.
    pub(super) fn follow(peer: &'static str, folder: &Path) -> Arc<Self> {
        let token =
            Self { peer, path: folder.join(peer), current: ArcSwapOption::empty(), has_failed: AtomicBool::new(false) };
        token.renew();
        let token = Arc::new(token);
        let weak = Arc::downgrade(&token);
        tokio::spawn(async move {
            loop {
                time::sleep(INTERVAL).await;
                let Some(token) = weak.upgrade() else { return };
                token.renew();
            }
        });
        token
    }

    /// Returns the value of `Authorization`; `None` if there never was a token.
    pub(super) fn current(&self) -> Option<HeaderValue> {
        self.current.load().as_deref().cloned()
    }

    /// Reads the file. If that fails, the last token stays. Returns whether there is another one.
    pub(super) fn renew(&self) -> bool {
        match read(&self.path) {
            Ok(token) => {
                self.has_failed.store(false, Ordering::Relaxed);
                let is_new = self.current.load().as_deref() != Some(&token);
                if is_new {
                    self.current.store(Some(Arc::new(token)));
                }
                is_new
            }
            Err(error) => {
                if !self.has_failed.swap(true, Ordering::Relaxed) {
                    let (peer, error) = (self.peer, chain(error.as_ref()));
                    tracing::error!(peer, error, "cannot read the token for a peer; the last one stays in use");
                }
                false
            }
        }
    }
}

fn read(path: &Path) -> anyhow::Result<HeaderValue> {
    let place = || path.display().to_string();
    let metadata = fs::metadata(path).with_context(place)?;
    ensure!(metadata.is_file(), "{}: it is not a file", place());
    ensure!(metadata.len() <= MAX_FILE, "{}: it is larger than {MAX_FILE} bytes", place());
    let text = fs::read_to_string(path).with_context(place)?;
    let text = text.trim();
    ensure!(!text.is_empty(), "{}: it is empty", place());
    let mut token = HeaderValue::try_from(format!("Bearer {text}")).with_context(place)?;
    token.set_sensitive(true);
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use tempfile::TempDir;

    use super::*;

    /// Puts a token into the folder as the kubelet does: the folder with all files is behind a link that is replaced.
    fn publish(folder: &Path, version: &str, token: &[u8]) {
        fs::create_dir(folder.join(version)).expect("a folder");
        fs::write(folder.join(version).join("inventory"), token).expect("written");
        symlink(version, folder.join("new")).expect("a link");
        fs::rename(folder.join("new"), folder.join("..data")).expect("renamed");
        let _ = symlink("..data/inventory", folder.join("inventory"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_renewed_and_a_bad_file_changes_nothing() {
        let directory = TempDir::new().expect("a folder");
        let folder = directory.path();
        let token = PeerToken::follow("inventory", folder);
        assert_eq!(token.current(), None);
        let mut expected = "";
        for (version, written, value) in [
            ("1", &b"a.b.c\n"[..], Some("Bearer a.b.c")),
            ("2", b"d.e.f", Some("Bearer d.e.f")),
            ("3", b" \n", None),
            ("4", b"a\nb", None),
            ("5", b"\xff", None),
            ("6", &vec![b'a'; 20_000], None),
            ("7", b"g.h.i", Some("Bearer g.h.i")),
        ] {
            publish(folder, version, written);
            expected = value.unwrap_or(expected);
            time::sleep(2 * INTERVAL).await;
            assert_eq!(token.current().expect("a token"), expected, "{version}");
        }
        fs::remove_file(folder.join("inventory")).expect("removed");
        assert!(!token.renew() && token.current().expect("a token") == expected);
    }

    #[test]
    fn a_token_is_never_shown() {
        let directory = TempDir::new().expect("a folder");
        publish(directory.path(), "1", b"secret");
        let path = directory.path().join("inventory");
        assert!(!format!("{:?}", read(&path).expect("a token")).contains("secret"));
        fs::write(&path, b"secret\nsecret").expect("written");
        assert!(!format!("{:#}", read(&path).expect_err("refused")).contains("secret"));
    }
}
