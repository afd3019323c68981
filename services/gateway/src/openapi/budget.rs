//! Limits the memory of the merged document while it is built. Documents that repeat little text many times, or have
//! many small objects, would otherwise take a thousand times as much memory as their text.

use serde_json::Value;

use super::fetch::DocumentError;

/// The limit for what is built of all documents together, in bytes. It is text, and becomes the merged document.
pub(super) const MAX_BUILT: usize = 16 * 1024 * 1024;

/// The limit for a document while it is parsed, in bytes, by the estimate of [`memory_of`]. It is larger, because
/// values take twenty times as much memory as their text. Only one document is parsed at a time.
const MAX_PARSED: usize = 64 * 1024 * 1024;

/// What an object and each further member or item take besides their text, in bytes.
const OBJECT: usize = 640;
const MEMBER: usize = 128;

/// What each text that is built takes besides its bytes.
const ENTRY: usize = 128;

/// How much may still be built.
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(MAX_BUILT)
    }
}

impl Budget {
    /// Builds something. If that fails, nothing of the budget is used.
    pub(super) fn spend<T>(
        &mut self,
        build: impl FnOnce(&mut Self) -> Result<T, DocumentError>,
    ) -> Result<T, DocumentError> {
        let before = self.0;
        build(self).inspect_err(|_| self.0 = before)
    }

    /// Fails if more than what is left would be taken.
    pub(super) fn check(&self, bytes: usize) -> Result<(), DocumentError> {
        if bytes <= self.0 { Ok(()) } else { Err(DocumentError::TooLargeMerged) }
    }

    /// Takes what a text of this length takes.
    pub(super) fn take(&mut self, length: usize) -> Result<(), DocumentError> {
        let bytes = length.saturating_add(ENTRY);
        self.check(bytes)?;
        self.0 -= bytes;
        Ok(())
    }
}

/// Parses a document.
pub(super) fn parse(text: &[u8]) -> Result<Value, DocumentError> {
    if memory_of(text) > MAX_PARSED {
        return Err(DocumentError::TooMuchMemory);
    }
    match serde_json::from_slice(text) {
        Ok(document @ Value::Object(_)) => Ok(document),
        _ => Err(DocumentError::NotOpenApi),
    }
}

/// Estimates how much memory the value of a JSON text takes. Punctuation within strings counts too, so the estimate is
/// rather too high than too low.
pub(super) fn memory_of(text: &[u8]) -> usize {
    let structure = text.iter().map(|byte| match byte {
        b'{' => OBJECT,
        b',' | b'[' => MEMBER,
        _ => 0,
    });
    text.len() + structure.sum::<usize>()
}
