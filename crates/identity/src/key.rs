//! The public keys of an issuer (JSON Web Keys, RFC 7517).

use std::{
    collections::{HashMap, hash_map::Entry},
    fmt,
};

use aws_lc_rs::{
    rsa::PublicKeyComponents,
    signature::{
        ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256,
        RsaParameters,
    },
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The maximum number of keys of an issuer.
const MAX_KEYS: usize = 100;

/// The minimum length of an RSA modulus, in bytes.
const MIN_MODULUS: usize = 256;

/// An algorithm of signatures (RFC 7518, RFC 8037).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    #[serde(rename = "RS256")]
    Rs256,
    /// RSASSA-PSS with SHA-256.
    #[serde(rename = "PS256")]
    Ps256,
    /// ECDSA on P-256 with SHA-256.
    #[serde(rename = "ES256")]
    Es256,
    /// Ed25519.
    #[serde(rename = "EdDSA", alias = "Ed25519")]
    EdDsa,
}

impl Algorithm {
    /// Returns every algorithm; where a key could have several, the first is preferred.
    #[must_use]
    pub fn all() -> Vec<Self> {
        vec![Self::Rs256, Self::Ps256, Self::Es256, Self::EdDsa]
    }

    /// Parses a name in the header of a token or in a key. RFC 9864 renames `EdDSA` to `Ed25519`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rs256,
            "PS256" => Self::Ps256,
            "ES256" => Self::Es256,
            "EdDSA" | "Ed25519" => Self::EdDsa,
            _ => return None,
        })
    }
}

/// A public key, with the only algorithm that it is used for.
pub(crate) struct Key {
    pub(crate) algorithm: Algorithm,
    public: ParsedPublicKey,
}

impl Key {
    /// Returns whether a signature is right.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.public.verify_sig(message, signature).is_ok()
    }
}

/// The usable keys of an issuer.
#[derive(Default)]
pub(crate) struct KeySet {
    keys: HashMap<String, Key>,
    /// The keys without an id, only one of which can be found.
    nameless: Vec<Key>,
}

/// Why a set of keys was not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("it is not a JSON Web Key Set: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it has more than {MAX_KEYS} keys")]
    TooMany,
    #[error("it has no usable key")]
    Empty,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Parses a JSON Web Key Set. Keys that cannot be used are skipped.
    ///
    /// # Errors
    /// Returns an error if the document is invalid, or has too many keys or no usable one.
    pub(crate) fn parse(document: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeySetError> {
        let Document { keys } = serde_json::from_slice(document)?;
        if keys.len() > MAX_KEYS {
            return Err(KeySetError::TooMany);
        }
        let mut set = Self::default();
        for jwk in keys {
            let Ok(jwk) = serde_json::from_value::<Jwk>(jwk) else { continue };
            match (jwk.key(algorithms), jwk.kid) {
                (None, kid) => tracing::debug!(kid, "key skipped"),
                (Some(key), None) => set.nameless.push(key),
                // Of several keys with one id the first counts: which is meant must not be up to the token.
                (Some(key), Some(kid)) => match set.keys.entry(kid) {
                    Entry::Vacant(entry) => {
                        entry.insert(key);
                    }
                    Entry::Occupied(entry) => {
                        tracing::warn!(kid = entry.key(), "several keys have this id; only the first is used");
                    }
                },
            }
        }
        if set.len() == 0 { Err(KeySetError::Empty) } else { Ok(set) }
    }

    fn len(&self) -> usize {
        self.keys.len() + self.nameless.len()
    }

    /// Finds the key with an id. A token without one can only be of an issuer with a single key.
    pub(crate) fn find(&self, kid: Option<&str>) -> Option<&Key> {
        match kid {
            Some(kid) => self.keys.get(kid),
            None if self.len() == 1 => self.nameless.first().or_else(|| self.keys.values().next()),
            None => None,
        }
    }
}

