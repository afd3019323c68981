//! The `grpc-timeout` header, which says how long a caller waits.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The longest timeout in microseconds that fits into the header: 8 digits.
const MAX_MICROSECONDS: u128 = 99_999_999;

/// Returns the caller's timeout, if there is one.
///
/// # Errors
/// Returns an error if the header is malformed (gRPC's `PROTOCOL-HTTP2.md`).
pub(super) fn get(headers: &HeaderMap) -> Result<Option<Duration>, &'static str> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    value
        .to_str()
        .ok()
        .and_then(parse)
        .map(Some)
        .ok_or("grpc-timeout must be 1 to 8 digits and a unit (H, M, S, m, u, n)")
}

fn parse(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse().ok()?;
    match unit {
        'H' => Some(Duration::from_secs(number * 3600)),
        'M' => Some(Duration::from_secs(number * 60)),
        'S' => Some(Duration::from_secs(number)),
        'm' => Some(Duration::from_millis(number)),
        'u' => Some(Duration::from_micros(number)),
        'n' => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

/// Sets the timeout.
pub(super) fn set(headers: &mut HeaderMap, limit: Duration) {
    let text = match limit.as_micros() {
        micros if micros <= MAX_MICROSECONDS => format!("{micros}u"),
        _ => format!("{}S", limit.as_secs().min(99_999_999)),
    };
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(GRPC_TIMEOUT, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_the_specification_are_parsed() {
        assert_eq!(parse("300m"), Some(Duration::from_millis(300)));
        assert_eq!(parse("1H"), Some(Duration::from_hours(1)));
        assert_eq!(parse("00000002S"), Some(Duration::from_secs(2)));
        for bad in ["", "m", "300", "-1m", "+1m", "1.5S", "123456789m", "1s", "1é", " 1m"] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_timeout_survives_a_round_trip() {
        for limit in [Duration::from_micros(1), Duration::from_millis(300), Duration::from_hours(1)] {
            let mut headers = HeaderMap::new();
            set(&mut headers, limit);
            assert_eq!(get(&headers), Ok(Some(limit)));
        }
        assert_eq!(get(&HeaderMap::new()), Ok(None));
    }
}
