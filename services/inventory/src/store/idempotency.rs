//! Answers that are kept for the repetition of a request.

use std::collections::HashMap;

use sqlx::PgConnection;

use crate::engine::{Claim, Digest, Record};

/// Claims keys, which are sorted, and returns those of which no answer is kept. Whoever claims one of them meanwhile
/// waits until this transaction ends.
pub(crate) async fn claim(connection: &mut PgConnection, claims: &[&Claim]) -> Result<Vec<Vec<u8>>, sqlx::Error> {
    let ids: Vec<&[u8]> = claims.iter().map(|claim| claim.id.as_slice()).collect();
    let fingerprints: Vec<&[u8]> = claims.iter().map(|claim| claim.fingerprint.as_slice()).collect();
    sqlx::query_scalar!(
        "INSERT INTO idempotency (id, fingerprint, expires_at)
         SELECT id, fingerprint, clock_timestamp() + interval '24 hours'
         FROM unnest($1::bytea[], $2::bytea[]) AS claim (id, fingerprint)
         ON CONFLICT (id) DO UPDATE
             SET fingerprint = excluded.fingerprint, answer = NULL, expires_at = excluded.expires_at
             WHERE idempotency.answer IS NULL OR idempotency.expires_at <= clock_timestamp()
         RETURNING id",
        &ids as &[&[u8]],
        &fingerprints as &[&[u8]],
    )
    .fetch_all(connection)
    .await
}

/// Reads kept answers; in a later statement than [`claim`], which may have waited for them.
pub(crate) async fn kept(connection: &mut PgConnection, ids: &[&[u8]]) -> Result<HashMap<Digest, Record>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, fingerprint, answer::text AS "answer!" FROM idempotency
           WHERE id = ANY ($1) AND answer IS NOT NULL"#,
        ids as &[&[u8]],
    )
    .fetch_all(connection)
    .await?;
    let digest = |bytes: Vec<u8>| Digest::try_from(bytes).map_err(|_| sqlx::Error::Decode("no digest".into()));
    let records = rows.into_iter().map(|row| {
        let answer = serde_json::from_str(&row.answer).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((digest(row.id)?, Record { fingerprint: digest(row.fingerprint)?, answer }))
    });
    records.collect()
}

/// Keeps answers under keys that were claimed.
pub(crate) async fn keep(connection: &mut PgConnection, records: &[(Digest, Record)]) -> Result<(), sqlx::Error> {
    let ids: Vec<&[u8]> = records.iter().map(|(id, _)| id.as_slice()).collect();
    let fingerprints: Vec<&[u8]> = records.iter().map(|(_, record)| record.fingerprint.as_slice()).collect();
    let answers: Result<Vec<String>, _> =
        records.iter().map(|(_, record)| serde_json::to_string(&record.answer)).collect();
    let answers = answers.map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query!(
        "UPDATE idempotency SET fingerprint = kept.fingerprint, answer = kept.answer::json
         FROM unnest($1::bytea[], $2::bytea[], $3::text[]) AS kept (id, fingerprint, answer)
         WHERE idempotency.id = kept.id",
        &ids as &[&[u8]],
        &fingerprints as &[&[u8]],
        &answers,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets up to `limit` answers whose time is up, and returns how many. It waits for nobody, so it may run anywhere.
pub(crate) async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query!(
        "DELETE FROM idempotency WHERE id IN (
             SELECT id FROM idempotency WHERE expires_at <= statement_timestamp()
             ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
         )",
        limit,
    );
    Ok(pruned.execute(connection).await?.rows_affected())
}
