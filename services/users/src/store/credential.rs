//! All SQL of passwords.

use chrono::{DateTime, Utc};
use sqlx::{Acquire, PgConnection};
use uuid::Uuid;

use super::session;
use crate::model::{Email, UserId};

/// What a login reads of a user.
pub(crate) struct Login {
    pub(crate) user_id: Uuid,
    /// The hash of the password, as a PHC string. `None` if the user has no password.
    pub(crate) phc: Option<String>,
    /// When the password was last changed.
    pub(crate) changed_at: Option<DateTime<Utc>>,
    /// The roles, besides `user`.
    pub(crate) roles: Vec<String>,
}

/// Reads what a login with this email needs. Returns `None` if there is no such user.
pub(crate) async fn by_email(connection: &mut PgConnection, email: &Email) -> Result<Option<Login>, sqlx::Error> {
    sqlx::query_as!(
        Login,
        r#"SELECT users.id AS user_id,
                  (SELECT phc FROM credential WHERE user_id = users.id),
                  (SELECT changed_at FROM credential WHERE user_id = users.id),
                  ARRAY(SELECT role FROM role_grant WHERE user_id = users.id) AS "roles!"
           FROM users WHERE lower(email COLLATE "C") = lower($1 COLLATE "C")"#,
        email.as_str(),
    )
    .fetch_optional(connection)
    .await
}

/// Reads the hash of a user's password and the user's email. Returns `None` if the user has no password.
pub(crate) async fn get(connection: &mut PgConnection, id: UserId) -> Result<Option<(String, String)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"SELECT phc, (SELECT email FROM users WHERE id = user_id) AS "email!" FROM credential WHERE user_id = $1"#,
        id.0
    );
    Ok(row.fetch_optional(connection).await?.map(|row| (row.phc, row.email)))
}

/// Sets the password of a user, if it still has the hash `expected` or none is expected, and ends all of the user's
/// sessions except `kept`. Returns the user's email, or `None` if the user does not exist or has another password.
pub(crate) async fn set(
    connection: &mut PgConnection,
    id: UserId,
    phc: &str,
    expected: Option<&str>,
    kept: Option<Uuid>,
) -> Result<Option<String>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    let email = sqlx::query_scalar!(
        "WITH owner AS (SELECT id, email FROM users WHERE id = $1 FOR KEY SHARE),
         changed AS (
             INSERT INTO credential (user_id, phc) SELECT id, $2 FROM owner
             ON CONFLICT (user_id) DO UPDATE SET phc = excluded.phc, changed_at = now()
             WHERE credential.phc = coalesce($3, credential.phc)
             RETURNING user_id
         )
         SELECT email FROM owner WHERE EXISTS (SELECT FROM changed)",
        id.0,
        phc,
        expected,
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if email.is_some() {
        // A statement of its own also sees the sessions of logins that held the row.
        session::end_others(&mut transaction, id, kept).await?;
    }
    transaction.commit().await?;
    Ok(email)
}

/// Replaces the hash of the same password, unless the password has changed in the meantime.
pub(crate) async fn rehash(connection: &mut PgConnection, id: UserId, old: &str, new: &str) -> Result<(), sqlx::Error> {
    sqlx::query!("UPDATE credential SET phc = $3 WHERE user_id = $1 AND phc = $2", id.0, old, new)
        .execute(connection)
        .await?;
    Ok(())
}
