//! The `Idempotency-Key` header.

use axum::extract::OptionalFromRequestParts;
use http::request::Parts;
use runtime::{FieldError, Problem};
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};

use super::RETENTION_HOURS;
use crate::Identity;

const NAME: &str = "idempotency-key";

/// A client's name for a request: 1 to 255 visible ASCII characters, used verbatim. It belongs to the caller: the same
/// key of another one is another key.
///
/// `Option<IdempotencyKey>` extracts it from the header, and `params(IdempotencyKey)` documents the header. A key that
/// is not in the header is parsed with [`IdempotencyKey::parse`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// The issuer and the subject of the caller's token; empty if there is no token.
    subject: Box<str>,
    text: String,
}

impl IdempotencyKey {
    /// Parses the key of a request from this caller.
    ///
    /// # Errors
    /// Returns the reason why the text is not a key.
    pub fn parse(text: &[u8], identity: &Identity) -> Result<Self, &'static str> {
        let subject = identity.caller().map(|caller| [caller.issuer(), " ", caller.subject()].concat());
        Self::of_subject(text, subject.unwrap_or_default().into())
    }

    pub(super) fn of_subject(text: &[u8], subject: Box<str>) -> Result<Self, &'static str> {
        if !(1..=255).contains(&text.len()) || !text.iter().all(u8::is_ascii_graphic) {
            return Err("must be 1 to 255 visible ASCII characters");
        }
        Ok(Self { subject, text: String::from_utf8_lossy(text).into_owned() })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    pub(super) fn subject(&self) -> &str {
        &self.subject
    }
}

/// The key of a request without a token.
impl TryFrom<&[u8]> for IdempotencyKey {
    type Error = &'static str;

    fn try_from(text: &[u8]) -> Result<Self, Self::Error> {
        Self::of_subject(text, Box::default())
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        let refuse = |detail: &str| Problem::invalid(vec![FieldError::parameter(NAME, detail)]);
        let mut values = parts.headers.get_all(NAME).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(refuse("must be given only once"));
        }
        Self::parse(value.as_bytes(), &Identity::of(&parts.extensions)).map(Some).map_err(refuse)
    }
}

impl IntoParams for IdempotencyKey {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .min_length(Some(1))
            .max_length(Some(255))
            .pattern(Some("^[!-~]+$"));
        let description = format!(
            "Makes the request safe to retry: repeating it with the same key within {RETENTION_HOURS} hours returns \
             the first response."
        );
        let parameter = ParameterBuilder::new().name(NAME).parameter_in(ParameterIn::Header).required(Required::False);
        vec![parameter.description(Some(description)).schema(Some(schema)).build()]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_is_1_to_255_visible_ascii_characters() {
        for good in ["1", "\"quoted\"", "~!", &"x".repeat(255)] {
            assert!(IdempotencyKey::try_from(good.as_bytes()).is_ok(), "{good:?}");
        }
        for bad in ["", " ", "a b", "\t", "\u{7f}", "é", &"x".repeat(256)] {
            assert!(IdempotencyKey::try_from(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_key_verbatim_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let is_valid = (1..=255).contains(&bytes.len()) && bytes.iter().all(|byte| (b'!'..=b'~').contains(byte));
            match IdempotencyKey::try_from(bytes.as_slice()) {
                Ok(key) => prop_assert!(is_valid && key.as_str().as_bytes() == bytes),
                Err(_) => prop_assert!(!is_valid),
            }
        }

        #[test]
        fn visible_ascii_is_a_key_verbatim(text in "[!-~]{1,255}") {
            let key = IdempotencyKey::try_from(text.as_bytes()).expect("a valid key");
            prop_assert_eq!(key.as_str(), text);
        }
    }
}
