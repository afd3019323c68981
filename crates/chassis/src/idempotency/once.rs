//! Work that runs once for each key.

use serde::{Serialize, de::DeserializeOwned};
use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{
    claim::{Claim, KeyReused, Stored},
    table,
};
use crate::database::{Database, DatabaseError, is_retried};

impl Database {
    /// Runs work that changes data, within 6 s, and at most once for each key.
    ///
    /// With a claim, the work and the storage of its result are one transaction. A repetition of the request gets the
    /// stored result, and the work does not run. If the work returns `Ok(Err(_))`, or fails, nothing is changed and the
    /// key is free again. Without a claim, the work runs as with [`Database::change`]: if it has several statements, it
    /// must begin a transaction itself, which is a savepoint if there is a claim. After a deadlock or a serialization
    /// failure, all of it runs again, up to three times.
    ///
    /// # Errors
    /// Returns a [`DatabaseError`] that says what is known of the effects. With a claim, a failure before the COMMIT is
    /// one without effect. The inner error is that of the work, or [`KeyReused`] if the key was used for a different
    /// request.
    pub async fn once<T, E>(
        &self,
        claim: Option<&Claim>,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<Result<T, E>, sqlx::Error> + Clone,
    ) -> Result<Result<T, E>, DatabaseError>
    where
        T: Serialize + DeserializeOwned,
        E: From<KeyReused>,
    {
        let Some(claim) = claim else { return self.change(work).await };
        let mut retries = 0;
        loop {
            let (work, mut progress) = (work.clone(), Progress::Undecided);
            let result = self.try_change(async |connection| once(connection, claim, work, &mut progress).await).await;
            match (result, progress) {
                (Ok(result), _) | (Err(_), Progress::Decided(result)) => return Ok(result),
                (Err(failure), _) if is_retried(&failure, &mut retries) => {}
                (Err(failure), Progress::CommitSent) => return Err(failure),
                (Err(failure), Progress::Undecided) => return Err(failure.before_commit()),
            }
        }
    }
}

/// How far a transaction got that failed.
enum Progress<R> {
    Undecided,
    /// There was nothing to commit, and only the rollback failed. The result holds.
    Decided(R),
    CommitSent,
}

async fn once<T, E>(
    connection: &mut PgConnection,
    claim: &Claim,
    work: impl AsyncFnOnce(&mut PgConnection) -> Result<Result<T, E>, sqlx::Error>,
    progress: &mut Progress<Result<T, E>>,
) -> Result<Result<T, E>, sqlx::Error>
where
    T: Serialize + DeserializeOwned,
    E: From<KeyReused>,
{
    let mut transaction = connection.begin().await?;
    if let Some(stored) = table::claim(&mut transaction, &[claim]).await?.remove(&claim.id) {
        return roll_back(transaction, stored.replay(claim).map_err(E::from), progress).await;
    }
    match work(&mut transaction).await {
        Ok(Ok(response)) => {
            let stored = Stored { claim: claim.clone(), response };
            table::store(&mut transaction, std::slice::from_ref(&stored)).await?;
            *progress = Progress::CommitSent;
            transaction.commit().await?;
            Ok(Ok(stored.response))
        }
        Ok(Err(refusal)) => roll_back(transaction, Err(refusal), progress).await,
        Err(error) => {
            // Repetitions wait for the end of the transaction. What is known of its effects is in the first error.
            let _ = transaction.rollback().await;
            Err(error)
        }
    }
}

