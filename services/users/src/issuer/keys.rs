//! The keys in use: the one that signs access tokens, those that are published, and the one of refresh tokens.

use std::sync::Arc;

use aws_lc_rs::hmac;
use identity::{
    seal::{KeyEncryptionKey, SealError},
    sign::{self, SignError, SigningKey},
};
use serde::Serialize;
use serde_json::Value;

use super::RefreshToken;
use crate::{error::Error, store::key::KeyRow};

/// What the sealed key of refresh tokens is for.
pub(super) const REFRESH: &[u8] = b"users/issuer/refresh";

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("the key in AUTH_KEK_FILE is not the one that sealed the keys in the database; no new keys are made")]
    WrongKek(#[source] SealError),
    #[error("a key cannot be sealed")]
    Seal(#[source] SealError),
    #[error("a signing key cannot be used")]
    Sign(#[from] SignError),
    #[error(transparent)]
    Database(#[from] chassis::database::DatabaseError),
    #[error("making a key failed")]
    Task(#[from] tokio::task::JoinError),
    #[error("no signing key is in use yet")]
    NoSigner,
}

/// The keys in use.
pub(crate) struct Keys {
    signer: Arc<SigningKey>,
    /// The published keys, in the order of their ids.
    published: Vec<Value>,
    refresh: hmac::Key,
}

impl Keys {
    /// Opens sealed keys. `previous` are those that were in use before.
    pub(super) fn open(
        rows: &[KeyRow],
        refresh: &[u8],
        kek: &KeyEncryptionKey,
        previous: Option<&Self>,
    ) -> Result<Self, KeyError> {
        let secret = kek.open(refresh, REFRESH).map_err(KeyError::WrongKek)?;
        // The newest of those that have been published for long enough.
        let row = rows.iter().filter(|row| row.age >= 0.0).min_by(|a, b| a.age.total_cmp(&b.age));
        let row = row.ok_or(KeyError::NoSigner)?;
        let signer = match previous {
            Some(previous) if previous.signer.kid() == row.kid => previous.signer.clone(),
            _ => {
                let document = kek.open(&row.sealed, &purpose(&row.kid)).map_err(KeyError::WrongKek)?;
                Arc::new(SigningKey::from_pkcs8(&document)?)
            }
        };
        let mut rows: Vec<&KeyRow> = rows.iter().collect();
        rows.sort_by(|a, b| a.kid.cmp(&b.kid));
        let published = rows.into_iter().map(|row| row.public.clone()).collect();
        Ok(Self { signer, published, refresh: hmac::Key::new(hmac::HMAC_SHA256, &secret) })
    }

    pub(super) fn kid(&self) -> &str {
        self.signer.kid()
    }

    /// The JSON Web Key Set.
    pub(crate) fn jwks(&self) -> Value {
        sign::key_set(self.published.iter().cloned())
    }

    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<String, Error> {
        self.signer.sign(claims, sign::ACCESS_TOKEN).map_err(Error::Sign)
    }

    pub(super) fn refresh_token(&self, token: RefreshToken) -> String {
        token.encode(&self.refresh)
    }

    pub(super) fn read_refresh_token(&self, token: &str) -> Option<RefreshToken> {
        RefreshToken::decode(token, &self.refresh)
    }
}

/// What a sealed signing key is for.
pub(super) fn purpose(kid: &str) -> Vec<u8> {
    [b"users/signing_key/", kid.as_bytes()].concat()
}
