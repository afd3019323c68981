//! The chunked coding of a body (RFC 9112, section 7.1), by the letter: where each byte of it belongs.
//!
//! Lines that end in a bare LF, a size without digits or with more than 16, and white space around it are refused: each
//! is how one reader finds another end of the body than the next.

/// Where in a chunked body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunked(At);

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
    /// At the beginning of a line of the trailers, or at the end of the body.
    Trailer,
    TrailerLine,
    TrailerLineEnd,
    LastLineEnd,
}

/// What a byte is part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The coding itself.
    Frame,
    /// The content.
    Data,
    /// The trailers, with the empty line after them.
    Trailers,
}

/// The body is no chunked one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a chunk is malformed")]
pub struct Malformed;

impl Chunked {
    /// At the beginning of a body.
    pub const START: Self = Self(At::START);

    /// What the next byte is part of.
    #[must_use]
    pub fn part(self) -> Part {
        match self.0 {
            At::Data(_) => Part::Data,
            At::Trailer | At::TrailerLine | At::TrailerLineEnd | At::LastLineEnd => Part::Trailers,
            _ => Part::Frame,
        }
    }

    /// Takes some of the bytes, of which there must be one, all of the same part; returns how many, and what is next,
    /// which is nothing at the end of the body.
    ///
    /// # Errors
    /// Where the first of them cannot be there.
    pub fn step(self, bytes: &[u8]) -> Result<(usize, Option<Self>), Malformed> {
        if let At::Data(left) = self.0 {
            let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - length as u64;
            return Ok((length, Some(Self(if left == 0 { At::DataEnd } else { At::Data(left) }))));
        }
        let next = match (self.0, bytes[0]) {
            (At::Size { size, digits }, byte) if byte.is_ascii_hexdigit() && digits < 16 => {
                let digit = char::from(byte).to_digit(16).ok_or(Malformed)?;
                At::Size { size: size << 4 | u64::from(digit), digits: digits + 1 }
            }
            (At::Size { size, digits: 1.. } | At::Extension(size), b'\r') => At::SizeEnd(size),
            (At::Size { size, digits: 1.. }, b';') => At::Extension(size),
            (At::Extension(size), byte) if byte != b'\n' => At::Extension(size),
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
        Ok((1, Some(Self(next))))
    }
}

impl At {
    const START: Self = Self::Size { size: 0, digits: 0 };
}
