//! Makes signing keys in time, and notices those that other replicas made.

use std::{sync::Arc, time::Duration};

use chassis::{Database, LogLimit, chain, database::DatabaseError};
use identity::{seal::KeyEncryptionKey, sign::SigningKey};
use sqlx::{Acquire, PgConnection};
use tokio::{task, time::sleep};

use super::{
    Issuer, Keys,
    keys::{KeyError, REFRESH, purpose},
};
use crate::{
    settings::{Kek, Lifetimes},
    store::key::{self, KeyRow},
};

/// The pause after a failure.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);

/// How much clocks of verifiers may differ. They accept a token for as long after it has expired.
const SKEW: Duration = Duration::from_secs(30);

/// Failures are logged this often.
static FAILURES: LogLimit = LogLimit::new(Duration::from_mins(1));

/// Reads the keys again and again, and makes new ones in time, until the process exits. Every replica may run it.
pub(super) async fn run(issuer: Arc<Issuer>, database: Database, Kek(kek): Kek, lifetimes: Lifetimes) {
    loop {
        let pause = match refresh(&issuer, &database, &kek, lifetimes).await {
            Ok(()) => lifetimes.poll,
            Err(error) => {
                // Requests and the readiness check report an unavailable database.
                if !matches!(error, KeyError::Database(DatabaseError::NoConnection(_) | DatabaseError::Lost(_)))
                    && let Some(omitted) = FAILURES.due()
                {
                    tracing::error!(error = chain(&error), omitted, "cannot use the keys of the issuer");
                }
                PAUSE_AFTER_FAILURE
            }
        };
        sleep(pause.min(lifetimes.poll)).await;
    }
}

/// Reads the keys once. Makes a new one if it is time.
async fn refresh(
    issuer: &Issuer,
    database: &Database,
    kek: &Arc<KeyEncryptionKey>,
    lifetimes: Lifetimes,
) -> Result<(), KeyError> {
    let (mut refresh_key, mut rows) = database.run(read).await?;
    // Before anything is made: with a wrong key-encryption key, nothing is.
    if let Some(refresh_key) = &refresh_key {
        kek.open(refresh_key, REFRESH).map_err(KeyError::WrongKek)?;
    }
    if refresh_key.is_none() || due(&rows, lifetimes).is_some() {
        let new = make(kek).await?;
        let kid = new.kid.clone();
        let added = database.change(async |connection| add(connection, &new, lifetimes).await).await?;
        if added {
            issuer.audit.key_made(&kid);
        }
        (refresh_key, rows) = database.run(read).await?;
    }
    let previous = issuer.keys.load_full();
    let refresh_key = refresh_key.ok_or(KeyError::NoSigner)?;
    let keys = Keys::open(&rows, &refresh_key, kek, previous.as_deref())?;
    if previous.is_none_or(|previous| previous.kid() != keys.kid()) {
        issuer.audit.key_in_use(keys.kid());
    }
    issuer.keys.store(Some(Arc::new(keys)));
    Ok(())
}

async fn read(connection: &mut PgConnection) -> Result<(Option<Vec<u8>>, Vec<KeyRow>), sqlx::Error> {
    Ok((key::refresh_key(connection).await?, key::list(connection).await?))
}

/// If it is time for a new key: how long before its use it is to be published.
fn due(rows: &[KeyRow], lifetimes: Lifetimes) -> Option<Duration> {
    let newest = rows.iter().map(|row| row.age).min_by(f64::total_cmp);
    match newest {
        // Nobody has a token of an older key, and nobody can log in before there is one.
        None => Some(Duration::ZERO),
        Some(age) if age + lifetimes.lead.as_secs_f64() >= lifetimes.rotation.as_secs_f64() => Some(lifetimes.lead),
        Some(_) => None,
    }
}

/// New keys, sealed.
struct NewKeys {
    kid: String,
    public: serde_json::Value,
    sealed: Vec<u8>,
    /// For the first replica only.
    refresh_key: Vec<u8>,
}

/// Makes keys on a thread for slow work: it takes a tenth of a second.
async fn make(kek: &Arc<KeyEncryptionKey>) -> Result<NewKeys, KeyError> {
    let kek = kek.clone();
    let made = task::spawn_blocking(move || {
        let key = SigningKey::generate()?;
        let mut secret = [0; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| KeyError::Sign(identity::sign::SignError::Generate))?;
        Ok(NewKeys {
            kid: key.kid().to_owned(),
            public: key.jwk(),
            sealed: kek.seal(&key.to_pkcs8()?, &purpose(key.kid())).map_err(KeyError::Seal)?,
            refresh_key: kek.seal(&secret, REFRESH).map_err(KeyError::Seal)?,
        })
    });
    made.await?
}

/// Adds the keys, unless another replica was faster. Returns whether it added a signing key.
async fn add(connection: &mut PgConnection, new: &NewKeys, lifetimes: Lifetimes) -> Result<bool, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    if key::lock(&mut transaction).await?.is_none() {
        key::set_refresh_key(&mut transaction, &new.refresh_key).await?;
    }
    let due = due(&key::list(&mut transaction).await?, lifetimes);
    if let Some(lead) = due {
        // Until every replica has noticed, it signs with the key before; then the last of those tokens expires.
        let tail = lifetimes.token + SKEW + 2 * lifetimes.poll;
        let NewKeys { kid, public, sealed, .. } = new;
        key::insert(&mut transaction, kid, public, sealed, lead.as_secs_f64(), tail.as_secs_f64()).await?;
        key::prune(&mut transaction).await?;
    }
    transaction.commit().await?;
    Ok(due.is_some())
}
