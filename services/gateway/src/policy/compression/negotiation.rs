//! Whether a client wants gzip, by its Accept-Encoding (RFC 9110, section 12.5.3).

use http::{HeaderMap, header};

/// What a client takes best.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Choice {
    /// The content as it is.
    #[default]
    Plain,
    /// gzip, or the content as it is.
    Gzip,
    /// gzip and nothing else that there is here.
    OnlyGzip,
}

/// Of a request that has the header.
pub(super) fn choose(headers: &HeaderMap) -> Choice {
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
        _ if gzip == 0 => Choice::Plain,
        Some(0) => Choice::OnlyGzip,
        Some(identity) if identity > gzip => Choice::Plain,
        _ => Choice::Gzip,
    }
}

/// The weight that an element's parameters give it, in thousandths; `None` for one that cannot be read.
fn weight(parameters: &str) -> Option<u16> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let value = parameters.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim_start();
    let (whole, part) = value.split_once('.').unwrap_or((value, ""));
    if part.len() > 3 || !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let thousandths = format!("{part:0<3}").parse::<u16>().ok()?;
    match whole {
        "0" => Some(thousandths),
        "1" if thousandths == 0 => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn weights_decide() {
        let cases: &[(&[&str], Choice)] = &[
            (&["gzip"], Choice::Gzip),
            (&["GZIP"], Choice::Gzip),
            (&["x-gzip"], Choice::Gzip),
            (&["gzip, x-gzip;q=0"], Choice::Gzip),
            (&["gzip, deflate, br, zstd"], Choice::Gzip),
            (&["br", "gzip"], Choice::Gzip),
            (&["br;q=1.0, gzip;q=0.2, *;q=0"], Choice::OnlyGzip),
            (&["*"], Choice::Gzip),
            (&["*;q=0.5"], Choice::Gzip),
            (&["gzip;q=0.001"], Choice::Gzip),
            (&["gzip ; q = 0.5"], Choice::Gzip),
            (&["gzip;Q=1.000"], Choice::Gzip),
            (&["identity;q=0, gzip"], Choice::OnlyGzip),
            (&["identity;q=0, *"], Choice::OnlyGzip),
            (&["identity;q=0.5, gzip;q=0.5"], Choice::Gzip),
            (&["identity, gzip;q=0.5"], Choice::Plain),
            (&["gzip;q=0"], Choice::Plain),
            (&["gzip;q=0.000, *"], Choice::Plain),
            (&["*;q=0"], Choice::Plain),
            (&["identity;q=0"], Choice::Plain),
            (&[""], Choice::Plain),
            (&["br"], Choice::Plain),
            (&["gzipped"], Choice::Plain),
            // What cannot be read is not there.
            (&["gzip;q=2"], Choice::Plain),
            (&["gzip;q=1.5"], Choice::Plain),
            (&["gzip;q=0.1234"], Choice::Plain),
            (&["gzip;q=-1"], Choice::Plain),
            (&["gzip;q=0.5;x=1"], Choice::Plain),
            (&["gzip;level=1"], Choice::Plain),
            (&["gzip;q="], Choice::Plain),
            (&["\u{e9}"], Choice::Plain),
        ];
        for (lines, expected) in cases {
            let line =
                |line: &&str| (header::ACCEPT_ENCODING, HeaderValue::from_bytes(line.as_bytes()).expect("a value"));
            assert_eq!(choose(&lines.iter().map(line).collect()), *expected, "{lines:?}");
        }
    }
}