/// Ends a transaction with nothing to commit. If that fails, the connection must not be used again.
async fn roll_back<R>(
    transaction: Transaction<'_, Postgres>,
    result: R,
    progress: &mut Progress<R>,
) -> Result<R, sqlx::Error> {
    match transaction.rollback().await {
        Ok(()) => Ok(result),
        Err(error) => {
            *progress = Progress::Decided(result);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use http::{Method, StatusCode};
    use prometheus::Registry;
    use runtime::Problem;
    use sqlx::{AssertSqlSafe, PgPool, postgres::PgConnectOptions, raw_sql};

    use super::{
        super::{IdempotencyKey, Pruner},
        *,
    };
    use crate::database::sql_state;

    /// A result of the work that is not stored.
    #[derive(Debug, PartialEq, Eq)]
    enum Refusal {
        Reused,
        Full,
    }

    impl From<KeyReused> for Refusal {
        fn from(_: KeyReused) -> Self {
            Self::Reused
        }
    }

    async fn start(pool: &PgPool) -> Database {
        raw_sql(include_str!("table.sql")).execute(pool).await.expect("a table");
        raw_sql("CREATE TABLE notes (id bigint GENERATED ALWAYS AS IDENTITY, text text CHECK (text <> 'bad'))")
            .execute(pool)
            .await
            .expect("a table");
        Database::new(PgConnectOptions::clone(&pool.connect_options()), 8, &Registry::new()).expect("a pool")
    }

    fn claim(key: &str, text: &str) -> Claim {
        let key = IdempotencyKey::try_from(key.as_bytes()).expect("a valid key");
        Claim::new(&key, &Method::POST, "/notes", [text])
    }

    /// Inserts a note and returns its id. Refuses the text "full" afterwards.
    async fn insert(connection: &mut PgConnection, text: &str) -> Result<Result<i64, Refusal>, sqlx::Error> {
        let insert = sqlx::query_scalar("INSERT INTO notes (text) VALUES ($1) RETURNING id").bind(text);
        let id = insert.fetch_one(connection).await?;
        Ok(if text == "full" { Err(Refusal::Full) } else { Ok(id) })
    }

    async fn create(
        database: &Database,
        claim: Option<&Claim>,
        text: &str,
    ) -> Result<Result<i64, Refusal>, DatabaseError> {
        database.once(claim, async |connection| insert(connection, text).await).await
    }

    async fn texts(pool: &PgPool) -> Vec<String> {
        sqlx::query_scalar("SELECT text FROM notes ORDER BY id").fetch_all(pool).await.expect("the notes")
    }

    #[sqlx::test(migrations = false)]
    async fn a_repetition_gets_the_result_and_changes_nothing(pool: PgPool) {
        let database = start(&pool).await;
        let first = create(&database, Some(&claim("k", "a")), "a").await.expect("created");
        assert_eq!(create(&database, Some(&claim("k", "a")), "a").await.expect("repeated"), first);
        let reused = create(&database, Some(&claim("k", "b")), "b").await.expect("refused");
        assert_eq!(reused, Err(Refusal::Reused));
        assert_eq!(texts(&pool).await, ["a"]);
        create(&database, None, "a").await.expect("created").expect("a note");
        create(&database, Some(&claim("K", "a")), "a").await.expect("created").expect("a note");
        assert_eq!(texts(&pool).await, ["a", "a", "a"]);
    }

    #[sqlx::test(migrations = false)]
    async fn a_refused_or_failed_request_leaves_its_key_free(pool: PgPool) {
        let database = start(&pool).await;
        let full = create(&database, Some(&claim("k", "full")), "full").await.expect("refused");
        assert_eq!(full, Err(Refusal::Full));
        let failure = create(&database, Some(&claim("k", "bad")), "bad").await.expect_err("the check fails");
        assert!(matches!(failure, DatabaseError::Refused(_)), "{failure}");
        assert_eq!(texts(&pool).await, [""; 0], "the changes are rolled back");
        // No transaction is left open, so this does not wait.
        let locked = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
        let locked: i64 = sqlx::query_scalar(locked).fetch_one(&pool).await.expect("a count");
        assert_eq!(locked, 0);
        create(&database, Some(&claim("k", "a")), "a").await.expect("created").expect("a note");
        assert_eq!(texts(&pool).await, ["a"]);
    }

    /// Inserts a note, then fails.
    async fn insert_and_fail(
        database: &Database,
        claim: Option<&Claim>,
        fail: impl AsyncFnOnce(&mut PgConnection) -> Result<(), sqlx::Error> + Clone,
    ) -> DatabaseError {
        let work = async |connection: &mut PgConnection| {
            let id = insert(&mut *connection, "a").await?;
            fail(connection).await?;
            Ok(id)
        };
        database.once(claim, work).await.expect_err("it fails")
    }

    /// Ends the connection's own backend.
    const END: &str = "SELECT pg_terminate_backend(pg_backend_pid())";

    #[sqlx::test(migrations = false)]
    async fn a_failure_before_the_commit_has_no_effect(pool: PgPool) {
        let database = start(&pool).await;
        let claim = claim("k", "a");
        let lost = insert_and_fail(&database, Some(&claim), async |connection| {
            raw_sql(END).execute(connection).await.map(|_| ())
        });
        assert!(matches!(lost.await, DatabaseError::NoConnection(_)));
        let panicked = insert_and_fail(&database, Some(&claim), async |_| panic!("a bug")).await;
        assert!(matches!(panicked, DatabaseError::Refused(_)));
        assert_eq!(panicked.to_string(), "panic: a bug");
        assert_eq!(Problem::from(panicked).status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(texts(&pool).await, [""; 0]);
        create(&database, Some(&claim), "a").await.expect("created").expect("a note");
        assert_eq!(texts(&pool).await, ["a"]);
    }

    #[sqlx::test(migrations = false)]
    async fn a_failure_after_a_commit_was_sent_may_have_effect(pool: PgPool) {
        let database = start(&pool).await;
        // Without a claim, each statement is a transaction.
        let panicked = insert_and_fail(&database, None, async |_| panic!("a bug")).await;
        assert!(matches!(panicked, DatabaseError::Panicked(_)) && panicked.may_have_effect());
        assert_eq!(texts(&pool).await, ["a"]);
        let end = format!(
            "CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM {}; RETURN NULL; END $$;
             CREATE CONSTRAINT TRIGGER stop AFTER INSERT ON notes DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW EXECUTE FUNCTION stop()",
            END.trim_start_matches("SELECT ")
        );
        raw_sql(AssertSqlSafe(end)).execute(&pool).await.expect("a trigger");
        let lost = create(&database, Some(&claim("k", "b")), "b").await.expect_err("the connection is lost");
        assert!(lost.is_lost() && lost.may_have_effect(), "{lost}");
    }

    /// The work ends its own connection, so that the rollback fails.
    #[sqlx::test(migrations = false)]
    async fn a_result_that_needs_no_commit_survives_the_connection(pool: PgPool) {
        let database = start(&pool).await;
        let work = async |connection: &mut PgConnection| {
            raw_sql(END).execute(connection).await.expect_err("the connection is lost");
            Ok(Err::<i64, _>(Refusal::Full))
        };
        let refused = database.once(Some(&claim("k", "full")), work).await.expect("refused");
        assert_eq!(refused, Err(Refusal::Full));
        create(&database, Some(&claim("k", "a")), "a").await.expect("created").expect("a note");
    }

    /// Makes this many of the next inserts fail with a SQLSTATE.
    async fn fail_inserts(pool: &PgPool, state: &str, count: usize) {
        let fail = format!(
            "CREATE SEQUENCE IF NOT EXISTS tries;
             SELECT setval('tries', 1, false);
             CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN IF nextval('tries') <= {count} THEN RAISE SQLSTATE '{state}'; END IF; RETURN NEW; END $$;
             CREATE OR REPLACE TRIGGER fail BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION fail()"
        );
        raw_sql(AssertSqlSafe(fail)).execute(pool).await.expect("a trigger");
    }

    #[sqlx::test(migrations = false)]
    async fn deadlocks_are_retried_three_times(pool: PgPool) {
        let database = start(&pool).await;
        for state in ["40001", "40P01"] {
            for claim in [None, Some(claim(state, "a"))] {
                let count = texts(&pool).await.len();
                fail_inserts(&pool, state, 4).await;
                let failure = create(&database, claim.as_ref(), "a").await.expect_err("the fourth try fails, too");
                assert!(!failure.may_have_effect(), "{failure}");
                assert_eq!(Problem::from(failure).status(), StatusCode::SERVICE_UNAVAILABLE);
                assert_eq!(texts(&pool).await.len(), count, "nothing was changed");
                fail_inserts(&pool, state, 3).await;
                create(&database, claim.as_ref(), "a").await.expect("created").expect("a note");
                assert_eq!(texts(&pool).await.len(), count + 1);
            }
        }
    }

    /// The waits of a statement for several locks can take longer than the statement may.
    #[sqlx::test(migrations = false)]
    async fn a_statement_cancelled_while_it_waits_has_no_effect(pool: PgPool) {
        let database = start(&pool).await;
        create(&database, None, "a").await.expect("created").expect("a note");
        let mut lock = pool.begin().await.expect("a transaction");
        raw_sql("SELECT FROM notes FOR UPDATE").execute(&mut *lock).await.expect("locked");
        for claim in [None, Some(claim("k", "b"))] {
            let work = async |connection: &mut PgConnection| {
                raw_sql("SET statement_timeout = '50ms'").execute(&mut *connection).await?;
                raw_sql("UPDATE notes SET text = 'b'").execute(connection).await?;
                Ok(Ok::<_, Refusal>(0))
            };
            let failure = database.once(claim.as_ref(), work).await.expect_err("the note is locked");
            assert_eq!(sql_state(failure.error()).as_deref(), Some("57014"));
            assert!(!failure.may_have_effect(), "{failure}");
            assert_eq!(Problem::from(failure).status(), StatusCode::SERVICE_UNAVAILABLE);
        }
        lock.rollback().await.expect("unlocked");
        assert_eq!(texts(&pool).await, ["a"]);
    }

    #[sqlx::test(migrations = false)]
    async fn concurrent_duplicates_take_effect_once(pool: PgPool) {
        let database = start(&pool).await;
        for round in 0..5 {
            let claim = claim(&round.to_string(), "a");
            let results = join_all((0..20).map(|_| create(&database, Some(&claim), "a"))).await;
            let ids: Vec<i64> = results.into_iter().map(|result| result.expect("a result").expect("an id")).collect();
            assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
            assert_eq!(texts(&pool).await.len(), round + 1);
        }
    }

    #[sqlx::test(migrations = false)]
    async fn an_expired_response_is_not_replayed_and_is_pruned(pool: PgPool) {
        let database = start(&pool).await;
        let claims = [claim("a", "a"), claim("b", "a"), claim("c", "a")];
        for claim in &claims {
            create(&database, Some(claim), "a").await.expect("created").expect("a note");
        }
        let expire = "UPDATE idempotency SET expires_at = clock_timestamp() WHERE id = ANY ($1)";
        let expired = [claims[0].id, claims[1].id];
        sqlx::query(expire).bind(expired.as_slice()).execute(&pool).await.expect("expired");
        create(&database, Some(&claims[0]), "a").await.expect("created").expect("a note");
        assert_eq!(texts(&pool).await.len(), 4);
        assert!(Pruner::new().step(&database).await.expect("a step"));
        let left = sqlx::query_scalar("SELECT count(*) FROM idempotency").fetch_one(&pool).await;
        assert_eq!(left.ok(), Some(2_i64));
        create(&database, Some(&claims[2]), "a").await.expect("repeated").expect("a note");
        assert_eq!(texts(&pool).await.len(), 4);
    }
}
