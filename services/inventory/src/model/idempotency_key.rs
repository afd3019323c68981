//! What a client names a request by, so that its repetition is known.

/// 1 to 255 visible ASCII characters, taken as they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey(String);

impl IdempotencyKey {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&[u8]> for IdempotencyKey {
    type Error = &'static str;

    fn try_from(text: &[u8]) -> Result<Self, Self::Error> {
        if !(1..=255).contains(&text.len()) || !text.iter().all(u8::is_ascii_graphic) {
            return Err("must be 1 to 255 visible ASCII characters");
        }
        Ok(Self(String::from_utf8_lossy(text).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_1_to_255_visible_ascii_characters() {
        for good in ["1", "\"quoted\"", "~!", &"x".repeat(255)] {
            assert!(IdempotencyKey::try_from(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a b", "\t", "\u{7f}", "é", &"x".repeat(256)] {
            assert!(IdempotencyKey::try_from(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
