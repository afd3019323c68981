//! Rewords the error texts of serde and of parsers for clients.

/// Rewords an error text. A text that needs no rewording, such as those of the services' own types, stays as it is.
pub(crate) fn reword(text: &str) -> String {
    if let Some(expected) = expected(text) {
        return match expected {
            "a sequence" => "must be an array".to_owned(),
            "a map" => "must be an object".to_owned(),
            "a boolean" => "must be true or false".to_owned(),
            "f32" | "f64" => "must be a number".to_owned(),
            "i8" | "i16" | "i32" | "i64" | "u8" | "u16" | "u32" | "u64" | "usize" => match text {
                text if text.starts_with("invalid value: ") => "is out of range".to_owned(),
                _ => "must be an integer".to_owned(),
            },
            expected if expected.starts_with("struct ") => "must be an object".to_owned(),
            expected if expected.contains("UUID") => "must be a UUID".to_owned(),
            expected => format!("must be {expected}"),
        };
    }
    match text {
        "number out of range" | "number too large to fit in target type" | "number too small to fit in target type" => {
            "is out of range".to_owned()
        }
        "invalid digit found in string" | "cannot parse integer from empty string" => "must be an integer".to_owned(),
        text if text.starts_with("UUID parsing failed") => "must be a UUID".to_owned(),
        text if text.starts_with("duplicate field") => "must be given only once".to_owned(),
        text if text.starts_with("missing field") => "is required".to_owned(),
        text => text.to_owned(),
    }
}

/// What serde expected instead of a value of the wrong type.
fn expected(text: &str) -> Option<&str> {
    let is_mismatch =
        ["invalid type: ", "invalid value: ", "invalid length: "].iter().any(|kind| text.starts_with(kind));
    // The value comes first and may itself contain the separator.
    let (_, expected) = text.rsplit_once(", expected ").filter(|_| is_mismatch)?;
    Some(expected)
}

#[cfg(test)]
mod tests {
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};
    use uuid::Uuid;

    use super::reword;

    fn error<T: DeserializeOwned>(value: Value) -> String {
        reword(&serde_json::from_value::<T>(value).err().expect("an error").to_string())
    }

    #[test]
    fn serde_errors_are_reworded() {
        assert_eq!(error::<Vec<u8>>(json!({})), "must be an array");
        assert_eq!(error::<std::collections::HashMap<String, u8>>(json!([])), "must be an object");
        assert_eq!(error::<String>(json!(1)), "must be a string");
        assert_eq!(error::<String>(json!(null)), "must be a string");
        assert_eq!(error::<u8>(json!("x, expected a UUID")), "must be an integer");
        assert_eq!(error::<u8>(json!(300)), "is out of range");
        assert_eq!(error::<f64>(json!("1")), "must be a number");
        assert_eq!(error::<bool>(json!(1)), "must be true or false");
        assert_eq!(error::<Uuid>(json!("")), "must be a UUID");
        assert_eq!(error::<Uuid>(json!(1)), "must be a UUID");
    }

    #[test]
    fn parse_errors_are_reworded() {
        for text in ["", "x", "1.5"] {
            assert_eq!(reword(&text.parse::<i64>().expect_err("an error").to_string()), "must be an integer");
        }
        assert_eq!(
            reword(&"99999999999999999999".parse::<i64>().expect_err("too large").to_string()),
            "is out of range"
        );
    }

    #[test]
    fn other_texts_stay_as_they_are() {
        for text in ["must not be blank", "must be between 1 and 5", "not a number, expected or not"] {
            assert_eq!(reword(text), text);
        }
    }
}
