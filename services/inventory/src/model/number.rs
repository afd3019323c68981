//! Whole numbers that JSON carries exactly.

use std::fmt;

use serde::{Deserialize, Deserializer, de};
use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        RefOr, Schema,
        schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type},
    },
};

/// 2^53 − 1: the largest whole number that every JSON reader takes exactly (RFC 8259, section 6).
pub(crate) const MAX_QUANTITY: i64 = (1 << 53) - 1;

/// Types of whole numbers within bounds, read from JSON and described for it.
macro_rules! whole_numbers {
    ($($(#[$doc:meta])* $name:ident, $least:expr, $most:expr, $description:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) struct $name(pub(crate) i64);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(WholeNumber { least: $least, most: $most }).map(Self)
            }
        }

        impl ToSchema for $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                schema($least, $most, $description)
            }
        }
    )*};
}

whole_numbers! {
    /// How much is on hand: 0 to 2^53 − 1.
    Quantity, 0, MAX_QUANTITY, "How much is on hand.";
    /// A change of how much is on hand: −(2^53 − 1) to 2^53 − 1.
    Delta, -MAX_QUANTITY, MAX_QUANTITY, "How much to add to what is on hand, or to take from it.";
    /// How much to reserve: 1 to 2^53 − 1.
    Amount, 1, MAX_QUANTITY, "How much of it.";
    /// For how many seconds something is held: 1 to 86,400.
    TimeToLive, 1, LONGEST_LIFE, "For how many seconds it is held; 900 by default.";
}

/// The most seconds that something is held for: a day.
const LONGEST_LIFE: i64 = 86_400;

impl Default for TimeToLive {
    fn default() -> Self {
        Self(900)
    }
}

/// Reads a whole number; 42.0 is one, as in JSON Schema.
struct WholeNumber {
    least: i64,
    most: i64,
}

impl WholeNumber {
    fn check<E: de::Error>(&self, number: i64) -> Result<i64, E> {
        if (self.least..=self.most).contains(&number) {
            Ok(number)
        } else {
            Err(E::custom(format!("must be from {} to {}", self.least, self.most)))
        }
    }
}

impl de::Visitor<'_> for WholeNumber {
    type Value = i64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<i64, E> {
        self.check(number)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<i64, E> {
        self.check(i64::try_from(number).unwrap_or(i64::MAX))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the cast saturates, and the bounds are checked after it")]
    fn visit_f64<E: de::Error>(self, number: f64) -> Result<i64, E> {
        if number.fract() != 0.0 {
            return Err(E::invalid_type(de::Unexpected::Float(number), &self));
        }
        self.check(number as i64)
    }
}

fn schema(least: i64, most: i64, description: &str) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least)).maximum(Some(most));
    let format = SchemaFormat::KnownFormat(KnownFormat::Int64);
    schema.format(Some(format)).description(Some(description)).build().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_is_a_whole_number_up_to_2_to_the_53rd() {
        let read = |json: &str| serde_json::from_str::<Quantity>(json).ok().map(|quantity| quantity.0);
        assert_eq!(read("0"), Some(0));
        assert_eq!(read("42.0"), Some(42));
        assert_eq!(read("9007199254740991"), Some(MAX_QUANTITY));
        for bad in ["-1", "1.5", "9007199254740992", "1e300", "18446744073709551615", "\"1\"", "null", "true", "[]"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_delta_goes_both_ways() {
        let read = |json: &str| serde_json::from_str::<Delta>(json).ok().map(|delta| delta.0);
        assert_eq!(read("-9007199254740991"), Some(-MAX_QUANTITY));
        assert_eq!(read("-9007199254740992"), None);
        assert_eq!(read("-1e300"), None);
        assert_eq!(read("3"), Some(3));
    }

    #[test]
    fn an_amount_is_at_least_one_and_a_life_at_most_a_day() {
        assert!(serde_json::from_str::<Amount>("0").is_err());
        assert!(serde_json::from_str::<Amount>("1").is_ok());
        assert!(serde_json::from_str::<TimeToLive>("0").is_err());
        assert!(serde_json::from_str::<TimeToLive>("86400").is_ok());
        assert!(serde_json::from_str::<TimeToLive>("86401").is_err());
    }
}
