//! Content negotiation by Accept-Encoding (RFC 9110, section 12.5.3), between gzip and no compression.

use http::{HeaderMap, header};

/// The encoding that a client prefers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    /// No compression.
    #[default]
    Identity,
    /// gzip, but uncompressed content is acceptable.
    Gzip,
    /// gzip only. Uncompressed content is not acceptable.
    GzipOnly,
}

/// Negotiates the encoding for a request that has the header.
pub(super) fn negotiate(headers: &HeaderMap) -> Encoding {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for line in headers.get_all(header::ACCEPT_ENCODING) {
        for element in line.to_str().unwrap_or_default().split(',') {
            let (coding, parameters) = element.split_once(';').unwrap_or((element, ""));
            let Some(weight) = weight(parameters) else { continue };
            let coding = coding.trim();
            if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
                gzip = gzip.max(Some(weight));
            } else if coding.eq_ignore_ascii_case("identity") {
                identity = Some(weight);
            } else if coding == "*" {
                any = Some(weight);
            }
        }
    }
    let gzip = gzip.or(any).unwrap_or(0);
    match identity.or(any) {
        _ if gzip == 0 => Encoding::Identity,
        Some(0) => Encoding::GzipOnly,
        Some(identity) if identity > gzip => Encoding::Identity,
        _ => Encoding::Gzip,
    }
}

/// The weight of an element, in thousandths; `None` if it is malformed. Such elements are ignored.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let value = parameters.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim_start();
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    if fraction.len() > 3 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{fraction:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_highest_weight_wins() {
        let cases: &[(&[&str], Encoding)] = &[
            (&["gzip"], Encoding::Gzip),
            (&["GZIP"], Encoding::Gzip),
            (&["x-gzip"], Encoding::Gzip),
            (&["gzip, x-gzip;q=0"], Encoding::Gzip),
            (&["gzip, deflate, br, zstd"], Encoding::Gzip),
            (&["br", "gzip"], Encoding::Gzip),
            (&["br;q=1.0, gzip;q=0.2, *;q=0"], Encoding::GzipOnly),
            (&["*"], Encoding::Gzip),
            (&["*;q=0.5"], Encoding::Gzip),
            (&["gzip;q=0.001"], Encoding::Gzip),
            (&["gzip ; q = 0.5"], Encoding::Gzip),
            (&["gzip;Q=1.000"], Encoding::Gzip),
            (&["identity;q=0, gzip"], Encoding::GzipOnly),
            (&["identity;q=0, *"], Encoding::GzipOnly),
            (&["identity;q=0.5, gzip;q=0.5"], Encoding::Gzip),
            (&["identity, gzip;q=0.5"], Encoding::Identity),
            (&["gzip;q=0"], Encoding::Identity),
            (&["gzip;q=0.000, *"], Encoding::Identity),
            (&["*;q=0"], Encoding::Identity),
            (&["identity;q=0"], Encoding::Identity),
            (&[""], Encoding::Identity),
            (&["br"], Encoding::Identity),
            (&["gzipped"], Encoding::Identity),
            // Malformed elements are ignored.
            (&["gzip;q=2"], Encoding::Identity),
            (&["gzip;q=1.5"], Encoding::Identity),
            (&["gzip;q=0.1234"], Encoding::Identity),
            (&["gzip;q=-1"], Encoding::Identity),
            (&["gzip;q=0.5;x=1"], Encoding::Identity),
            (&["gzip;level=1"], Encoding::Identity),
            (&["gzip;q="], Encoding::Identity),
            (&["\u{e9}"], Encoding::Identity),
        ];
        for (lines, expected) in cases {
            let line =
                |line: &&str| (header::ACCEPT_ENCODING, HeaderValue::from_bytes(line.as_bytes()).expect("a value"));
            assert_eq!(negotiate(&lines.iter().map(line).collect()), *expected, "{lines:?}");
        }
    }

    fn negotiated(value: &str) -> Encoding {
        let value = HeaderValue::from_str(value).expect("a value");
        negotiate(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]))
    }

    proptest! {
        #[test]
        fn every_valid_weight_is_parsed(thousandths in 0_u16..=1000, digits in 0_usize..=3, space in " {0,2}") {
            let step = 10_u16.pow(3 - u32::try_from(digits).expect("few"));
            let thousandths = thousandths / step * step;
            let text = format!("{}.{:03}", thousandths / 1000, thousandths % 1000);
            let text = &text[..text.len() - 3 + digits];
            prop_assert_eq!(weight(&format!("{space}q{space}={space}{text}")), Some(thousandths), "{}", text);
        }

        #[test]
        fn the_order_of_elements_and_other_codings_do_not_matter(
            gzip in proptest::option::of(0_u16..=1000),
            identity in proptest::option::of(0_u16..=1000),
            any in proptest::option::of(0_u16..=1000),
            others in proptest::collection::vec("br|zstd|deflate;q=0\\.9|;|gzip;q=x|[a-z]{4}5;q=1|", 0..4),
            seed in any::<[u8; 7]>(),
        ) {
            let element = |coding: &str, weight: Option<u16>| {
                weight.map(|weight| format!("{coding};q={}.{:03}", weight / 1000, weight % 1000))
            };
            let known = [element("gzip", gzip), element("identity", identity), element("*", any)];
            let mut elements: Vec<String> = known.into_iter().flatten().chain(others).collect();
            let mut keys = seed.iter();
            elements.sort_by_cached_key(|_| keys.next().copied());

            let gzip = gzip.or(any).unwrap_or(0);
            let identity = identity.or(any);
            let expected = if gzip == 0 || identity.is_some_and(|identity| identity > gzip) {
                Encoding::Identity
            } else if identity == Some(0) {
                Encoding::GzipOnly
            } else {
                Encoding::Gzip
            };
            prop_assert_eq!(negotiated(&elements.join(", ")), expected, "{:?}", elements);
        }

        #[test]
        fn any_header_is_negotiated_without_gzip_unless_it_is_named(value in proptest::collection::vec(any::<u8>(), 0..40)) {
            let Ok(value) = HeaderValue::from_bytes(&value) else { return Ok(()) };
            let text = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
            let encoding = negotiate(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, value)]));
            prop_assert!(encoding == Encoding::Identity || text.contains("gzip") || text.contains('*'));
        }
    }
}