impl Jwk {
    /// Returns the key; `None` if it is not one for signatures, of an unknown kind, too short or malformed.
    fn key(&self, algorithms: &[Algorithm]) -> Option<Key> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let fits = |algorithm: &Algorithm| {
            matches!(
                (self.kty.as_str(), self.crv.as_deref(), algorithm),
                ("RSA", _, Algorithm::Rs256 | Algorithm::Ps256)
                    | ("EC", Some("P-256"), Algorithm::Es256)
                    | ("OKP", Some("Ed25519"), Algorithm::EdDsa)
            )
        };
        let named = match &self.alg {
            Some(name) => Some(Algorithm::from_name(name)?),
            None => None,
        };
        let mut candidates =
            algorithms.iter().copied().filter(|algorithm| named.is_none_or(|named| named == *algorithm));
        let algorithm = candidates.find(fits)?;
        let public = match algorithm {
            Algorithm::Rs256 => self.rsa(&RSA_PKCS1_2048_8192_SHA256)?,
            Algorithm::Ps256 => self.rsa(&RSA_PSS_2048_8192_SHA256)?,
            Algorithm::Es256 => {
                let (x, y) = (coordinate(self.x.as_deref())?, coordinate(self.y.as_deref())?);
                let point = [[0x04].as_slice(), &x, &y].concat();
                ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).ok()?
            }
            Algorithm::EdDsa => ParsedPublicKey::new(&ED25519, coordinate(self.x.as_deref())?).ok()?,
        };
        Some(Key { algorithm, public })
    }

    fn rsa(&self, parameters: &'static RsaParameters) -> Option<ParsedPublicKey> {
        let (n, e) = (integer(self.n.as_deref())?, integer(self.e.as_deref())?);
        let is_short = n.len() < MIN_MODULUS || n.len() == MIN_MODULUS && n[0] < 0x80;
        // With the exponent 1, which aws-lc-rs accepts, anybody could sign.
        let is_exponent = e != [1] && e.last().is_some_and(|byte| byte % 2 == 1);
        if is_short || !is_exponent {
            return None;
        }
        PublicKeyComponents { n, e }.to_parsed_public_key(parameters).ok()
    }
}

fn coordinate(text: Option<&str>) -> Option<[u8; 32]> {
    BASE64_URL_SAFE_NO_PAD.decode(text?).ok()?.try_into().ok()
}

