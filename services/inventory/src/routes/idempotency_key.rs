//! The `Idempotency-Key` header.

use axum::extract::FromRequestParts;
use chassis::{FieldError, Problem};
use http::request::Parts;
use utoipa::{
    IntoParams,
    openapi::{
        Required,
        path::{Parameter, ParameterBuilder, ParameterIn},
        schema::{ObjectBuilder, Type},
    },
};

use crate::model::{IdempotencyKey, RETENTION_HOURS};

const NAME: &str = "idempotency-key";

/// Extracts the key, if there is one.
pub(super) struct Key(pub(super) Option<IdempotencyKey>);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let refuse = |detail: &str| Problem::invalid(vec![FieldError::parameter(NAME, detail)]);
        let mut values = parts.headers.get_all(NAME).iter();
        let Some(value) = values.next() else { return Ok(Self(None)) };
        if values.next().is_some() {
            return Err(refuse("must be given only once"));
        }
        IdempotencyKey::try_from(value.as_bytes()).map(|key| Self(Some(key))).map_err(refuse)
    }
}

impl IntoParams for Key {
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
