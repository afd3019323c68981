//! Whole numbers within bounds that JSON can represent exactly.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type},
    },
};

/// 2^53 − 1: the largest whole number that every JSON parser reads exactly (RFC 8259, section 6).
pub(crate) const MAX_QUANTITY: i64 = (1 << 53) - 1;

/// Defines whole-number types with bounds, how to deserialize them, and their schemas.
macro_rules! whole_numbers {
    ($($(#[$doc:meta])* $name:ident, $min:expr, $max:expr, $description:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) i64);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(WholeNumber { min: $min, max: $max }).map(Self)
            }
        }

        impl ToSchema for $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                schema($min, $max, $description)
            }
        }
    )*};
}

whole_numbers! {
    /// A quantity on hand: 0 to 2^53 − 1.
    Quantity, 0, MAX_QUANTITY, "The quantity on hand.";
    /// A change to the quantity on hand: −(2^53 − 1) to 2^53 − 1.
    Delta, -MAX_QUANTITY, MAX_QUANTITY, "The change to the quantity on hand; negative to remove stock.";
    /// A quantity to reserve: 1 to 2^53 − 1.
    Amount, 1, MAX_QUANTITY, "The quantity to reserve.";
    /// How long a reservation is held, in seconds: 1 to 86,400.
    TimeToLive, 1, MAX_TTL, "How long the reservation is held, in seconds; 900 by default. It ends with a full second.";
}

/// The maximum time to live: one day, in seconds.
const MAX_TTL: i64 = 86_400;

impl Default for TimeToLive {
    fn default() -> Self {
        Self(900)
    }
}

/// Deserializes a whole number. As in JSON Schema, 42.0 is one.
struct WholeNumber {
    min: i64,
    max: i64,
}

impl WholeNumber {
    fn check<E: de::Error>(&self, number: i64) -> Result<i64, E> {
        if (self.min..=self.max).contains(&number) {
            Ok(number)
        } else {
            Err(E::custom(format!("must be between {} and {}", self.min, self.max)))
        }
    }
}

impl de::Visitor<'_> for WholeNumber {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
        self.check(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
        self.check(i64::try_from(number).unwrap_or(i64::MAX))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates and the bounds are checked afterwards")]
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
        if number.fract() != 0.0 {
            return Err(E::invalid_type(de::Unexpected::Float(number), &self));
        }
        self.check(number as i64)
    }
}

fn schema(min: i64, max: i64, description: &str) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(min)).maximum(Some(max));
    let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
    schema.format(Some(format)).description(Some(description)).build().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_a_whole_number_below_2_to_the_53() {
        let read = |json: &str| serde_json::from_str::<Quantity>(json).ok().map(|quantity| quantity.0);
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("42.0"), Some(42));
        assert_eq!(read("9007199254740991"), Some(MAX_QUANTITY));
        for bad in ["-1", "1.5", "9007199254740992", "1e300", "18446744073709551615", "\"1\"", "null", "true", "[]"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_delta_may_be_negative() {
        let read = |json: &str| serde_json::from_str::<Delta>(json).ok().map(|delta| delta.0);
        assert_eq!(read("-9007199254740991"), Some(-MAX_QUANTITY));
        assert_eq!(read("-9007199254740992"), None);
        assert_eq!(read("-1e300"), None);
        assert_eq!(read("3"), Some(3));
    }

    #[test]
    fn an_amount_is_positive_and_a_ttl_at_most_one_day() {
        assert!(serde_json::from_str::<Amount>("0").is_err());
        assert!(serde_json::from_str::<Amount>("1").is_ok());
        assert!(serde_json::from_str::<TimeToLive>("0").is_err());
        assert!(serde_json::from_str::<TimeToLive>("86400").is_ok());
        assert!(serde_json::from_str::<TimeToLive>("86401").is_err());
    }
}
