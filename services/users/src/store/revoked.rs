//! All SQL of the list of sessions that were ended.

use sqlx::PgConnection;
use uuid::Uuid;

/// How far a reader has come. Transactions do not end in the order of their ids, so it starts again with the oldest one
/// that was running when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The oldest transaction that was running when the reader began.
    pub(crate) began: u64,
    /// The last session that the reader got, if there are more, and the transaction that ended it.
    pub(crate) last: Option<(u64, Uuid)>,
}

/// Reads up to `limit` sessions that ended within the last hour, which is longer than any access token lives, after a
/// cursor. Also returns the next cursor.
pub(crate) async fn list(
    connection: &mut PgConnection,
    cursor: Option<Cursor>,
    limit: i64,
) -> Result<(Vec<Uuid>, Cursor), sqlx::Error> {
    // Before the sessions are read, so that none is missed.
    let now = sqlx::query!(
        r#"SELECT pg_snapshot_xmin(pg_current_snapshot())::text AS "oldest!",
                  pg_snapshot_xmax(pg_current_snapshot())::text AS "next!""#
    )
    .fetch_one(&mut *connection)
    .await?;
    let (oldest, next) = (parse(&now.oldest)?, parse(&now.next)?);
    // A cursor of the future is from another database, before a backup was restored.
    let cursor = cursor.filter(|cursor| cursor.began <= next);
    let (from, after) = match cursor {
        Some(Cursor { last: Some(last), .. }) => last,
        Some(Cursor { began, last: None }) => (began, Uuid::nil()),
        None => (first(&mut *connection).await?.unwrap_or(oldest), Uuid::nil()),
    };
    let rows = sqlx::query!(
        r#"SELECT id, revoked_in::text AS "revoked_in!" FROM session
           WHERE revoked_in IS NOT NULL AND (revoked_in, id) > ($1::text::xid8, $2)
               AND revoked_at > now() - interval '1 hour'
           ORDER BY revoked_in, id LIMIT $3"#,
        from.to_string(),
        after,
        limit,
    )
    .fetch_all(connection)
    .await?;
    let began = match cursor {
        Some(Cursor { began, last: Some(_) }) => began,
        _ => oldest,
    };
    let last = match rows.last() {
        Some(row) if i64::try_from(rows.len()).is_ok_and(|count| count >= limit) => {
            Some((parse(&row.revoked_in)?, row.id))
        }
        _ => None,
    };
    Ok((rows.into_iter().map(|row| row.id).collect(), Cursor { began, last }))
}

/// The transaction that ended the first of the sessions.
async fn first(connection: &mut PgConnection) -> Result<Option<u64>, sqlx::Error> {
    let first = sqlx::query_scalar!(
        r#"SELECT revoked_in::text AS "revoked_in!" FROM session
           WHERE revoked_at > now() - interval '1 hour' ORDER BY revoked_at LIMIT 1"#
    );
    first.fetch_optional(connection).await?.map(|text: String| parse(&text)).transpose()
}

fn parse(text: &str) -> Result<u64, sqlx::Error> {
    text.parse().map_err(|error: std::num::ParseIntError| sqlx::Error::Decode(error.into()))
}
