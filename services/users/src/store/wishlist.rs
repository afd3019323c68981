//! All SQL of wishlists.

use sqlx::{Acquire, PgConnection};

use crate::model::{MAX_WISHES, ProductId, UserId, Wish};

/// Reads a user's wishlist in the order of `Wishlist::items`. Returns `None` if the user does not exist.
pub(crate) async fn get(connection: &mut PgConnection, id: UserId) -> Result<Option<Vec<Wish>>, sqlx::Error> {
    // A user without wishes yields one row without a product.
    let rows = sqlx::query!(
        r#"SELECT product_id AS "product_id?", added_at AS "added_at?"
           FROM users LEFT JOIN wishlist ON user_id = id WHERE id = $1 ORDER BY added_at, product_id"#,
        id.0
    )
    .fetch_all(connection)
    .await?;
    if rows.is_empty() {
        return Ok(None);
    }
    let wishes = rows.into_iter().filter_map(|row| Some((row.product_id?, row.added_at?)));
    let wish = |(text, added_at)| {
        let product_id = ProductId::try_from(text).map_err(|error: &str| sqlx::Error::Decode(error.into()))?;
        Ok(Wish { product_id, added_at })
    };
    wishes.map(wish).collect::<Result<_, _>>().map(Some)
}

/// Adds a product unless it is on the wishlist already. Returns false if the wishlist is full, `None` if the user does
/// not exist.
pub(crate) async fn add(
    connection: &mut PgConnection,
    id: UserId,
    product_id: &ProductId,
) -> Result<Option<bool>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // Locked by a separate statement, so that the next one counts what concurrent transactions have added.
    let user = sqlx::query_scalar!("SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE", id.0);
    if user.fetch_optional(&mut *transaction).await?.is_none() {
        transaction.rollback().await?;
        return Ok(None);
    }
    let is_there = sqlx::query_scalar!(
        r#"WITH added AS (
               INSERT INTO wishlist (user_id, product_id)
               SELECT $1, $2 WHERE (SELECT count(*) FROM wishlist WHERE user_id = $1) < $3
               ON CONFLICT DO NOTHING
               RETURNING product_id
           )
           SELECT EXISTS (SELECT FROM added)
               OR EXISTS (SELECT FROM wishlist WHERE user_id = $1 AND product_id = $2) AS "is_there!""#,
        id.0,
        product_id.as_str(),
        i64::try_from(MAX_WISHES).unwrap_or(i64::MAX),
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(Some(is_there))
}

/// Removes a product if it is on the wishlist. Returns false if the user does not exist.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    id: UserId,
    product_id: &ProductId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"WITH removed AS (DELETE FROM wishlist WHERE user_id = $1 AND product_id = $2)
           SELECT EXISTS (SELECT FROM users WHERE id = $1) AS "is_a_user!""#,
        id.0,
        product_id.as_str(),
    )
    .fetch_one(connection)
    .await
}
