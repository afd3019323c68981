//! Entity tags, and lists of them (RFC 9110, section 8.8.3).

/// What [`Tags::parse`] accepts, as a pattern for JSON Schema.
pub(super) const PATTERN: &str =
    r#"^[ \t]*\*[ \t]*$|^[ \t]*((W/)?"[!#-~\u0080-\u00FF]*"[ \t]*)?(,[ \t]*((W/)?"[!#-~\u0080-\u00FF]*"[ \t]*)?)*$"#;

/// The value of a precondition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Tags {
    /// `*`: whatever exists.
    Any,
    OneOf(Vec<Tag>),
}

/// An entity tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tag {
    pub(super) is_weak: bool,
    pub(super) opaque: Vec<u8>,
}

impl Tags {
    /// Parses `*` or a list of entity tags. A list may have empty elements (RFC 9110, section 5.6.1.2).
    pub(super) fn parse(value: &[u8]) -> Option<Self> {
        if value.trim_ascii() == b"*" {
            return Some(Self::Any);
        }
        let mut tags = Vec::new();
        let mut rest = value;
        loop {
            let start = rest.iter().position(|byte| !b", \t".contains(byte));
            let Some(start) = start else { return Some(Self::OneOf(tags)) };
            let (tag, after) = Tag::split(&rest[start..])?;
            tags.push(tag);
            rest = after.trim_ascii_start();
            if !rest.is_empty() && !rest.starts_with(b",") {
                return None;
            }
        }
    }

    pub(super) fn include(&self, current: &Tag, matches: impl Fn(&Tag) -> bool) -> bool {
        match self {
            Self::Any => current.opaque != b"0",
            Self::OneOf(tags) => tags.iter().any(matches),
        }
    }
}

impl Tag {
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        Self::split(text).and_then(|(tag, rest)| rest.is_empty().then_some(tag))
    }

    /// Splits a text into the tag at its start and the rest. A comma may be part of a tag.
    fn split(text: &[u8]) -> Option<(Self, &[u8])> {
        let weak = text.strip_prefix(b"W/");
        let quoted = weak.unwrap_or(text).strip_prefix(b"\"")?;
        let (opaque, rest) = quoted.split_at(quoted.iter().position(|byte| *byte == b'"')?);
        let is_valid = opaque.iter().all(|byte| *byte > b' ' && *byte != 0x7F);
        is_valid.then(|| (Self { is_weak: weak.is_some(), opaque: opaque.to_vec() }, &rest[1..]))
    }

    /// The version that the tag names. Tags are compared as text: "01" is not "1".
    pub(super) fn version(&self) -> Option<i64> {
        let text = str::from_utf8(&self.opaque).ok()?;
        text.parse::<i64>().ok().filter(|version| version.to_string() == text)
    }
}
