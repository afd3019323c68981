//! All SQL of roles.

use sqlx::PgConnection;

use crate::model::UserId;

/// Replaces the roles of a user. Returns false if the user does not exist.
pub(crate) async fn set(connection: &mut PgConnection, id: UserId, roles: &[&str]) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH owner AS (SELECT id FROM users WHERE id = $1 FOR KEY SHARE),
           revoked AS (DELETE FROM role_grant WHERE user_id = $1 AND role <> ALL ($2::text[])),
           granted AS (
               INSERT INTO role_grant (user_id, role) SELECT id, role FROM owner, unnest($2::text[]) AS role
               ON CONFLICT DO NOTHING
           )
           SELECT EXISTS (SELECT FROM owner) AS "is_a_user!""#,
        id.0,
        roles as &[&str],
    )
    .fetch_one(connection)
    .await
}
