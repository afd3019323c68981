//! The parts of a line: the time, and JSON strings.

use std::{
    io::Write,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The time as RFC 3339 text. Within a second only the fraction is rewritten.
pub(super) struct Clock {
    second: u64,
    text: [u8; 27],
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: u64::MAX, text: *b"1970-01-01T00:00:00.000000Z" }
    }
}

impl Clock {
    pub(super) fn now(&mut self) -> &[u8] {
        self.at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn at(&mut self, time: Duration) -> &[u8] {
        if time.as_secs() != self.second {
            self.second = time.as_secs();
            let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.second)).to_string();
            if let Some(text) = text.as_bytes().get(..19) {
                self.text[..19].copy_from_slice(text);
            }
        }
        let mut micros = time.subsec_micros();
        for digit in self.text[20..26].iter_mut().rev() {
            *digit = b'0' + u8::try_from(micros % 10).unwrap_or_default();
            micros /= 10;
        }
        &self.text
    }
}

/// Writes text as a JSON string.
pub(crate) fn write_string(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    if text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        line.extend_from_slice(text);
    } else {
        for character in String::from_utf8_lossy(text).chars() {
            match character {
                '"' | '\\' => line.extend([b'\\', character as u8]),
                // C1 too: some terminals take them for the start of an escape sequence.
                _ if character.is_control() => {
                    let _ = write!(line, "\\u{:04x}", u32::from(character));
                }
                _ => line.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_has_its_own_time() {
        let mut clock = Clock::default();
        for (time, text) in [
            (Duration::ZERO, "1970-01-01T00:00:00.000000Z"),
            (Duration::from_micros(1_764_076_500_000_042), "2025-11-25T13:15:00.000042Z"),
            (Duration::from_micros(1_764_076_500_999_999), "2025-11-25T13:15:00.999999Z"),
            (Duration::from_secs(1_764_076_501), "2025-11-25T13:15:01.000000Z"),
        ] {
            assert_eq!(str::from_utf8(clock.at(time)), Ok(text));
        }
    }

    #[test]
    fn any_text_becomes_a_json_string() {
        let controls: String = ('\0'..='\u{a0}').collect();
        for text in ["", "/users", "a\"b", "a\\b", "a\nb", "\u{7f}\u{1}\t", "caf\u{e9} \u{1f980}", " ", &controls] {
            let mut line = Vec::new();
            write_string(&mut line, text.as_bytes());
            assert_eq!(serde_json::from_slice::<String>(&line).expect("JSON"), text);
            assert!(!str::from_utf8(&line).expect("text").contains(char::is_control), "{text:?}");
        }
        let mut line = Vec::new();
        write_string(&mut line, b"\xff");
        assert_eq!(serde_json::from_slice::<String>(&line).expect("JSON"), "\u{fffd}");
    }
}
