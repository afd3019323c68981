//! Group commit for new users: one statement inserts all users that arrived while the previous one was running. If a
//! request has an idempotency key, the statement is part of a transaction that claims the keys and stores the
//! responses.
//!
//! A request whose email or key another session holds must not hold up the others. If a lock is not granted in time, the
//! batch is halved until only such requests are left, which are tried again by themselves.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use chassis::{
    Database, Tagged,
    batch::{Arrivals, OpenHandler},
    database::{DatabaseError, DedicatedConnection, concerns_one_request, is_lock_timeout},
    idempotency::{self, Claim, Digest, KeyReused, Stored},
};
use sqlx::{Connection, PgConnection};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use crate::{
    error::Error,
    model::{CreatedUser, NewUser, Stocks, User, Wishes, Wishlist},
    store,
};

/// The maximum number of rows that a statement inserts, so that it ends well before the statement timeout.
pub(crate) const MAX_ROWS: usize = 2000;

/// How long a batch waits for a lock, and how long a search for the requests that wait may take. Other replicas hold
/// their locks for much less.
const LOCK_TIMEOUT: Duration = Duration::from_millis(150);

/// How long a request waits for a lock in all, before it fails.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// The reply to a request.
pub(crate) type Reply = Result<Tagged<CreatedUser>, Error>;

/// A request to create a user.
pub(crate) struct Creation {
    pub(crate) new: NewUser,
    /// The stock of the products on the wishlist, if it is known.
    pub(crate) stocks: Option<Stocks>,
    /// The claim to an idempotency key.
    pub(crate) claim: Option<Claim>,
    /// Gets the reply, perhaps after a later batch.
    pub(crate) reply: oneshot::Sender<Reply>,
}

/// Creates users.
pub(crate) struct UserWriter {
    connection: DedicatedConnection,
    /// Requests that wait for locks, in the order in which they are tried again.
    waiting: VecDeque<Waiting>,
    /// When they are tried again.
    rests_until: Instant,
}

/// Requests that are tried together.
type Part = Vec<Queued>;

/// A request, with the id of its user.
struct Queued {
    id: Uuid,
    creation: Creation,
    since: Instant,
}

/// A part that a lock held up, alone or not.
struct Waiting {
    part: Part,
    failure: Arc<DatabaseError>,
}

/// What became of a part.
enum Attempt {
    /// Its requests have their replies.
    Done,
    /// A lock was not granted in time.
    Waits(Part, Arc<DatabaseError>),
    /// A single request makes it fail.
    Fails(Part),
}

impl UserWriter {
    pub(crate) fn new(database: &Database) -> Self {
        let connection = database.dedicate().with_lock_timeout(LOCK_TIMEOUT);
        Self { connection, waiting: VecDeque::new(), rests_until: Instant::now() }
    }

    /// Puts requests that need what others wait for behind these, and returns the rest.
    fn set_aside_known(&mut self, part: Part) -> Part {
        if self.waiting.is_empty() {
            return part;
        }
        let waiting = || self.waiting.iter().flat_map(|waiting| &waiting.part);
        let emails: HashSet<String> = waiting().map(Queued::email).collect();
        let keys: HashSet<Digest> = waiting().filter_map(Queued::key).collect();
        let is_known =
            |queued: &Queued| emails.contains(&queued.email()) || queued.key().is_some_and(|key| keys.contains(&key));
        let (known, rest): (Part, Part) = part.into_iter().partition(is_known);
        for queued in known {
            let mut waiting = self.waiting.iter_mut();
            if let Some(waiting) = waiting.find(|waiting| waiting.part.iter().any(|other| other.shares(&queued))) {
                waiting.part.push(queued);
            }
        }
        rest
    }

    /// Creates users together. If some have to wait for a lock, the search for them ends with the time.
    async fn write_all(&mut self, part: Part) {
        let (mut waits_since, mut parts) = (None, vec![part]);
        while let Some(part) = parts.pop() {
            match self.write(part, waits_since.is_some()).await {
                Attempt::Done => {}
                Attempt::Fails(mut part) => parts.extend([halve(&mut part), part]),
                Attempt::Waits(mut part, failure) => {
                    let since: &mut Instant = waits_since.get_or_insert_with(Instant::now);
                    if is_one_lock(&part) || since.elapsed() >= LOCK_TIMEOUT {
                        self.waiting.push_back(Waiting { part, failure });
                    } else {
                        parts.extend([halve(&mut part), part]);
                    }
                }
            }
        }
    }

