//! Group commit for new users: one statement stores all that arrive while the one before is under way.

use std::{collections::HashMap, sync::Arc};

use chassis::{
    Database,
    batch::Handler,
    database::{DedicatedConnection, Failure},
};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::Error,
    model::{Email, Name, User},
    store,
    wishlist::{Wish, Wishes},
};

/// A user to be.
#[derive(ToSchema)]
pub(crate) struct NewUser {
    pub(crate) name: Name,
    pub(crate) email: Email,
    /// The products of the wishlist to begin with.
    #[schema(value_type = Wishes, required = false)]
    pub(crate) wishlist: Option<Wishes>,
}

/// Stores new users.
pub(crate) struct Creator {
    connection: DedicatedConnection,
}

impl Creator {
    pub(crate) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }

    async fn store(&mut self, mut users: &[(Uuid, &NewUser)]) -> Result<Vec<User>, Failure> {
        self.connection.run(&mut users, |connection, users| Box::pin(store::insert(connection, users))).await
    }
}

impl Handler for Creator {
    type Request = NewUser;
    type Reply = Result<(User, Option<Vec<Wish>>), Error>;

    async fn handle(&mut self, batch: Vec<NewUser>) -> Vec<Self::Reply> {
        let ids: Vec<Uuid> = batch.iter().map(|_| Uuid::now_v7()).collect();
        let mut users: Vec<_> = ids.iter().copied().zip(&batch).collect();
        // In order of the unique key, so that two processes wait for each other in one direction only; of two users
        // with one email the first to arrive stays first.
        users.sort_by_cached_key(|(_, user)| user.email.as_str().to_ascii_lowercase());
        match self.store(&users).await {
            Ok(stored) => {
                let mut stored: HashMap<Uuid, User> = stored.into_iter().map(|user| (user.id, user)).collect();
                let answer = |(id, new): (&Uuid, NewUser)| {
                    let user = stored.remove(id).ok_or(Error::EmailTaken)?;
                    // One statement, one time.
                    let wishes = new.wishlist.map(|wishes| wishes.added(user.created_at));
                    Ok((user, wishes))
                };
                ids.iter().zip(batch).map(answer).collect()
            }
            Err(failure) => {
                let failure = Arc::new(failure);
                ids.iter().map(|_| Err(Error::of_write(failure.clone()))).collect()
            }
        }
    }
}
