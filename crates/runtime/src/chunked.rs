//! A strict parser for the chunked transfer coding (RFC 9112, section 7.1).
//!
//! It rejects lines that end in a bare LF, chunk sizes with no digits or more than 16, and whitespace around a size.
//! Two parsers that treat any of these differently disagree on where the body ends, which allows request smuggling.
//!
//! It also rejects a body with more than [`MAX_EXTENSIONS`] of extensions: they carry nothing, and could go on forever.

/// The maximum length of all chunk extensions of a body together, in bytes.
pub const MAX_EXTENSIONS: u16 = 16 * 1024;

/// The position in a chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked {
    at: At,
    /// The length of the extensions so far.
    extensions: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Size {
        size: u64,
        digits: u8,
    },
    Extension(u64),
    SizeEnd(u64),
    Data(u64),
    DataEnd,
    DataLineEnd,
    /// At the start of a trailer line, or of the empty line that ends the body.
    Trailer,
    TrailerLine,
    TrailerLineEnd,
    LastLineEnd,
}

/// The part of a chunked body that a byte belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The coding itself: sizes, extensions and line ends.
    Frame,
    /// The content.
    Data,
    /// The trailers and the empty line after them.
    Trailers,
}

/// The body violates the chunked coding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk is malformed")]
pub struct Malformed;

impl Chunked {
    /// The position before the first byte of a body.
    pub const START: Self = Self { at: At::START, extensions: 0 };

    /// Returns the part that the next byte belongs to.
    #[must_use]
    pub fn part(self) -> Part {
        match self.at {
            At::Data(_) => Part::Data,
            At::Trailer | At::TrailerLine | At::TrailerLineEnd | At::LastLineEnd => Part::Trailers,
            _ => Part::Frame,
        }
    }

    /// Consumes one or more bytes that belong to the same part. Returns how many, and the next position, which is
    /// `None` at the end of the body. `bytes` must not be empty.
    ///
    /// # Errors
    /// Returns an error if the first byte is not allowed at this position, or the extensions are too long.
    pub fn step(self, bytes: &[u8]) -> Result<(usize, Option<Self>), Malformed> {
        if let At::Data(left) = self.at {
            let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - length as u64;
            let at = if left == 0 { At::DataEnd } else { At::Data(left) };
            return Ok((length, Some(Self { at, ..self })));
        }
        let mut extensions = self.extensions;
        let at = match (self.at, bytes[0]) {
            (At::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (At::Size { size, digits: 1.. } | At::Extension(size), b'\r') => At::SizeEnd(size),
            (At::Size { size, digits: 1.. }, b';') => At::Extension(size),
            (At::Extension(size), byte) if byte != b'\n' && extensions < MAX_EXTENSIONS => {
                extensions += 1;
                At::Extension(size)
            }
            (At::SizeEnd(0) | At::TrailerLineEnd, b'\n') => At::Trailer,
            (At::SizeEnd(size), b'\n') => At::Data(size),
            (At::DataEnd, b'\r') => At::DataLineEnd,
            (At::DataLineEnd, b'\n') => At::START,
            (At::Trailer, b'\r') => At::LastLineEnd,
            (At::TrailerLine, b'\r') => At::TrailerLineEnd,
            (At::Trailer | At::TrailerLine, byte) if byte != b'\n' => At::TrailerLine,
            (At::LastLineEnd, b'\n') => return Ok((1, None)),
            _ => return Err(Malformed),
        };
        Ok((1, Some(Self { at, extensions })))
    }
}

impl At {
    const START: Self = Self::Size { size: 0, digits: 0 };
}