    /// Tries those again that wait, in turn. Then others have as much time as this took.
    async fn retry(&mut self) {
        let started = Instant::now();
        for _ in 0..self.waiting.len() {
            if started.elapsed() >= LOCK_TIMEOUT {
                break;
            }
            let Some(Waiting { part, failure }) = self.waiting.pop_front() else { break };
            let (late, part): (Part, Part) = part.into_iter().partition(|queued| queued.since.elapsed() >= MAX_WAIT);
            for queued in late {
                queued.reply(Err(Error::from_write(failure.clone())));
            }
            match self.write(part, true).await {
                Attempt::Done => {}
                Attempt::Waits(mut part, failure) => {
                    if !is_one_lock(&part) {
                        let second = halve(&mut part);
                        self.waiting.push_back(Waiting { part: second, failure: failure.clone() });
                    }
                    self.waiting.push_back(Waiting { part, failure });
                }
                Attempt::Fails(mut part) => {
                    for part in [halve(&mut part), part] {
                        self.waiting.push_back(Waiting { part, failure: failure.clone() });
                    }
                }
            }
        }
        self.rests_until = Instant::now() + started.elapsed();
    }

    /// Writes a part in one transaction. If it `hurries`, it hardly waits for locks.
    async fn write(&mut self, mut part: Part, hurries: bool) -> Attempt {
        // Nobody waits for these anymore, and they were not started.
        part.retain(|queued| !queued.creation.reply.is_closed());
        if part.is_empty() {
            return Attempt::Done;
        }
        let mut statements = Statements { batch: &mut part, hurries, is_commit_sent: false };
        let work = self.connection.run(&mut statements, |connection, input| Box::pin(write(connection, input)));
        let written = work.await;
        let is_commit_sent = statements.is_commit_sent;
        match written.map_err(|failure| if is_commit_sent { failure } else { failure.before_commit() }) {
            Ok(mut written) => {
                for queued in part {
                    written.reply(queued);
                }
                Attempt::Done
            }
            Err(failure) if is_lock_timeout(failure.error()) => Attempt::Waits(part, Arc::new(failure)),
            Err(failure) if part.len() > 1 && concerns_one_request(&failure) => Attempt::Fails(part),
            Err(failure) => {
                let failure = Arc::new(failure);
                for queued in part {
                    queued.reply(Err(Error::from_write(failure.clone())));
                }
                Attempt::Done
            }
        }
    }
}

impl OpenHandler for UserWriter {
    type Request = Creation;
    /// Each request has a channel of its own for the reply.
    type Reply = ();

    /// Creates users together.
    async fn handle(&mut self, batch: Vec<Creation>, _: &mut Arrivals<'_, Self>) -> Vec<()> {
        let (replies, since) = (vec![(); batch.len()], Instant::now());
        let queued = batch.into_iter().map(|creation| Queued { id: Uuid::now_v7(), creation, since });
        let part = self.set_aside_known(queued.collect());
        self.write_all(part).await;
        if !self.waiting.is_empty() && Instant::now() >= self.rests_until {
            self.retry().await;
        }
        replies
    }

    /// The number of rows to insert.
    fn weight(Creation { new, .. }: &Creation) -> usize {
        1 + new.wishlist.as_ref().map_or(0, |wishes| wishes.product_ids().len())
    }

    fn wake_at(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.rests_until)
    }
}

impl Queued {
    /// The email as it is compared.
    fn email(&self) -> String {
        self.creation.new.email.as_str().to_ascii_lowercase()
    }

    fn key(&self) -> Option<Digest> {
        self.creation.claim.as_ref().map(|claim| claim.id)
    }

    /// Whether both need the same email or key.
    fn shares(&self, other: &Self) -> bool {
        let has_same_key = self.key().is_some() && self.key() == other.key();
        has_same_key || self.creation.new.email.as_str().eq_ignore_ascii_case(other.creation.new.email.as_str())
    }

    fn reply(self, reply: Reply) {
        // The client may have gone.
        let _ = self.creation.reply.send(reply);
    }
}

