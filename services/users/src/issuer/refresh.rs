//! Refresh tokens: the session and its counter, with a MAC. The database has no copy of them.

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use uuid::Uuid;

/// What tokens start with, so that scanners for leaked secrets recognize them.
const PREFIX: &str = "hrt_";

/// The length of the session and the counter, in bytes.
const CONTENT: usize = 24;

/// The length of the MAC, in bytes.
const MAC: usize = 32;

/// What a refresh token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefreshToken {
    pub(crate) session: Uuid,
    pub(crate) counter: i64,
}

impl RefreshToken {
    pub(super) fn encode(self, key: &hmac::Key) -> String {
        let mut bytes = [0; CONTENT + MAC];
        bytes[..16].copy_from_slice(self.session.as_bytes());
        bytes[16..CONTENT].copy_from_slice(&self.counter.to_be_bytes());
        let mac = hmac::sign(key, &bytes[..CONTENT]);
        bytes[CONTENT..].copy_from_slice(mac.as_ref());
        let mut token = PREFIX.to_owned();
        BASE64_URL_SAFE_NO_PAD.encode_string(bytes, &mut token);
        token
    }

    /// Decodes a token. Returns `None` if it is malformed or not of this key.
    pub(super) fn decode(token: &str, key: &hmac::Key) -> Option<Self> {
        let mut bytes = [0; CONTENT + MAC];
        let length = BASE64_URL_SAFE_NO_PAD.decode_slice(token.strip_prefix(PREFIX)?, &mut bytes).ok()?;
        if length != bytes.len() {
            return None;
        }
        let (content, mac) = bytes.split_at(CONTENT);
        hmac::verify(key, content, mac).ok()?;
        let (session, counter) = content.split_at(16);
        Some(Self { session: Uuid::from_slice(session).ok()?, counter: i64::from_be_bytes(counter.try_into().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &[byte; 32])
    }

    #[test]
    fn a_token_is_only_valid_under_its_own_key() {
        let token = RefreshToken { session: Uuid::now_v7(), counter: 7 };
        let text = token.encode(&key(1));
        assert_eq!(RefreshToken::decode(&text, &key(1)), Some(token));
        assert_eq!(RefreshToken::decode(&text, &key(2)), None);
        assert_eq!(text, token.encode(&key(1)), "the same each time");
    }

    #[test]
    fn a_token_with_any_change_is_invalid() {
        let text = RefreshToken { session: Uuid::now_v7(), counter: 7 }.encode(&key(1));
        for index in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[index] = if changed[index] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("ASCII");
            assert_eq!(RefreshToken::decode(&changed, &key(1)), None, "{changed}");
        }
        for bad in ["", "hrt_", &text[..text.len() - 1], &text[4..], &format!("{text}A"), &format!("{text}==")] {
            assert_eq!(RefreshToken::decode(bad, &key(1)), None, "{bad}");
        }
    }
}
