//! What was read of a body, for an attempt that follows.

use std::mem;

use bytes::{Bytes, BytesMut};

/// The chunks that an attempt has read. The first one, which often is the whole body, is kept as it is. Several are
/// copied together: each would take memory of its own, and keep the buffer that it was read into.
#[derive(Default)]
pub(super) struct Kept {
    first: Bytes,
    joined: BytesMut,
}

impl Kept {
    pub(super) fn push(&mut self, chunk: &Bytes) {
        if self.first.is_empty() && self.joined.is_empty() {
            self.first = chunk.clone();
            return;
        }
        self.joined.extend_from_slice(&mem::take(&mut self.first));
        self.joined.extend_from_slice(chunk);
    }

    /// Takes everything, in one piece; empty if there is nothing.
    pub(super) fn take(&mut self) -> Bytes {
        let Self { first, joined } = mem::take(self);
        if joined.is_empty() { first } else { joined.freeze() }
    }
}
