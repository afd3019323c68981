//! The tokens that a thread has verified, so that it verifies each only once.

use std::{
    cell::RefCell,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    mem,
    sync::Arc,
};

use aws_lc_rs::digest::{SHA256, digest};

use crate::{caller::Caller, metrics::Counters};

/// Half of the maximum number of tokens that a thread remembers.
const HALF: usize = 2_048;

/// The SHA-256 of a token.
pub(crate) type Digest = [u8; 32];

/// A verified token.
#[derive(Clone)]
pub(crate) struct Remembered {
    pub(crate) caller: Arc<Caller>,
    /// When it is no longer accepted, in seconds since 1970.
    pub(crate) until: u64,
    pub(crate) counters: Arc<Counters>,
}

/// Two halves: what is used moves to the recent one, and when that is full, the other is forgotten.
#[derive(Default)]
struct Memory {
    /// The keys that the tokens were verified with.
    generation: u64,
    recent: Half,
    older: Half,
}

type Half = HashMap<Digest, Remembered, BuildHasherDefault<Prefix>>;

thread_local! {
    static MEMORY: RefCell<Memory> = RefCell::default();
}

/// Returns the digest of a token.
pub(crate) fn digest_of(token: &[u8]) -> Digest {
    let mut bytes = Digest::default();
    bytes.copy_from_slice(digest(&SHA256, token).as_ref());
    bytes
}

/// Runs a closure with what is known of a token that was verified on this thread with the same keys.
pub(crate) fn recall<T>(generation: u64, token: &Digest, found: impl FnOnce(&Remembered) -> T) -> Option<T> {
    MEMORY.with_borrow_mut(|memory| {
        if memory.generation != generation {
            return None;
        }
        if let Some(remembered) = memory.recent.get(token) {
            return Some(found(remembered));
        }
        let remembered = memory.older.remove(token)?;
        let result = found(&remembered);
        memory.insert(*token, remembered);
        Some(result)
    })
}

/// Remembers a token that was verified with the keys of this generation.
pub(crate) fn remember(generation: u64, token: Digest, remembered: Remembered) {
    MEMORY.with_borrow_mut(|memory| {
        if memory.generation != generation {
            *memory = Memory { generation, ..Memory::default() };
        }
        memory.insert(token, remembered);
    });
}

impl Memory {
    fn insert(&mut self, token: Digest, remembered: Remembered) {
        if self.recent.len() == HALF {
            self.older = mem::take(&mut self.recent);
        }
        self.recent.insert(token, remembered);
    }
}

/// Remembers this many tokens of a caller.
#[cfg(test)]
pub(crate) fn fill_for_test(count: u64, caller: &Arc<Caller>) {
    MEMORY.with_borrow_mut(|memory| {
        let counters = memory.recent.values().next().map(|remembered| remembered.counters.clone());
        for number in 0..count {
            let Some(counters) = counters.clone() else { return };
            let mut token = Digest::default();
            token[..8].copy_from_slice(&number.to_ne_bytes());
            memory.insert(token, Remembered { caller: caller.clone(), until: u64::MAX, counters });
        }
    });
}

/// Returns how many tokens this thread remembers.
#[cfg(test)]
pub(crate) fn len_for_test() -> usize {
    MEMORY.with_borrow(|memory| memory.recent.len() + memory.older.len())
}

/// Hashes a digest to its first bytes, which are random enough.
#[derive(Default)]
struct Prefix(u64);

impl Hasher for Prefix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(prefix) = bytes.first_chunk() {
            self.0 = u64::from_ne_bytes(*prefix);
        }
    }
}
