//! Sealing of private keys at rest, with AES-256-GCM under a key-encryption key.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};

/// The version of the format: the version, a random nonce of 12 bytes, the ciphertext, a tag of 16 bytes.
const VERSION: u8 = 1;

/// A key that seals other keys.
pub struct KeyEncryptionKey(RandomizedNonceKey);

/// Why sealing or opening failed. It does not say more, so that it helps nobody to guess.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key has not 32 bytes.
    #[error("a key-encryption key has {} bytes", KeyEncryptionKey::LENGTH)]
    KeyLength,
    /// The key could not seal.
    #[error("sealing failed")]
    Seal,
    /// It was sealed with another key or for another purpose, or has been changed.
    #[error("it cannot be opened with this key")]
    Open,
}

impl KeyEncryptionKey {
    /// The length of the key, in bytes.
    pub const LENGTH: usize = 32;

    /// Creates the key from 32 random bytes.
    ///
    /// # Errors
    /// Returns an error if there are more or fewer.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealError> {
        if bytes.len() != Self::LENGTH {
            return Err(SealError::KeyLength);
        }
        RandomizedNonceKey::new(&AES_256_GCM, bytes).map(Self).map_err(|_| SealError::KeyLength)
    }

    /// Seals a secret. `aad` says what it is, such as the id of the key: it can only be opened as the same.
    ///
    /// # Errors
    /// Returns an error if the secret is too large (2³⁶ bytes) or there is no randomness.
    pub fn seal(&self, secret: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut text = secret.to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(aad), &mut text).map_err(|_| SealError::Seal)?;
        let nonce: &[u8; NONCE_LEN] = nonce.as_ref();
        Ok([[VERSION].as_slice(), nonce, &text].concat())
    }

    /// Opens what [`seal`](Self::seal) returned.
    ///
    /// # Errors
    /// Returns an error if it was sealed with another key or `aad`, or has been changed.
    pub fn open(&self, sealed: &[u8], aad: &[u8]) -> Result<Vec<u8>, SealError> {
        let Some((&VERSION, rest)) = sealed.split_first() else { return Err(SealError::Open) };
        let Some((nonce, text)) = rest.split_first_chunk::<NONCE_LEN>() else { return Err(SealError::Open) };
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.0.open_in_place(nonce, Aad::from(aad), &mut text).map_err(|_| SealError::Open)?.len();
        text.truncate(length);
        Ok(text)
    }
}

impl fmt::Debug for KeyEncryptionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyEncryptionKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> KeyEncryptionKey {
        KeyEncryptionKey::from_bytes(&[byte; 32]).expect("a key")
    }

    #[test]
    fn only_the_same_key_and_purpose_open() {
        let sealed = key(1).seal(b"private", b"kid-1").expect("sealed");
        assert_eq!(key(1).open(&sealed, b"kid-1").as_deref(), Ok(b"private".as_slice()));
        assert_eq!(key(1).open(&sealed, b"kid-2"), Err(SealError::Open));
        assert_eq!(key(2).open(&sealed, b"kid-1"), Err(SealError::Open));
        // Two seals of one secret do not look alike.
        assert_ne!(sealed, key(1).seal(b"private", b"kid-1").expect("sealed"));
    }

    #[test]
    fn a_change_of_any_bit_is_noticed() {
        let sealed = key(1).seal(b"private", b"").expect("sealed");
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(key(1).open(&changed, b""), Err(SealError::Open), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert_eq!(key(1).open(&sealed[..length], b""), Err(SealError::Open), "{length} bytes");
        }
    }

    #[test]
    fn a_key_has_32_bytes_and_is_never_shown() {
        assert_eq!(KeyEncryptionKey::from_bytes(&[7; 31]).expect_err("too short"), SealError::KeyLength);
        assert_eq!(KeyEncryptionKey::from_bytes(&[7; 33]).expect_err("too long"), SealError::KeyLength);
        assert_eq!(format!("{:?}", key(7)), "KeyEncryptionKey(***)");
    }
}