/// Whether all requests of a part need the same email or key, so that they wait together.
fn is_one_lock(part: &[Queued]) -> bool {
    part.iter().skip(1).all(|queued| queued.shares(&part[0]))
}

/// Splits off the second half of a part.
fn halve(part: &mut Part) -> Part {
    part.split_off(part.len() / 2)
}

/// The transaction of a part.
struct Statements<'a> {
    /// Without the repetitions, once these have their responses.
    batch: &'a mut Part,
    /// Whether it hardly waits for locks.
    hurries: bool,
    /// Whether a statement was sent that commits.
    is_commit_sent: bool,
}

/// What was written for a batch.
#[derive(Default)]
struct Written {
    /// The users that were inserted. The others have emails that are taken.
    users: HashMap<Uuid, User>,
    /// The responses that were stored under keys of the batch.
    responses: HashMap<Digest, Stored<Tagged<CreatedUser>>>,
    /// The first claim to each key without a stored response. Only its user was inserted.
    first_claims: HashMap<Digest, Claim>,
}

impl Written {
    fn reply(&mut self, mut queued: Queued) {
        let Creation { new, stocks, claim, .. } = &mut queued.creation;
        let reply = match claim.take() {
            None => {
                let wishes = new.wishlist.take();
                let user = self.users.remove(&queued.id).ok_or(Error::EmailTaken);
                user.map(|user| response(user, wishes, stocks.as_ref()))
            }
            Some(claim) => match self.responses.get(&claim.id) {
                Some(stored) => stored.clone().replay(&claim).map_err(Error::from),
                None if self.first_claims.get(&claim.id) == Some(&claim) => Err(Error::EmailTaken),
                None => Err(KeyReused.into()),
            },
        };
        queued.reply(reply);
    }
}

/// Inserts the users of a batch. Without keys, this is one statement, which is its own transaction.
async fn write(connection: &mut PgConnection, statements: &mut Statements<'_>) -> Result<Written, sqlx::Error> {
    let Statements { batch, hurries, is_commit_sent } = statements;
    *is_commit_sent = false;
    let claims: Vec<&Claim> = batch.iter().filter_map(|queued| queued.creation.claim.as_ref()).collect();
    if claims.is_empty() && !*hurries {
        *is_commit_sent = true;
        let users = insert(connection, batch.iter().collect()).await?;
        return Ok(Written { users, ..Written::default() });
    }
    let mut transaction = connection.begin().await?;
    if *hurries {
        store::hardly_wait(&mut transaction).await?;
    }
    let stored = idempotency::claim(&mut transaction, &claims).await?;
    // These hold whatever becomes of the transaction, so their requests neither wait for it nor fail with it.
    let is_stored = |queued: &mut Queued| queued.key().is_some_and(|key| stored.contains_key(&key));
    let repetitions: Part = batch.extract_if(.., is_stored).collect();
    let mut repeated = Written { responses: stored, ..Written::default() };
    for repetition in repetitions {
        repeated.reply(repetition);
    }
    let mut written = Written::default();
    let is_new = |queued: &&Queued| {
        let Some(claim) = &queued.creation.claim else { return true };
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
    let responses = batch.iter().filter_map(|Queued { id, creation, .. }| {
        let (claim, user) = (creation.claim.clone()?, written.users.get(id)?.clone());
        let response = response(user, creation.new.wishlist.clone(), creation.stocks.as_ref());
        Some(Stored { claim, response })
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

async fn insert(connection: &mut PgConnection, mut batch: Vec<&Queued>) -> Result<HashMap<Uuid, User>, sqlx::Error> {
    // Sorted by the unique key, so that two replicas cannot deadlock. The sort is stable: of two users with the same
    // email, the first to arrive is created.
    batch.sort_by_cached_key(|queued| queued.email());
    let users: Vec<(Uuid, &NewUser)> = batch.iter().map(|queued| (queued.id, &queued.creation.new)).collect();
    Ok(store::insert(connection, &users).await?.into_iter().map(|user| (user.id, user)).collect())
}

fn response(user: User, wishes: Option<Wishes>, stocks: Option<&Stocks>) -> Tagged<CreatedUser> {
    // User and wishes were inserted by one statement, at the same time.
    let wishlist = wishes.map(|wishes| Wishlist::new(wishes.added_at(user.created_at), stocks));
    Tagged { version: user.version, body: CreatedUser { user, wishlist } }
}
