//! Group commit for new users: one statement inserts all users that arrived while the previous one was running. If a
//! request has an idempotency key, the statement is part of a transaction that claims the keys and stores the
//! responses.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use chassis::{
    Database, Tagged,
    batch::Handler,
    database::DedicatedConnection,
    idempotency::{self, Claim, Digest, KeyReused, Stored},
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    error::Error,
    model::{CreatedUser, NewUser, Stocks, User, Wishes, Wishlist},
    store,
};

/// The maximum number of rows that a statement inserts, so that it ends well before the statement timeout.
pub(crate) const MAX_ROWS: usize = 2000;

/// A request to create a user.
pub(crate) struct Creation {
    pub(crate) new: NewUser,
    /// The stock of the products on the wishlist, if it is known.
    pub(crate) stocks: Option<Stocks>,
    /// The claim to an idempotency key.
    pub(crate) claim: Option<Claim>,
}

/// Creates users.
pub(crate) struct UserWriter {
    connection: DedicatedConnection,
}

impl UserWriter {
    pub(crate) fn new(database: &Database) -> Self {
        Self { connection: database.dedicate() }
    }
}

impl Handler for UserWriter {
    type Request = Creation;
    type Reply = Result<Tagged<CreatedUser>, Error>;

    /// Creates users together.
    async fn handle(&mut self, batch: Vec<Creation>) -> Vec<Self::Reply> {
        let batch = batch.into_iter().map(|creation| (Uuid::now_v7(), creation)).collect();
        let mut attempt = Attempt { batch, is_commit_sent: false };
        let result =
            self.connection.run(&mut attempt, |connection, attempt| Box::pin(write(connection, attempt))).await;
        let Attempt { batch, is_commit_sent } = attempt;
        match result {
            Ok(mut written) => batch.into_iter().map(|(id, creation)| written.reply(id, creation)).collect(),
            Err(failure) => {
                let failure = Arc::new(if is_commit_sent { failure } else { failure.before_commit() });
                batch.iter().map(|_| Err(Error::from_write(failure.clone()))).collect()
            }
        }
    }

    /// The number of rows to insert.
    fn weight(Creation { new, .. }: &Creation) -> usize {
        1 + new.wishlist.as_ref().map_or(0, |wishes| wishes.product_ids().len())
    }
}

/// One attempt to write a batch.
struct Attempt {
    /// The requests, with the ids of their users.
    batch: Vec<(Uuid, Creation)>,
    /// Whether a statement was sent that commits.
    is_commit_sent: bool,
}

/// What was written for a batch.
#[derive(Default)]
struct Written {
    /// The users that were inserted. The others have emails that are taken.
    users: HashMap<Uuid, User>,
    /// The responses that are stored under keys of the batch.
    responses: HashMap<Digest, Stored<Tagged<CreatedUser>>>,
    /// The first claim to each key without a stored response. Only its user was inserted.
    first_claims: HashMap<Digest, Claim>,
}

impl Written {
    fn reply(&mut self, id: Uuid, Creation { new, stocks, claim }: Creation) -> <UserWriter as Handler>::Reply {
        let Some(claim) = claim else {
            let user = self.users.remove(&id).ok_or(Error::EmailTaken)?;
            return Ok(response(user, new.wishlist, stocks.as_ref()));
        };
        match self.responses.get(&claim.id) {
            Some(stored) => Ok(stored.clone().replay(&claim)?),
            None if self.first_claims.get(&claim.id) == Some(&claim) => Err(Error::EmailTaken),
            None => Err(KeyReused.into()),
        }
    }
}

/// Inserts the users of a batch. Without keys, this is one statement, which is its own transaction.
async fn write(connection: &mut PgConnection, attempt: &mut Attempt) -> Result<Written, sqlx::Error> {
    let Attempt { batch, is_commit_sent } = attempt;
    *is_commit_sent = false;
    let claims: Vec<&Claim> = batch.iter().filter_map(|(_, creation)| creation.claim.as_ref()).collect();
    if claims.is_empty() {
        *is_commit_sent = true;
        let users = insert(connection, batch.iter().collect()).await?;
        return Ok(Written { users, ..Written::default() });
    }
    let mut transaction = connection.begin().await?;
    let mut written = Written { responses: idempotency::claim(&mut transaction, &claims).await?, ..Written::default() };
    let is_new = |(_, creation): &&(Uuid, Creation)| {
        let Some(claim) = &creation.claim else { return true };
        if written.responses.contains_key(&claim.id) {
            return false;
        }
        match written.first_claims.entry(claim.id) {
            Entry::Vacant(entry) => {
                entry.insert(claim.clone());
                true
            }
            Entry::Occupied(_) => false,
        }
    };
    let new = batch.iter().filter(is_new).collect();
    written.users = insert(&mut transaction, new).await?;
    let responses = batch.iter().filter_map(|(id, Creation { new, stocks, claim })| {
        let (claim, user) = (claim.clone()?, written.users.get(id)?.clone());
        Some(Stored { claim, response: response(user, new.wishlist.clone(), stocks.as_ref()) })
    });
    let responses: Vec<_> = responses.collect();
    if !responses.is_empty() {
        idempotency::store(&mut transaction, &responses).await?;
    }
    *is_commit_sent = true;
    transaction.commit().await?;
    written.responses.extend(responses.into_iter().map(|stored| (stored.claim.id, stored)));
    Ok(written)
}

async fn insert(
    connection: &mut PgConnection,
    mut creations: Vec<&(Uuid, Creation)>,
) -> Result<HashMap<Uuid, User>, sqlx::Error> {
    // Sorted by the unique key, so that two replicas cannot deadlock. The sort is stable: of two users with the same
    // email, the first to arrive is created.
    creations.sort_by_cached_key(|(_, creation)| creation.new.email.as_str().to_ascii_lowercase());
    let users: Vec<(Uuid, &NewUser)> = creations.iter().map(|(id, creation)| (*id, &creation.new)).collect();
    Ok(store::insert(connection, &users).await?.into_iter().map(|user| (user.id, user)).collect())
}

fn response(user: User, wishes: Option<Wishes>, stocks: Option<&Stocks>) -> Tagged<CreatedUser> {
    // User and wishes were inserted by one statement, at the same time.
    let wishlist = wishes.map(|wishes| Wishlist::new(wishes.added_at(user.created_at), stocks));
    Tagged { version: user.version, body: CreatedUser { user, wishlist } }
}
