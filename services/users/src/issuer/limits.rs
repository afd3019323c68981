//! Limits on attempts to guess passwords. They are counted in the database before the password is checked, so that
//! parallel attempts, also on other replicas, count.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use chassis::Database;
use sha2::{Digest, Sha256};

use super::Issuer;
use crate::{
    client_address::Origin,
    error::Error,
    model::{Email, UserId},
    password::Place,
    state::Users,
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

/// The limit on the emails that users give themselves: each is a question whether somebody else has it.
const EMAILS: Limit = Limit { count: 10, period: 3600.0 };

/// The maximum number of limits that a replica remembers as reached.
const MAX_REACHED: usize = 10_000;

/// The limits of clients that this replica knows to be reached, and until when. An attempt that they refuse takes none of
/// what others need: a place among the passwords, a connection and the lock on a row.
#[derive(Default)]
pub(crate) struct Reached(Mutex<HashMap<Vec<u8>, Instant>>);

impl Reached {
    /// How long an attempt has to wait.
    fn wait(&self, keys: &Keys) -> Option<Duration> {
        let reached = self.lock();
        let now = Instant::now();
        let wait = |key| reached.get(key)?.checked_duration_since(now).filter(|wait| !wait.is_zero());
        wait(&keys.address).max(wait(&keys.pair))
    }

    /// Remembers a limit. If there are too many, the database refuses the attempts.
    fn remember(&self, key: Vec<u8>, wait: Duration) {
        let mut reached = self.lock();
        let now = Instant::now();
        if reached.len() >= MAX_REACHED {
            reached.retain(|_, until| *until > now);
        }
        if reached.len() < MAX_REACHED {
            reached.insert(key, now + wait);
        }
    }

    /// Forgets the limits of an attempt that does not count: without it, they may not be reached.
    fn forget(&self, keys: &Keys) {
        let mut reached = self.lock();
        reached.remove(&keys.address);
        reached.remove(&keys.pair);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt to log in, counted as failed in advance.
pub(crate) struct Attempt {
    pub(crate) keys: Keys,
}

impl Attempt {
    /// Counts an attempt, and takes a place among the passwords that wait.
    ///
    /// # Errors
    /// Returns [`Error::TooManyAttempts`] if a limit is reached, [`Error::Busy`] if too many passwords wait.
    pub(crate) async fn reserve(users: &Users, email: &Email, origin: &Origin) -> Result<(Self, Place), Error> {
        let issuer = users.issuer()?;
        let network = origin.network();
        let keys = keys(email.as_str(), network.as_deref());
        if let Some(wait) = issuer.reached.wait(&keys) {
            return Err(Error::TooManyAttempts(wait));
        }
        let place = issuer.hasher.enter()?;
        let work = async |connection: &mut sqlx::PgConnection| {
            throttle::reserve(connection, &keys, &LIMITS, email.as_str(), network.as_deref()).await
        };
        let Some((key, seconds)) = users.database.change(work).await.map_err(Error::from_write)? else {
            return Ok((Self { keys }, place));
        };
        let wait = duration(seconds);
        // Some attempts pass the limit of an account.
        if key != keys.account {
            issuer.reached.remember(key, wait);
        }
        Err(Error::TooManyAttempts(wait))
    }

    /// Takes it out of the counts: it succeeded, or was not judged.
    pub(crate) async fn release(self, users: &Users) -> Result<(), Error> {
        let work = async |connection: &mut sqlx::PgConnection| throttle::release(connection, &self.keys).await;
        users.database.change(work).await.map_err(Error::from_write)?;
        self.forget(users.issuer()?);
        Ok(())
    }

    /// Forgets that its limits were reached, after it was taken out of the counts.
    pub(crate) fn forget(&self, issuer: &Issuer) {
        issuer.reached.forget(&self.keys);
    }
}

/// Counts an email that a user wants to have.
///
/// # Errors
/// Returns [`Error::TooManyAttempts`] if the limit is reached.
pub(crate) async fn count_email(database: &Database, user: UserId) -> Result<(), Error> {
    let key = digest(b'4', &[&user.to_string()]);
    let counted = database.change(async |connection| throttle::count(connection, &key, &EMAILS).await).await;
    let wait = counted.map_err(Error::from_write)?;
    wait.map_or(Ok(()), |seconds| Err(Error::TooManyAttempts(duration(seconds))))
}

fn duration(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds.clamp(1.0, 3600.0))
}

/// Forgets the failed attempts of all clients on an account, after its password was set.
pub(crate) async fn forget(database: &Database, email: &str) -> Result<(), Error> {
    let key = digest(b'3', &[&email.to_ascii_lowercase()]);
    let forgotten = database.change(async |connection| throttle::forget(connection, &key).await).await;
    forgotten.map_err(Error::from_write)
}

/// The keys of an attempt. Clients whose address is unknown share that of an account, but not one for all accounts.
fn keys(email: &str, network: Option<&str>) -> Keys {
    let email = email.to_ascii_lowercase();
    let address = digest(b'1', &[network.unwrap_or(&email)]);
    let network = network.unwrap_or("unknown");
    Keys { address, pair: digest(b'2', &[network, &email]), account: digest(b'3', &[&email]) }
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

    fn client(number: usize) -> Keys {
        keys("ada@example.com", Some(&format!("203.0.113.{number}")))
    }

    #[test]
    fn a_reached_limit_is_remembered_until_its_end_or_a_success() {
        let reached = Reached::default();
        let (one, other) = (client(1), client(2));
        reached.remember(one.address.clone(), Duration::from_mins(1));
        reached.remember(other.pair.clone(), Duration::ZERO);
        assert!(reached.wait(&one).is_some_and(|wait| wait <= Duration::from_mins(1)));
        assert_eq!(reached.wait(&other), None);
        reached.remember(one.pair.clone(), Duration::from_mins(15));
        assert!(reached.wait(&one).is_some_and(|wait| wait > Duration::from_mins(1)), "the longer one");
        reached.forget(&one);
        assert_eq!(reached.wait(&one), None);
    }

    #[test]
    fn few_limits_are_remembered_and_old_ones_make_way() {
        let reached = Reached::default();
        for number in 1..=MAX_REACHED {
            let wait = if number == 1 { Duration::ZERO } else { Duration::from_mins(1) };
            reached.remember(client(number).address, wait);
        }
        reached.remember(client(0).address, Duration::from_mins(1));
        assert!(reached.wait(&client(0)).is_some(), "the first one is over");
        reached.remember(client(1).address, Duration::from_mins(1));
        assert_eq!((reached.wait(&client(1)), reached.lock().len()), (None, MAX_REACHED));
    }

    #[test]
    fn clients_without_an_address_share_no_limit_over_all_accounts() {
        let (ada, bob) = (keys("ada@example.com", None), keys("bob@example.com", None));
        assert!(ada.address != bob.address && ada.pair != bob.pair);
        assert_eq!(ada.pair, keys("ADA@example.com", None).pair);
    }

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
