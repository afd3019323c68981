//! The files of the page.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::HeaderValue;
use utoipa_swagger_ui::Config;

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
        let config = Config::from("/openapi.json").validator_url("none");
        let file = utoipa_swagger_ui::serve(path, Arc::new(config)).ok()??;
        let (media_type, bytes) = (file.content_type, file.bytes);
        let bytes = match bytes {
            Cow::Borrowed(bytes) => Bytes::from_static(bytes),
            Cow::Owned(bytes) => Bytes::from(bytes),
        };
        let file = File::new(HeaderValue::try_from(media_type).ok()?, bytes);
        files.insert(path.to_owned(), file.clone());
        Some(file)
    }
}
