//! All SQL of the limits on attempts to log in.

use sqlx::PgConnection;

/// The keys of an attempt. They sort in the order in which they are locked.
pub(crate) struct Keys {
    pub(crate) address: Vec<u8>,
    pub(crate) pair: Vec<u8>,
    pub(crate) account: Vec<u8>,
}

impl Keys {
    /// The keys in the order in which they are locked.
    pub(crate) fn ordered(&self) -> [&[u8]; 3] {
        [&self.address, &self.pair, &self.account]
    }
}

/// How often attempts may fail, and in which periods, in seconds.
pub(crate) struct Limit {
    pub(crate) count: i32,
    pub(crate) period: f64,
}

/// The limits of attempts.
pub(crate) struct Limits {
    pub(crate) address: Limit,
    pub(crate) pair: Limit,
    pub(crate) account: Limit,
}

/// Counts an attempt in advance. Returns the key whose limit refuses it and how many seconds it must wait, or `None` if it
/// is allowed.
///
/// An attempt that one limit refuses does not count against the next one: whoever guesses from one network cannot
/// exhaust an account's limit for everybody. A network in which the user was logged in, within the 90 days for which
/// sessions are kept, is not subject to that limit.
pub(crate) async fn reserve(
    connection: &mut PgConnection,
    keys: &Keys,
    limits: &Limits,
    email: &str,
    network: Option<&str>,
) -> Result<Option<(Vec<u8>, f64)>, sqlx::Error> {
    let refused = sqlx::query!(
        r#"WITH by_address AS (
               INSERT INTO throttle AS t (key, failures, until) VALUES ($1, 1, now() + $5 * interval '1 s')
               ON CONFLICT (key) DO UPDATE SET
                   failures = CASE WHEN t.until > now() THEN t.failures + 1 ELSE 1 END,
                   until = CASE WHEN t.until > now() THEN t.until ELSE excluded.until END
               RETURNING failures <= $4 AS is_allowed, until
           ), by_pair AS (
               INSERT INTO throttle AS t (key, failures, until)
               SELECT $2, 1, now() + $7 * interval '1 s' FROM by_address WHERE is_allowed
               ON CONFLICT (key) DO UPDATE SET
                   failures = CASE WHEN t.until > now() THEN t.failures + 1 ELSE 1 END,
                   until = CASE WHEN t.until > now() THEN t.until ELSE excluded.until END
               RETURNING failures <= $6 AS is_allowed, until
           ), by_account AS (
               INSERT INTO throttle AS t (key, failures, until)
               SELECT $3, 1, now() + $9 * interval '1 s' FROM by_pair WHERE is_allowed
               ON CONFLICT (key) DO UPDATE SET
                   failures = CASE WHEN t.until > now() THEN t.failures + 1 ELSE 1 END,
                   until = CASE WHEN t.until > now() THEN t.until ELSE excluded.until END
               RETURNING failures <= $8 OR EXISTS (
                   SELECT FROM session
                   WHERE user_id = (SELECT id FROM users WHERE lower(email COLLATE "C") = lower($10 COLLATE "C"))
                       AND network = $11
               ) AS is_allowed, until
           ), refused AS (
               SELECT $1 AS key, until FROM by_address WHERE NOT is_allowed
               UNION ALL SELECT $2, until FROM by_pair WHERE NOT is_allowed
               UNION ALL SELECT $3, until FROM by_account WHERE NOT is_allowed
           )
           SELECT key AS "key!", extract(epoch FROM until - now())::float8 AS "wait!" FROM refused"#,
        keys.address,
        keys.pair,
        keys.account,
        limits.address.count,
        limits.address.period,
        limits.pair.count,
        limits.pair.period,
        limits.account.count,
        limits.account.period,
        email,
        network,
    );
    Ok(refused.fetch_optional(connection).await?.map(|row| (row.key, row.wait)))
}

/// Counts something under a limit of its own. Returns how many seconds it must wait, or `None` if it is allowed.
pub(crate) async fn count(
    connection: &mut PgConnection,
    key: &[u8],
    limit: &Limit,
) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar!(
        "INSERT INTO throttle AS t (key, failures, until) VALUES ($1, 1, now() + $3 * interval '1 s')
         ON CONFLICT (key) DO UPDATE SET
             failures = CASE WHEN t.until > now() THEN t.failures + 1 ELSE 1 END,
             until = CASE WHEN t.until > now() THEN t.until ELSE excluded.until END
         RETURNING CASE WHEN failures > $2 THEN extract(epoch FROM until - now())::float8 END",
        key,
        limit.count,
        limit.period,
    )
    .fetch_one(connection)
    .await
}

/// Takes an attempt that was not judged, or succeeded, out of the counts.
pub(crate) async fn release(connection: &mut PgConnection, keys: &Keys) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE throttle SET failures = greatest(failures - 1, 0) WHERE key = ANY ($1::bytea[])",
        &keys.ordered() as &[&[u8]],
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets the failed attempts on an account in all networks but those that have a limit of their own.
pub(crate) async fn forget(connection: &mut PgConnection, account: &[u8]) -> Result<(), sqlx::Error> {
    sqlx::query!("DELETE FROM throttle WHERE key = $1", account).execute(connection).await?;
    Ok(())
}

/// Deletes up to `limit` counts whose periods are over. Returns how many. It skips locked rows, so it never waits.
pub(crate) async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query!(
        "DELETE FROM throttle WHERE key = ANY (ARRAY(
             SELECT key FROM throttle WHERE until < now() LIMIT $1 FOR UPDATE SKIP LOCKED
         ))",
        limit,
    );
    Ok(pruned.execute(connection).await?.rows_affected())
}
