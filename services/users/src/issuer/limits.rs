//! Limits on attempts to guess passwords. They are counted in the database before the password is checked, so that
//! parallel attempts, also on other replicas, count.

use std::time::Duration;

use chassis::Database;
use sha2::{Digest, Sha256};

use crate::{
    client_address::Origin,
    error::Error,
    model::Email,
    store::throttle::{self, Keys, Limit, Limits},
};

/// The limits. Successful attempts do not count.
const LIMITS: Limits = Limits {
    // Of one client on all accounts: more would occupy the threads that hash.
    address: Limit { count: 60, period: 60.0 },
    // Of one client on one account.
    pair: Limit { count: 10, period: 900.0 },
    // Of all clients on one account. It does not hold where the user is logged in, so nobody can lock the user out.
    account: Limit { count: 100, period: 3600.0 },
};

/// An attempt to log in, counted as failed in advance.
pub(crate) struct Attempt(pub(crate) Keys);

impl Attempt {
    /// Counts an attempt.
    ///
    /// # Errors
    /// Returns [`Error::TooManyAttempts`] if a limit is reached.
    pub(crate) async fn reserve(database: &Database, email: &Email, origin: &Origin) -> Result<Self, Error> {
        let network = origin.network();
        let keys = keys(email.as_str(), network.as_deref());
        let work = async |connection: &mut sqlx::PgConnection| {
            throttle::reserve(connection, &keys, &LIMITS, email.as_str(), network.as_deref()).await
        };
        match database.change(work).await.map_err(Error::from_write)? {
            None => Ok(Self(keys)),
            Some(seconds) => Err(Error::TooManyAttempts(Duration::from_secs_f64(seconds.clamp(1.0, 3600.0)))),
        }
    }

    /// Takes it out of the counts: it succeeded, or was not judged.
    pub(crate) async fn release(self, database: &Database) -> Result<(), Error> {
        let released = database.change(async |connection| throttle::release(connection, &self.0).await).await;
        released.map_err(Error::from_write)
    }
}

/// Forgets the failed attempts of all clients on an account, after its password was set.
pub(crate) async fn forget(database: &Database, email: &str) -> Result<(), Error> {
    let key = digest(b'3', &[&email.to_ascii_lowercase()]);
    let forgotten = database.change(async |connection| throttle::forget(connection, &key).await).await;
    forgotten.map_err(Error::from_write)
}

/// The keys of an attempt. Requests whose address is unknown share one.
fn keys(email: &str, network: Option<&str>) -> Keys {
    let (email, network) = (email.to_ascii_lowercase(), network.unwrap_or("unknown"));
    Keys { address: digest(b'1', &[network]), pair: digest(b'2', &[network, &email]), account: digest(b'3', &[&email]) }
}

/// The kind, then SHA-256 of the parts. Rows are locked in the order of their kinds.
fn digest(kind: u8, parts: &[&str]) -> Vec<u8> {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let mut key = vec![kind];
    key.extend(hash.finalize());
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_distinct_and_sort_by_kind() {
        let one = keys("Ada@example.com", Some("203.0.113.1"));
        assert!(one.address < one.pair && one.pair < one.account);
        let same = keys("ada@EXAMPLE.com", Some("203.0.113.1"));
        assert_eq!((&one.pair, &one.account), (&same.pair, &same.account));
        let other = keys("ada@example.com", Some("203.0.113.2"));
        assert_eq!(one.account, other.account);
        assert!(one.pair != other.pair && one.address != other.address);
    }
}
