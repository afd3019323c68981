//! A request's claim to its key, and the response that is stored for it.

use http::{Method, StatusCode};
use runtime::Problem;
use sha2::{Digest as _, Sha256};

use super::key::IdempotencyKey;

/// A SHA-256 digest.
pub type Digest = [u8; 32];

/// A request's claim to its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Identifies the caller, the operation and the key.
    pub id: Digest,
    /// Identifies the content of the request as parsed: repetitions have the same fingerprint.
    pub fingerprint: Digest,
}

impl Claim {
    /// Claims a key for a request. `method` and `path` name the operation, whichever protocol the request arrived over.
    /// `content` is the rest of the request as parsed, in parts: requests that differ must have different lists.
    ///
    /// Other versions of the service compare the digests too, so an addition must leave the list of a request without
    /// it as it was.
    pub fn new(
        key: &IdempotencyKey,
        method: &Method,
        path: &str,
        content: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Self {
        let id = digest([key.subject(), method.as_str(), path, key.as_str()]);
        Self { id, fingerprint: digest(content) }
    }
}

/// Hashes a list of parts. Each part is preceded by its length, so different lists are different inputs of the hash.
fn digest(parts: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        let part = part.as_ref();
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

/// A response stored under the key that its request claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored<R> {
    /// The claim of the first request.
    pub claim: Claim,
    /// Its response. Other versions of the service read it too: additions must be optional.
    pub response: R,
}

impl<R> Stored<R> {
    /// Returns the response, for a repetition of its request.
    ///
    /// # Errors
    /// Returns [`KeyReused`] for any other request.
    pub fn replay(self, claim: &Claim) -> Result<R, KeyReused> {
        if self.claim == *claim { Ok(self.response) } else { Err(KeyReused) }
    }
}

/// An earlier request used the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this Idempotency-Key was already used for a different request")]
pub struct KeyReused;

impl From<KeyReused> for Problem {
    fn from(reused: KeyReused) -> Self {
        Self::with_kind(StatusCode::UNPROCESSABLE_ENTITY, "idempotency-key-reused", reused.to_string())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim(key: &str, method: &Method, path: &str, content: &[&str]) -> Claim {
        Claim::new(&IdempotencyKey::try_from(key.as_bytes()).expect("a valid key"), method, path, content)
    }

    #[test]
    fn different_contents_have_different_fingerprints() {
        let contents: [&[&str]; 6] = [&[], &[""], &["", ""], &["ab"], &["a", "b"], &["b", "a"]];
        let claims = contents.map(|content| claim("k", &Method::POST, "/notes", content));
        for (number, claim) in claims.iter().enumerate() {
            assert_eq!(claim.id, claims[0].id);
            assert!(claims[..number].iter().all(|other| other.fingerprint != claim.fingerprint), "{number}");
        }
    }

    #[test]
    fn a_key_belongs_to_its_method_and_path() {
        let one = claim("k", &Method::PUT, "/notes/1", &[]);
        for other in [
            claim("K", &Method::PUT, "/notes/1", &[]),
            claim("k", &Method::POST, "/notes/1", &[]),
            claim("k", &Method::PUT, "/notes/2", &[]),
        ] {
            assert_ne!(one.id, other.id);
        }
    }

    #[test]
    fn a_key_belongs_to_its_subject() {
        let key = |subject: &str| IdempotencyKey::of_subject(b"k", subject.into()).expect("a valid key");
        let [nobody, ada, bob] = ["", "https://issuer.example ada", "https://issuer.example bob"]
            .map(|subject| Claim::new(&key(subject), &Method::POST, "/notes", [""; 0]).id);
        assert_eq!(nobody, claim("k", &Method::POST, "/notes", &[]).id);
        assert!(nobody != ada && ada != bob && bob != nobody);
    }

    #[test]
    fn keys_that_were_stored_without_a_token_stay_valid() {
        // Each part after its length: no subject, the method, the path and the key.
        let parts = b"\0\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0POST\x06\0\0\0\0\0\0\0/notes\x01\0\0\0\0\0\0\0k";
        let id: Digest = Sha256::digest(parts).into();
        assert_eq!(claim("k", &Method::POST, "/notes", &[]).id, id);
    }

    proptest! {
        #[test]
        fn different_keys_have_different_ids(one in "[!-~]{1,20}", other in "[!-~]{1,20}") {
            let [first, second] = [&one, &other].map(|key| claim(key, &Method::POST, "/notes", &[]));
            prop_assert_eq!(first.id == second.id, one == other);
        }
    }

    #[test]
    fn a_response_is_only_replayed_to_its_own_request() {
        let request = claim("k", &Method::POST, "/notes", &["a"]);
        let stored = Stored { claim: request.clone(), response: 1 };
        assert_eq!(stored.clone().replay(&request), Ok(1));
        assert_eq!(stored.replay(&claim("k", &Method::POST, "/notes", &["b"])), Err(KeyReused));
    }
}
