//! All SQL of sessions.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::throttle::Keys;
use crate::{client_address::Origin, model::UserId};

/// A session of a user.
pub(crate) struct Session {
    pub(crate) id: Uuid,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) used_at: DateTime<Utc>,
    pub(crate) address: Option<String>,
    pub(crate) agent: String,
}

/// A session after a refresh.
pub(crate) struct Refreshed {
    pub(crate) user_id: Uuid,
    /// The counter of the next refresh token.
    pub(crate) counter: i64,
    pub(crate) created_at: DateTime<Utc>,
    /// Whether the token was too old, and the refresh ended the session.
    pub(crate) is_ended: bool,
    /// The roles, besides `user`.
    pub(crate) roles: Vec<String>,
}

/// Starts a session of a user, for at most 90 days, and takes the attempt out of the counts, with the earlier
/// failures of this account in this network. Returns when it started; `None` if the user does not exist, or if the
/// password was changed or a role taken away after this time.
pub(crate) async fn start(
    connection: &mut PgConnection,
    id: Uuid,
    user_id: UserId,
    changed_at: DateTime<Utc>,
    origin: &Origin,
    attempt: &Keys,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let started = sqlx::query_scalar!(
        "WITH owner AS (SELECT user_id FROM credential WHERE user_id = $2 AND changed_at = $3 FOR SHARE),
         released AS (
             UPDATE throttle SET failures = CASE WHEN key = $8 THEN 0 ELSE greatest(failures - 1, 0) END
             WHERE key = ANY ($7::bytea[])
         )
         INSERT INTO session (id, user_id, expires_at, address, network, agent)
         SELECT $1, user_id, now() + interval '90 days', $4, $5, $6 FROM owner
         RETURNING created_at",
        id,
        user_id.0,
        changed_at,
        origin.address(),
        origin.network(),
        origin.agent(),
        &attempt.ordered() as &[&[u8]],
        attempt.pair,
    );
    started.fetch_optional(connection).await
}

/// Advances a session with a refresh token of this counter. The token before the current one may be repeated for 10 s:
/// the counter stays. Any other token ends the session. Returns `None` if there is no such session, or if it has ended.
pub(crate) async fn refresh(
    connection: &mut PgConnection,
    id: Uuid,
    counter: i64,
    origin: &Origin,
) -> Result<Option<Refreshed>, sqlx::Error> {
    sqlx::query_as!(
        Refreshed,
        r#"WITH refreshed AS (
               UPDATE session SET
                   counter = session.counter + CASE WHEN session.counter = $2 THEN 1 ELSE 0 END,
                   used_at = CASE WHEN session.counter = $2 THEN now() ELSE used_at END,
                   revoked_at = CASE
                       WHEN session.counter = $2 THEN NULL
                       WHEN session.counter = $2 + 1 AND used_at > now() - interval '10 s' THEN NULL
                       ELSE now()
                   END,
                   revoked_in = CASE
                       WHEN session.counter = $2 THEN NULL
                       WHEN session.counter = $2 + 1 AND used_at > now() - interval '10 s' THEN NULL
                       ELSE pg_current_xact_id()
                   END,
                   address = coalesce($3, address), network = coalesce($4, network), agent = $5
               WHERE id = $1 AND revoked_at IS NULL AND expires_at > now() AND used_at > now() - interval '14 days'
               RETURNING user_id, counter, created_at, revoked_at
           )
           SELECT user_id AS "user_id!", counter AS "counter!", refreshed.created_at AS "created_at!",
                  revoked_at IS NOT NULL AS "is_ended!",
                  ARRAY(SELECT role FROM role_grant WHERE user_id = refreshed.user_id) AS "roles!"
           FROM refreshed WHERE (SELECT id FROM users WHERE id = user_id) IS NOT NULL"#,
        id,
        counter,
        origin.address(),
        origin.network(),
        origin.agent(),
    )
    .fetch_optional(connection)
    .await
}

/// Reads whose session this is. Returns `None` if it has ended or its user is deleted.
pub(crate) async fn owner(connection: &mut PgConnection, id: Uuid) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "SELECT user_id FROM session
         WHERE id = $1 AND revoked_at IS NULL AND expires_at > now()
             AND (SELECT id FROM users WHERE id = user_id) IS NOT NULL",
        id,
    )
    .fetch_optional(connection)
    .await
}

/// Whether this is a session of this user that has not ended, and the user has this role.
pub(crate) async fn has_role(
    connection: &mut PgConnection,
    id: Uuid,
    user_id: UserId,
    role: &str,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM role_grant WHERE user_id = $2 AND role = $3)
               AND (SELECT user_id FROM session WHERE id = $1 AND revoked_at IS NULL AND expires_at > now())
                   IS NOT DISTINCT FROM $2 AS "has_role!""#,
        id,
        user_id.0,
        role,
    )
    .fetch_one(connection)
    .await
}

/// Reads the roles of a session's user, besides `user`. Returns `None` if there is no such session, or if it has ended.
pub(crate) async fn roles(connection: &mut PgConnection, id: Uuid) -> Result<Option<Vec<String>>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"SELECT ARRAY(SELECT role FROM role_grant WHERE user_id = session.user_id) AS "roles!"
           FROM session WHERE id = $1 AND revoked_at IS NULL"#,
        id,
    )
    .fetch_optional(connection)
    .await
}

/// Reads up to `limit` sessions of a user that have not ended, with ids after `after`, in order of their ids.
pub(crate) async fn list(
    connection: &mut PgConnection,
    user_id: UserId,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<Session>, sqlx::Error> {
    sqlx::query_as!(
        Session,
        "SELECT id, created_at, used_at, address, agent FROM session
         WHERE user_id = $1 AND uuid_send(id) > uuid_send($2) AND revoked_at IS NULL AND expires_at > now()
             AND used_at > now() - interval '14 days'
         ORDER BY uuid_send(id) LIMIT $3",
        user_id.0,
        after.unwrap_or_default(),
        limit,
    )
    .fetch_all(connection)
    .await
}

/// Ends a session. Returns the user's id, or `None` if there is no such session, if it has ended, or if it is not of
/// this user.
pub(crate) async fn end(
    connection: &mut PgConnection,
    id: Uuid,
    user_id: Option<UserId>,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "UPDATE session SET revoked_at = now(), revoked_in = pg_current_xact_id()
         WHERE id = $1 AND revoked_at IS NULL AND user_id IS NOT DISTINCT FROM coalesce($2, user_id)
         RETURNING user_id",
        id,
        user_id.map(|user_id| user_id.0),
    )
    .fetch_optional(connection)
    .await
}

/// Ends all sessions of a user except `kept`.
pub(crate) async fn end_others(
    connection: &mut PgConnection,
    user_id: UserId,
    kept: Option<Uuid>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "UPDATE session SET revoked_at = now(), revoked_in = pg_current_xact_id()
         WHERE user_id = $1 AND revoked_at IS NULL AND id IS DISTINCT FROM $2",
        user_id.0,
        kept,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Deletes up to `limit` sessions that expired an hour ago. Returns how many. It skips locked rows, so it never waits.
pub(crate) async fn prune(connection: &mut PgConnection, limit: i64) -> Result<u64, sqlx::Error> {
    let pruned = sqlx::query!(
        "DELETE FROM session WHERE id = ANY (ARRAY(
             SELECT id FROM session WHERE expires_at < now() - interval '1 hour'
             LIMIT $1 FOR UPDATE SKIP LOCKED
         ))",
        limit,
    );
    Ok(pruned.execute(connection).await?.rows_affected())
}
