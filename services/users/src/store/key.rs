//! All SQL of the issuer's keys.

use serde_json::Value;
use sqlx::PgConnection;

/// A key that is published.
pub(crate) struct KeyRow {
    pub(crate) kid: String,
    /// The public key as a JWK.
    pub(crate) public: Value,
    pub(crate) sealed: Vec<u8>,
    /// How long ago it became the key that signs, in seconds. Negative if it is not used yet.
    pub(crate) age: f64,
}

/// Reads the sealed key that authenticates refresh tokens; `None` if no replica has made it yet.
pub(crate) async fn refresh_key(connection: &mut PgConnection) -> Result<Option<Vec<u8>>, sqlx::Error> {
    let key = sqlx::query_scalar!("SELECT refresh_key FROM issuer WHERE id = true").fetch_optional(connection).await?;
    Ok(key.flatten())
}

/// Lets one transaction at a time add keys. Returns the sealed key that authenticates refresh tokens.
pub(crate) async fn lock(connection: &mut PgConnection) -> Result<Option<Vec<u8>>, sqlx::Error> {
    sqlx::query_scalar!("SELECT refresh_key FROM issuer WHERE id = true FOR UPDATE").fetch_one(connection).await
}

/// Sets the sealed key that authenticates refresh tokens.
pub(crate) async fn set_refresh_key(connection: &mut PgConnection, sealed: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE issuer SET refresh_key = $1 WHERE id = true", sealed).execute(connection).await?;
    Ok(())
}

/// Reads the signing keys that are published.
pub(crate) async fn list(connection: &mut PgConnection) -> Result<Vec<KeyRow>, sqlx::Error> {
    // The clock, because a transaction may have waited for the lock.
    sqlx::query_as!(
        KeyRow,
        r#"SELECT kid, public, sealed, extract(epoch FROM clock_timestamp() - active_from)::float8 AS "age!"
           FROM signing_key WHERE gone_at > now()"#
    )
    .fetch_all(connection)
    .await
}

/// Adds a signing key that is used in `lead` seconds. The keys before it are gone `tail` seconds after that.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    kid: &str,
    public: &Value,
    sealed: &[u8],
    lead: f64,
    tail: f64,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE signing_key SET gone_at = clock_timestamp() + $1 * interval '1 s' WHERE gone_at = 'infinity'",
        lead + tail,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO signing_key (kid, public, sealed, active_from)
         VALUES ($1, $2, $3, clock_timestamp() + $4 * interval '1 s')",
        kid,
        public,
        sealed,
        lead,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes the signing keys that are gone.
pub(crate) async fn prune(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM signing_key WHERE gone_at < now()").execute(connection).await?;
    Ok(())
}
