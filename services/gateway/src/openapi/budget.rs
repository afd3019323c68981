//! Limits the memory of the merged document while it is built. Documents that repeat little text many times, or have
//! many small objects, would otherwise take a thousand times as much memory as their text.

use serde_json::Value;

use super::fetch::DocumentError;

/// The limits for all documents together and for each, in bytes, by the estimate of [`memory_of`].
const MAX_TOTAL: usize = 128 * 1024 * 1024;
const MAX_DOCUMENT: usize = 64 * 1024 * 1024;

/// What an object and each further member or item take besides their text, in bytes.
const OBJECT: usize = 640;
const MEMBER: usize = 128;

/// The memory that may still be used.
pub(super) struct Budget(usize);

impl Default for Budget {
    fn default() -> Self {
        Self(MAX_TOTAL)
    }
}

impl Budget {
    /// Builds something from one document. If that fails, nothing of the budget is used.
    pub(super) fn spend<T>(
        &mut self,
        build: impl FnOnce(&mut Self) -> Result<T, DocumentError>,
    ) -> Result<T, DocumentError> {
        let limit = self.0.min(MAX_DOCUMENT);
        let mut of_document = Self(limit);
        let result = build(&mut of_document)?;
        self.0 -= limit - of_document.0;
        Ok(result)
    }

    /// Takes a number of bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Result<(), DocumentError> {
        self.0 = self.0.checked_sub(bytes).ok_or(DocumentError::TooMuchMemory)?;
        Ok(())
    }

    /// Parses a document.
    pub(super) fn parse(&mut self, text: &[u8]) -> Result<Value, DocumentError> {
        self.take(memory_of(text))?;
        match serde_json::from_slice(text) {
            Ok(document @ Value::Object(_)) => Ok(document),
            _ => Err(DocumentError::NotOpenApi),
        }
    }
}

/// Estimates how much memory the value of a JSON text takes, and its text in the merged document. Punctuation within
/// strings counts too, so the estimate is rather too high than too low.
pub(super) fn memory_of(text: &[u8]) -> usize {
    let structure = text.iter().map(|byte| match byte {
        b'{' => OBJECT,
        b',' | b'[' => MEMBER,
        _ => 0,
    });
    2 * text.len() + structure.sum::<usize>()
}
