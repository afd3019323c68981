//! The files of the page.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use http::HeaderValue;

use super::File;

/// The page. There are a dozen files in it, and each is kept as it is given out once it was asked for: their tags are
/// hashes of up to a megabyte.
#[derive(Default)]
pub(super) struct Page {
    files: Mutex<HashMap<String, File>>,
}

impl Page {
    /// A file by its path below the page's.
    pub(super) fn file(&self, path: &str) -> Option<File> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = files.get(path) {
            return Some(file.clone());
        }
        let (media_type, bytes) = chassis::page_file(path)?;
        let bytes = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let file = File::new(HeaderValue::try_from(media_type).ok()?, bytes);
        files.insert(path.to_owned(), file.clone());
        Some(file)
    }
}
