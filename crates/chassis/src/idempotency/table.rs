//! All SQL of the table `idempotency`.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{
    PgConnection,
    types::chrono::{DateTime, Utc},
};

use super::{
    RETENTION_HOURS,
    claim::{Claim, Digest, Stored},
};

const CLAIM: &str = "INSERT INTO idempotency (id, fingerprint, expires_at)
    SELECT id, fingerprint, clock_timestamp() + make_interval(hours => $3)
    FROM unnest($1::bytea[], $2::bytea[]) AS claim (id, fingerprint)
    ON CONFLICT (id) DO UPDATE
        SET fingerprint = excluded.fingerprint, answer = NULL, expires_at = excluded.expires_at
        WHERE idempotency.answer IS NULL OR idempotency.expires_at <= clock_timestamp()
    RETURNING id";

const READ: &str = "SELECT id, fingerprint, answer::text FROM idempotency WHERE id = ANY ($1) AND answer IS NOT NULL";

// The rows exist. Unlike a join, this can be planned in one way only.
const STORE: &str = "INSERT INTO idempotency (id, fingerprint, answer, expires_at)
    SELECT id, fingerprint, response::json, clock_timestamp()
    FROM unnest($1::bytea[], $2::bytea[], $3::text[]) AS stored (id, fingerprint, response)
    ON CONFLICT (id) DO UPDATE SET fingerprint = excluded.fingerprint, answer = excluded.answer";

const PRUNE: &str = "WITH pruned AS (
    DELETE FROM idempotency WHERE id = ANY (ARRAY(
        SELECT id FROM idempotency WHERE expires_at >= $1 AND expires_at <= statement_timestamp()
        ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED
    ))
    RETURNING expires_at
)
SELECT count(*), max(expires_at) FROM pruned";

/// Claims keys for the current transaction, and returns the responses that are already stored under them. Another
/// transaction that claims one of the keys waits until this one ends.
///
/// The keys are claimed in order of their ids. To be safe from deadlocks, a transaction claims all its keys at once,
/// before it locks anything else.
///
/// # Errors
/// Returns an error if a statement fails or a stored response is not an `R`.
pub async fn claim<R: DeserializeOwned>(
    connection: &mut PgConnection,
    claims: &[&Claim],
) -> Result<HashMap<Digest, Stored<R>>, sqlx::Error> {
    // Of several claims to one key, the first one counts.
    let claims: BTreeMap<Digest, Digest> = claims.iter().rev().map(|claim| (claim.id, claim.fingerprint)).collect();
    if claims.is_empty() {
        return Ok(HashMap::new());
    }
    let (ids, fingerprints): (Vec<Digest>, Vec<Digest>) = claims.into_iter().unzip();
    let claimed = sqlx::query_scalar(CLAIM).bind(ids.as_slice()).bind(fingerprints.as_slice()).bind(RETENTION_HOURS);
    let claimed: HashSet<Digest> = claimed.fetch_all(&mut *connection).await?.into_iter().collect();
    let others: Vec<Digest> = ids.into_iter().filter(|id| !claimed.contains(id)).collect();
    if others.is_empty() {
        return Ok(HashMap::new());
    }
    // A later statement sees what the claim waited for.
    let rows: Vec<(Digest, Digest, String)> =
        sqlx::query_as(READ).bind(others.as_slice()).fetch_all(connection).await?;
    let stored = rows.into_iter().map(|(id, fingerprint, response)| {
        let response = serde_json::from_str(&response).map_err(|error| sqlx::Error::Decode(error.into()))?;
        Ok((id, Stored { claim: Claim { id, fingerprint }, response }))
    });
    stored.collect()
}

/// Stores responses under keys that the current transaction has claimed.
///
/// # Errors
/// Returns an error if the statement fails or a response cannot be written as JSON.
pub async fn store<R: Serialize>(connection: &mut PgConnection, responses: &[Stored<R>]) -> Result<(), sqlx::Error> {
    let ids: Vec<Digest> = responses.iter().map(|stored| stored.claim.id).collect();
    let fingerprints: Vec<Digest> = responses.iter().map(|stored| stored.claim.fingerprint).collect();
    let texts: Result<Vec<String>, _> =
        responses.iter().map(|stored| serde_json::to_string(&stored.response)).collect();
    let texts = texts.map_err(|error| sqlx::Error::Encode(error.into()))?;
    sqlx::query(STORE)
        .bind(ids.as_slice())
        .bind(fingerprints.as_slice())
        .bind(texts.as_slice())
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes up to `limit` responses that expired at `from` or later, the oldest first. Returns how many, and when the last
/// one expired. It skips locked rows, so it never waits.
pub(super) async fn prune(
    connection: &mut PgConnection,
    from: DateTime<Utc>,
    limit: i64,
) -> Result<(i64, Option<DateTime<Utc>>), sqlx::Error> {
    sqlx::query_as(PRUNE).bind(from).bind(limit).fetch_one(connection).await
}

#[cfg(test)]
mod tests {
    use sqlx::{PgPool, raw_sql};
    use test_support::plans::plans_of;

    use super::*;

    const STATEMENTS: [(&str, usize); 4] = [(CLAIM, 3), (READ, 1), (STORE, 3), (PRUNE, 2)];

    #[sqlx::test(migrations = false)]
    async fn plans_do_not_depend_on_when_they_were_made(pool: PgPool) {
        raw_sql(include_str!("table.sql")).execute(&pool).await.expect("a table");
        let first = plans_of(&pool, &STATEMENTS).await;
        for count in [1, 1000, 50_000] {
            let add = "INSERT INTO idempotency (id, fingerprint, answer, expires_at)
                 SELECT uuid_send(id), uuid_send(id), '{}', clock_timestamp() + (number - $1 / 2) * interval '1 s'
                 FROM (SELECT gen_random_uuid() AS id, number FROM generate_series(1, $1) AS number) AS row";
            sqlx::query(add).bind(count).execute(&pool).await.expect("added");
            assert_eq!(plans_of(&pool, &STATEMENTS).await, first, "{count} more rows, with old statistics");
            raw_sql("ANALYZE").execute(&pool).await.expect("statistics");
            assert_eq!(plans_of(&pool, &STATEMENTS).await, first, "{count} more rows");
        }
    }
}
