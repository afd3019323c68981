//! Responses stored under idempotency keys.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::model::{Claim, Digest, IdempotencyRecord, RETENTION_HOURS};

/// Claims keys, which must be sorted, and returns those without a stored response. Another transaction that claims one
/// of them waits until this one ends.
pub(crate) async fn claim(connection: &mut PgConnection, claims: &[&Claim]) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let ids: Vec<&[u8]> = claims.iter().map(|claim| claim.id.as_slice()).collect();
    let fingerprints: Vec<&[u8]> = claims.iter().map(|claim| claim.fingerprint.as_slice()).collect();
    sqlx::query_scalar!(
        "INSERT INTO idempotency (id, fingerprint, expires_at)
         SELECT id, fingerprint, clock_timestamp() + make_interval(hours => $3)
         FROM unnest($1::bytea[], $2::bytea[]) AS claim (id, fingerprint)
         ON CONFLICT (id) DO UPDATE
             SET fingerprint = excluded.fingerprint, answer = NULL, expires_at = excluded.expires_at
             WHERE idempotency.answer IS NULL OR idempotency.expires_at <= clock_timestamp()
         RETURNING id",
        &ids as &[&[u8]],
        &fingerprints as &[&[u8]],
        RETENTION_HOURS,
    )
    .fetch_all(connection)
    .await
}

/// Reads stored responses. This must be a later statement than [`claim`], which may have waited for them.
pub(crate) async fn stored_responses(
    connection: &mut PgConnection,
    ids: &[&[u8]],
) -> Result<HashMap<Digest, IdempotencyRecord>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, fingerprint, answer::text AS "answer!" FROM idempotency
           WHERE id = ANY ($1) AND answer IS NOT NULL"#,
        ids as &[&[u8]],
    )
    .fetch_all(connection)
    .await?;
    let digest = |bytes: Vec<u8>| Digest::try_from(bytes).map_err(|_| sqlx::Error::Decode("not a digest".into()));
    let records = rows.into_iter().map(|row| {
        let response = serde_json::from_str(&row.answer).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((digest(row.id)?, IdempotencyRecord { fingerprint: digest(row.fingerprint)?, response }))
    });
    records.collect()
}

/// Stores responses under claimed keys.
pub(crate) async fn store_responses(
    connection: &mut PgConnection,
    records: &[(Digest, IdempotencyRecord)],
) -> Result<(), sqlx::Error> {
    let ids: Vec<&[u8]> = records.iter().map(|(id, _)| id.as_slice()).collect();
    let fingerprints: Vec<&[u8]> = records.iter().map(|(_, record)| record.fingerprint.as_slice()).collect();
    let responses: Result<Vec<String>, _> =
        records.iter().map(|(_, record)| serde_json::to_string(&record.response)).collect();
    let responses = responses.map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        // The rows exist. Unlike a join, this can be planned in one way only.
        "INSERT INTO idempotency (id, fingerprint, answer, expires_at)
         SELECT id, fingerprint, response::json, clock_timestamp()
         FROM unnest($1::bytea[], $2::bytea[], $3::text[]) AS record (id, fingerprint, response)
         ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer",
        &ids as &[&[u8]],
        &fingerprints as &[&[u8]],
        &responses,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes up to `limit` expired responses and returns how many. It skips locked rows, so it never waits.
pub(crate) async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query!(
        "DELETE FROM idempotency WHERE id = ANY (ARRAY(
             SELECT id FROM idempotency WHERE expires_at <= statement_timestamp()
             ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
         ))",
        limit,
    );
    Ok(pruned.execute(connection).await?.rows_affected())
}
