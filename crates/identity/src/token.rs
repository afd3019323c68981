//! A token in compact form (RFC 7515, RFC 7519), before anything in it is trusted.

use std::{borrow::Cow, fmt};

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use crate::refusal::Reason;

/// The maximum size of a token, in bytes.
pub(crate) const MAX_TOKEN: usize = 8 << 10;

/// A token that is split and decoded, but not verified.
pub(crate) struct Parts<'a> {
    /// What is signed: the header and the claims as they were sent.
    pub(crate) signed: &'a [u8],
    pub(crate) signature: Vec<u8>,
    header: Vec<u8>,
    claims: Vec<u8>,
}

/// The header (RFC 7515, section 4.1). Keys in it (`jwk`, `jku`, `x5c`, `x5u`) are never used.
#[derive(Deserialize)]
pub(crate) struct Header<'a> {
    #[serde(borrow)]
    pub(crate) alg: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) kid: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) typ: Option<Cow<'a, str>>,
    #[serde(default, deserialize_with = "present")]
    crit: bool,
}

/// The claims that every token is judged by. A claim that appears twice is an error.
#[derive(Deserialize)]
pub(crate) struct Claims<'a> {
    #[serde(borrow)]
    pub(crate) iss: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(crate) sub: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) aud: Words<'a>,
    #[serde(default)]
    pub(crate) exp: Option<f64>,
    #[serde(default)]
    pub(crate) nbf: Option<f64>,
    #[serde(default)]
    pub(crate) iat: Option<f64>,
    #[serde(borrow, default)]
    pub(crate) client_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) azp: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) sid: Option<Cow<'a, str>>,
    #[serde(default)]
    nonce: Option<IgnoredAny>,
    #[serde(default)]
    at_hash: Option<IgnoredAny>,
    #[serde(default)]
    c_hash: Option<IgnoredAny>,
    #[serde(default)]
    s_hash: Option<IgnoredAny>,
    #[serde(default)]
    events: Option<IgnoredAny>,
}

impl<'a> Parts<'a> {
    /// Splits a token and decodes its parts. base64url is strict: no padding, no stray bits, no other characters.
    pub(crate) fn split(token: &'a [u8]) -> Result<Self, Reason> {
        if token.len() > MAX_TOKEN {
            return Err(Reason::TooLarge);
        }
        let mut dots = token.iter().enumerate().filter(|(_, byte)| **byte == b'.').map(|(index, _)| index);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(Reason::Malformed);
        };
        let decode = |part: &[u8]| BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Reason::Malformed);
        Ok(Self {
            signed: &token[..second],
            header: decode(&token[..first])?,
            claims: decode(&token[first + 1..second])?,
            signature: decode(&token[second + 1..])?,
        })
    }

    /// Parses the header.
    pub(crate) fn header(&self) -> Result<Header<'_>, Reason> {
        let header: Header<'_> = serde_json::from_slice(&self.header).map_err(|_| Reason::Malformed)?;
        if header.crit { Err(Reason::CriticalExtension) } else { Ok(header) }
    }

    /// Parses the claims.
    pub(crate) fn claims(&self) -> Result<Claims<'_>, Reason> {
        serde_json::from_slice(&self.claims).map_err(|error| match error.classify() {
            serde_json::error::Category::Data => Reason::InvalidClaims,
            _ => Reason::Malformed,
        })
    }

    /// Returns the value of any claim, by its name or by a JSON pointer; `None` if there is none.
    pub(crate) fn claim(&self, name: &str) -> Result<Option<Value>, Reason> {
        let (name, rest) = match name.strip_prefix('/') {
            None => (Cow::Borrowed(name), ""),
            Some(pointer) => {
                let (first, _) = pointer.split_once('/').unwrap_or((pointer, ""));
                (Cow::Owned(first.replace("~1", "/").replace("~0", "~")), &pointer[first.len()..])
            }
        };
        let mut deserializer = serde_json::Deserializer::from_slice(&self.claims);
        let value = deserializer.deserialize_map(Find(&name)).map_err(|_| Reason::InvalidClaims)?;
        Ok(value.and_then(|mut value| value.pointer_mut(rest).map(Value::take)))
    }
}

impl Claims<'_> {
    /// Whether these are the claims of an ID token (OpenID Connect Core 1.0, sections 2 and 3.3.2.11) or of a security
    /// event such as a logout token (RFC 8417), which are no access tokens.
    pub(crate) fn are_of_id_token(&self) -> bool {
        [self.nonce, self.at_hash, self.c_hash, self.s_hash].iter().any(Option::is_some)
    }

    pub(crate) fn are_of_event(&self) -> bool {
        self.events.is_some()
    }
}

/// Whether a member is present, whatever its value.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A text or a list of texts.
#[derive(Default)]
pub(crate) struct Words<'a>(pub(crate) Vec<Cow<'a, str>>);

impl<'de: 'a, 'a> Deserialize<'de> for Words<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordsVisitor)
    }
}

struct WordsVisitor;

impl<'de> Visitor<'de> for WordsVisitor {
    type Value = Words<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a list of texts")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Words(vec![Cow::Borrowed(text)]))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Words(vec![Cow::Owned(text.to_owned())]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut words = Vec::new();
        while let Some(word) = list.next_element::<Cow<'de, str>>()? {
            words.push(word);
        }
        Ok(Words(words))
    }
}

/// Finds a member, and refuses a second one of its name.
struct Find<'a>(&'a str);

impl<'de> Visitor<'de> for Find<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<Cow<'de, str>>()? {
            if name != self.0 {
                map.next_value::<IgnoredAny>()?;
            } else if found.replace(map.next_value()?).is_some() {
                return Err(A::Error::custom("the claim appears twice"));
            }
        }
        Ok(found)
    }
}
