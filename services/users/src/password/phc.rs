//! Stored hashes: PHC strings with argon2id.

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Ident, Output, ParamsString, PasswordHash, Salt},
};
use aws_lc_rs::constant_time::verify_slices_are_equal;

use super::Password;

/// The memory of a hash, in KiB, and the passes over it (OWASP Password Storage Cheat Sheet).
pub(super) const MEMORY: u32 = 19 * 1024;
const PASSES: u32 = 2;

/// The most that a stored hash may ask for. Whoever can write to the database must not exhaust the service.
const MAX_PASSES: u32 = 8;

/// The length of a hash, in bytes.
const LENGTH: usize = 32;

/// Why a stored hash cannot be checked.
#[derive(Debug, thiserror::Error)]
#[error("a stored password hash is malformed or too expensive")]
pub(crate) struct Unusable;

/// A stored hash.
pub(super) struct StoredHash {
    params: Params,
    salt: Salt,
    hash: Output,
}

impl StoredHash {
    pub(super) fn parse(phc: &str) -> Result<Self, Unusable> {
        let parsed = PasswordHash::new(phc).map_err(|_| Unusable)?;
        let params = Params::try_from(&parsed).map_err(|_| Unusable)?;
        let is_argon2id = parsed.algorithm == Algorithm::Argon2id.ident();
        let is_current_version = parsed.version == Some(Version::V0x13.into());
        let is_bounded = params.m_cost() <= MEMORY && params.t_cost() <= MAX_PASSES && params.p_cost() == 1;
        match (parsed.salt, parsed.hash) {
            (Some(salt), Some(hash)) if is_argon2id && is_current_version && is_bounded && hash.len() >= 16 => {
                Ok(Self { params, salt, hash })
            }
            _ => Err(Unusable),
        }
    }

    /// Whether the password has this hash.
    pub(super) fn matches(&self, password: &Password, memory: &mut [Block]) -> bool {
        let mut computed = vec![0; self.hash.len()];
        is_computed(&self.params, &self.salt, password, &mut computed, memory)
            && verify_slices_are_equal(&computed, self.hash.as_bytes()).is_ok()
    }

    /// Whether it was made with lower parameters than today's.
    pub(super) fn is_outdated(&self) -> bool {
        self.params.m_cost() < MEMORY || self.params.t_cost() < PASSES || self.hash.len() < LENGTH
    }
}

/// Hashes a password with a new salt.
pub(super) fn hash(password: &Password, memory: &mut [Block]) -> Option<String> {
    let (params, salt, mut computed) =
        (Params::new(MEMORY, PASSES, 1, Some(LENGTH)).ok()?, Salt::generate(), [0; LENGTH]);
    if !is_computed(&params, &salt, password, &mut computed, memory) {
        return None;
    }
    let hash = PasswordHash {
        algorithm: Ident::new("argon2id").ok()?,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).ok()?,
        salt: Some(salt),
        hash: Some(Output::new(&computed).ok()?),
    };
    Some(hash.to_string())
}

fn is_computed(params: &Params, salt: &Salt, password: &Password, out: &mut [u8], memory: &mut [Block]) -> bool {
    let Ok(params) = Params::new(params.m_cost(), params.t_cost(), params.p_cost(), Some(out.len())) else {
        return false;
    };
    let memory = &mut memory[..params.block_count()];
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon2.hash_password_into_with_memory(password.as_bytes(), salt.as_ref(), out, memory).is_ok()
}

/// Allocates what a hash needs.
pub(super) fn memory() -> Vec<Block> {
    vec![Block::new(); MEMORY as usize]
}

#[cfg(test)]
mod tests {
    use argon2::PasswordHasher;

    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).expect("a password")
    }

    #[test]
    fn only_the_same_password_matches() {
        let mut memory = memory();
        let phc = hash(&password("a tall heron waits"), &mut memory).expect("a hash");
        assert!(phc.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{phc}");
        let stored = StoredHash::parse(&phc).expect("valid");
        assert!(stored.matches(&password("a tall heron waits"), &mut memory));
        assert!(!stored.matches(&password("a tall heron wait"), &mut memory));
        assert!(!stored.is_outdated());
        assert_ne!(phc, hash(&password("a tall heron waits"), &mut memory).expect("a hash"), "salted");
    }

    #[test]
    fn hashes_of_others_can_be_checked() {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(1024, 1, 1, None).expect("valid"));
        let phc = argon2.hash_password(b"a tall heron waits").expect("a hash").to_string();
        let stored = StoredHash::parse(&phc).expect("valid");
        assert!(stored.matches(&password("a tall heron waits"), &mut memory()));
        assert!(stored.is_outdated());
    }

    #[test]
    fn stored_parameters_are_capped() {
        let good = "$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g";
        assert!(StoredHash::parse(good).is_ok());
        for (old, new) in [
            ("m=19456", "m=4194304"),
            ("t=2", "t=1000000"),
            ("p=1", "p=64"),
            ("argon2id", "argon2i"),
            ("argon2id", "scrypt"),
            ("v=19", "v=16"),
            ("$aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g", ""),
            ("aGFzaGhhc2hoYXNoaGFzaGhhc2hoYXNoaGFzaGhhc2g", "aGFz"),
        ] {
            assert!(StoredHash::parse(&good.replace(old, new)).is_err(), "{new}");
        }
        assert!(StoredHash::parse("").is_err());
    }
}
