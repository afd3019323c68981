//! Group commit for new users: one statement inserts all users that arrived while the previous one was running.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Database,
    batch::{Handler, split},
    database::{DatabaseError, DedicatedConnection},
};
use uuid::Uuid;

use crate::{
    error::Error,
    model::{NewUser, User, Wish},
    store,
};

/// The maximum number of rows that a statement inserts, so that it ends well before the statement timeout.
const MAX_ROWS: usize = 2000;

/// Inserts new users.
pub(crate) struct UserWriter {
    connection: DedicatedConnection,
}

impl UserWriter {
    pub(crate) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }

    async fn insert(&mut self, mut users: &[(Uuid, &NewUser)]) -> Result<Vec<User>, DatabaseError> {
        self.connection.run(&mut users, |connection, users| Box::pin(store::insert(connection, users))).await
    }
}

impl Handler for UserWriter {
    type Request = NewUser;
    type Reply = Result<(User, Option<Vec<Wish>>), Error>;

    async fn handle(&mut self, batch: Vec<NewUser>) -> Vec<Self::Reply> {
        let rows = |user: &NewUser| 1 + user.wishlist.as_ref().map_or(0, |wishes| wishes.product_ids().len());
        let mut replies = Vec::with_capacity(batch.len());
        for part in split(batch, MAX_ROWS, rows) {
            replies.extend(self.create(part).await);
        }
        replies
    }
}

impl UserWriter {
    /// Creates users with one statement.
    async fn create(&mut self, batch: Vec<NewUser>) -> Vec<<Self as Handler>::Reply> {
        let ids: Vec<Uuid> = batch.iter().map(|_| Uuid::now_v7()).collect();
        let mut users: Vec<_> = ids.iter().copied().zip(&batch).collect();
        // Sorted by the unique key, so that two replicas cannot deadlock. The sort is stable: of two users with the
        // same email, the first to arrive is created.
        users.sort_by_cached_key(|(_, user)| user.email.as_str().to_ascii_lowercase());
        match self.insert(&users).await {
            Ok(inserted) => {
                let mut inserted: HashMap<Uuid, User> = inserted.into_iter().map(|user| (user.id, user)).collect();
                let reply = |(id, new): (&Uuid, NewUser)| {
                    let user = inserted.remove(id).ok_or(Error::EmailTaken)?;
                    // User and wishes were inserted by one statement, at the same time.
                    let wishes = new.wishlist.map(|wishes| wishes.added_at(user.created_at));
                    Ok((user, wishes))
                };
                ids.iter().zip(batch).map(reply).collect()
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                ids.iter().map(|_| Err(Error::from_write(failure.clone()))).collect()
            }
        }
    }
}