/// Decodes an integer. Some issuers write leading zeros, which RFC 7518 does not allow and which change nothing.
fn integer(text: Option<&str>) -> Option<Vec<u8>> {
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(text?).ok()?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    Some(bytes[zeros..].to_vec())
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet").field("keys", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use aws_lc_rs::{
        rsa::{KeyPair, KeySize},
        signature::KeyPair as _,
    };
    use serde_json::json;

    use super::*;
    use crate::sign::SigningKey;

    fn usable(jwk: &Value, algorithms: &[Algorithm]) -> Option<Algorithm> {
        let document = json!({ "keys": [jwk] }).to_string();
        let set = KeySet::parse(document.as_bytes(), algorithms).ok()?;
        Some(set.find(None)?.algorithm)
    }

    fn with(mut jwk: Value, changes: &Value) -> Value {
        for (name, value) in changes.as_object().expect("an object") {
            match value {
                Value::Null => jwk.as_object_mut().expect("an object").remove(name),
                value => jwk.as_object_mut().expect("an object").insert(name.clone(), value.clone()),
            };
        }
        jwk
    }

    #[test]
    fn a_key_has_one_algorithm() {
        let jwk = SigningKey::generate().expect("a key").jwk();
        let all = Algorithm::all();
        let nameless = with(jwk.clone(), &json!({ "alg": null }));
        for (changes, algorithms, expected) in [
            (json!({}), all.as_slice(), Some(Algorithm::Rs256)),
            (json!({ "alg": "PS256" }), &all, Some(Algorithm::Ps256)),
            (json!({ "alg": null }), &all, Some(Algorithm::Rs256)),
            (json!({ "alg": null }), &[Algorithm::Es256, Algorithm::Ps256], Some(Algorithm::Ps256)),
            (json!({ "alg": null }), &[Algorithm::Es256], None),
            (json!({}), &[Algorithm::Ps256], None),
            (json!({ "alg": "RS512" }), &all, None),
            (json!({ "alg": "HS256" }), &all, None),
            (json!({ "alg": "ES256" }), &all, None),
        ] {
            assert_eq!(usable(&with(jwk.clone(), &changes), algorithms), expected, "{changes}");
        }
        assert_eq!(usable(&nameless, slice::from_ref(&Algorithm::Rs256)), Some(Algorithm::Rs256));
    }

    #[test]
    fn keys_that_cannot_be_used_are_skipped() {
        let jwk = SigningKey::generate().expect("a key").jwk();
        let n = jwk["n"].as_str().expect("a modulus");
        let padded =
            BASE64_URL_SAFE_NO_PAD.encode([[0].as_slice(), &BASE64_URL_SAFE_NO_PAD.decode(n).expect("bytes")].concat());
        for (changes, is_usable) in [
            (json!({ "use": null }), true),
            (json!({ "n": padded }), true),
            (json!({ "use": "enc" }), false),
            (json!({ "kty": "rsa" }), false),
            (json!({ "kty": "oct", "k": "c2VjcmV0" }), false),
            (json!({ "kty": "EC", "crv": "P-256", "alg": null }), false),
            (json!({ "kty": "XYZ" }), false),
            (json!({ "n": null }), false),
            (json!({ "n": 1 }), false),
            (json!({ "n": "AQAB" }), false),
            // 2,040 bits.
            (json!({ "n": &n[..340] }), false),
            (json!({ "n": format!("{n}=") }), false),
            (json!({ "e": "" }), false),
            (json!({ "e": "AQ" }), false),
            (json!({ "e": "Ag" }), false),
        ] {
            let key = with(jwk.clone(), &changes);
            assert_eq!(usable(&key, &Algorithm::all()).is_some(), is_usable, "{changes}");
        }
        for curve in ["P-384", "secp256k1", ""] {
            assert_eq!(usable(&json!({ "kty": "EC", "crv": curve, "x": n, "y": n }), &Algorithm::all()), None);
        }
        // Not on the curve.
        let one = BASE64_URL_SAFE_NO_PAD.encode([1; 32]);
        assert_eq!(usable(&json!({ "kty": "EC", "crv": "P-256", "x": one, "y": one }), &Algorithm::all()), None);
    }

    #[test]
    fn one_bad_key_does_not_spoil_the_others() {
        let good = SigningKey::generate().expect("a key");
        let document = json!({ "keys": [1, null, {}, { "kty": "RSA" }, good.jwk()] }).to_string();
        let set = KeySet::parse(document.as_bytes(), &Algorithm::all()).expect("a set");
        assert!(set.len() == 1 && set.find(Some(good.kid())).is_some() && set.find(Some("")).is_none());
    }

    #[test]
    fn of_two_keys_with_one_id_the_first_counts() {
        let [first, second] = [(); 2].map(|()| SigningKey::generate().expect("a key"));
        let named = |key: &SigningKey| with(key.jwk(), &json!({ "kid": "k" }));
        let encryption = with(named(&second), &json!({ "use": "enc" }));
        let document = json!({ "keys": [encryption, named(&first), named(&second)] }).to_string();
        let set = KeySet::parse(document.as_bytes(), &Algorithm::all()).expect("a set");
        let token = first.sign(&json!({}), "x").expect("a token");
        let (message, signature) = token.rsplit_once('.').expect("parts");
        let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).expect("bytes");
        assert!(set.find(Some("k")).is_some_and(|key| key.verifies(message.as_bytes(), &signature)));
    }

    #[test]
    fn larger_rsa_keys_are_usable() {
        let pair = KeyPair::generate(KeySize::Rsa3072).expect("a key");
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let n = encode(pair.public_key().modulus().big_endian_without_leading_zero());
        assert!(usable(&json!({ "kty": "RSA", "n": n, "e": "AQAB" }), &Algorithm::all()).is_some());
    }
}
