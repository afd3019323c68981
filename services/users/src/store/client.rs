//! All SQL of clients.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

/// A client, without its secret.
pub(crate) struct ClientRow {
    pub(crate) id: Uuid,
    pub(crate) name: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) created_at: DateTime<Utc>,
}

/// Adds a client. `secret` is SHA-256 of its secret.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    id: Uuid,
    name: &str,
    secret: &[u8],
    scopes: &[&str],
) -> Result<ClientRow, sqlx::Error> {
    sqlx::query_as!(
        ClientRow,
        "INSERT INTO client (id, name, secret, scopes) VALUES ($1, $2, $3, $4)
         RETURNING id, name, scopes, created_at",
        id,
        name,
        secret,
        scopes as &[&str],
    )
    .fetch_one(connection)
    .await
}

/// Reads SHA-256 of a client's secret, and its scopes.
pub(crate) async fn secret(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<(Vec<u8>, Vec<String>)>, sqlx::Error> {
    let row = sqlx::query!("SELECT secret, scopes FROM client WHERE id = $1", id).fetch_optional(connection).await?;
    Ok(row.map(|row| (row.secret, row.scopes)))
}

/// Reads up to `limit` clients with ids after `after`, in order of their ids.
pub(crate) async fn list(
    connection: &mut PgConnection,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<ClientRow>, sqlx::Error> {
    sqlx::query_as!(
        ClientRow,
        "SELECT id, name, scopes, created_at FROM client WHERE id > $1 ORDER BY id LIMIT $2",
        after.unwrap_or_default(),
        limit,
    )
    .fetch_all(connection)
    .await
}

/// Deletes a client. Returns false if it does not exist.
pub(crate) async fn delete(connection: &mut PgConnection, id: Uuid) -> Result<bool, sqlx::Error> {
    let deleted = sqlx::query!("DELETE FROM client WHERE id = $1", id).execute(connection).await?;
    Ok(deleted.rows_affected() > 0)
}
