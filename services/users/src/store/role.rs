//! All SQL of roles.

use sqlx::{Acquire, PgConnection};

use super::session;
use crate::model::UserId;

/// Replaces the roles of a user. If one is taken away, all sessions of the user end, and logins that have begun fail:
/// their tokens would have it. Returns false if the user does not exist.
pub(crate) async fn set(connection: &mut PgConnection, id: UserId, roles: &[&str]) -> Result<bool, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let set = sqlx::query!(
        r#"WITH owner AS (SELECT id FROM users WHERE id = $1 FOR KEY SHARE),
           revoked AS (DELETE FROM role_grant WHERE user_id = $1 AND role <> ALL ($2::text[]) RETURNING role),
           granted AS (
               INSERT INTO role_grant (user_id, role) SELECT id, role FROM owner, unnest($2::text[]) AS role
               ON CONFLICT DO NOTHING
           ),
           -- A login starts no session if this is not what it has read.
           outdated AS (UPDATE credential SET changed_at = now() WHERE user_id = $1 AND EXISTS (SELECT FROM revoked))
           SELECT EXISTS (SELECT FROM owner) AS "is_a_user!", EXISTS (SELECT FROM revoked) AS "is_revoked!""#,
        id.0,
        roles as &[&str],
    );
    let set = set.fetch_one(&mut *transaction).await?;
    if set.is_revoked {
        // A statement of its own also sees the sessions of logins that held the row.
        session::end_others(&mut transaction, id, None).await?;
    }
    transaction.commit().await?;
    Ok(set.is_a_user)
}
