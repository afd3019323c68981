//! The pool of connections that requests share.

use std::sync::Arc;

use deadpool::{
    Runtime,
    managed::{Object, Pool, PoolError, TimeoutType, Timeouts},
};
use prometheus::{
    Histogram, HistogramOpts, IntGaugeVec, Opts, Registry,
    core::{Collector, Desc},
    proto::MetricFamily,
};
use runtime::metrics::BUCKETS;
use sqlx::{PgConnection, postgres::PgConnectOptions};
use tokio::{sync::Semaphore, time};

use super::{
    connector::{ACQUIRE_TIMEOUT, Connector},
    dedicated::DedicatedConnection,
    error::{DatabaseError, is_retried, is_usable_after, timed_out, with_timeout},
};

/// The connections that requests share. A reply wakes the thread that opened its connection, so the pool should only be
/// used on the thread that serves requests.
#[derive(Clone)]
pub struct Database {
    pool: Pool<Connector>,
    /// Limits the connections that changes use.
    changes: Arc<Semaphore>,
}

impl Database {
    /// Creates the pool. No connection is opened until one is needed.
    ///
    /// # Errors
    /// Returns an error if the pool cannot be built or its metrics are already registered, which is a bug.
    pub(crate) fn new(options: PgConnectOptions, size: u32, registry: &Registry) -> anyhow::Result<Self> {
        let help = "Time a task waited for a database connection.";
        let wait = HistogramOpts::new("db_pool_wait_seconds", help).buckets(BUCKETS.into());
        let wait = Histogram::with_opts(wait)?;
        registry.register(Box::new(wait.clone()))?;
        // The check before a reuse has its own limit.
        let timeouts = Timeouts { wait: Some(ACQUIRE_TIMEOUT), create: Some(ACQUIRE_TIMEOUT), recycle: None };
        let pool = Pool::builder(Connector::new(options, wait))
            .max_size(usize::try_from(size)?)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()?;
        let connections = Opts::new("db_pool_connections", "Connections in the database pool, by state.");
        let connections = IntGaugeVec::new(connections, &["state"])?;
        registry.register(Box::new(PoolCollector { pool: pool.clone(), connections }))?;
        let changes = Arc::new(Semaphore::new(usize::try_from(size)?.div_ceil(2)));
        Ok(Self { pool, changes })
    }

    /// Runs work that reads on a connection, within 6 s.
    ///
    /// # Errors
    /// Returns a [`DatabaseError`] that says what is known of the effects.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        let mut pooled = self.acquire().await.map_err(DatabaseError::NoConnection)?;
        let result = with_timeout(work(pooled.connection())).await;
        if is_usable_after(&result) {
            pooled.release();
        }
        result
    }

    /// Runs work that changes data on a connection, within 6 s. Such work may have to wait for a row that somebody holds,
    /// so it never uses more than half of the connections: the others are left for reads.
    ///
    /// After a deadlock or a serialization failure the work runs again, up to three times. If it has several statements,
    /// they must be one transaction.
    ///
    /// # Errors
    /// Returns a [`DatabaseError`] that says what is known of the effects.
    pub async fn change<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error> + Clone,
    ) -> Result<T, DatabaseError> {
        let mut retries = 0;
        loop {
            match self.try_change(work.clone()).await {
                Err(failure) if is_retried(&failure, &mut retries) => {}
                result => return result,
            }
        }
    }

    /// Does the same without a retry.
    pub(crate) async fn try_change<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, DatabaseError> {
        let permit = time::timeout(ACQUIRE_TIMEOUT, self.changes.acquire()).await;
        let _permit = permit.map_err(|_| DatabaseError::NoConnection(sqlx::Error::PoolTimedOut))?;
        self.run(work).await
    }

    /// Dedicates a connection to one task. The pool has room for one fewer.
    #[must_use]
    pub fn dedicate(&self) -> DedicatedConnection {
        let size = self.pool.status().max_size.saturating_sub(1);
        self.pool.resize(size);
        // Changes must leave a connection for reads of a small pool too.
        let excess = self.changes.available_permits().saturating_sub(size.saturating_sub(1).max(1));
        self.changes.forget_permits(excess);
        DedicatedConnection::new(self.pool.manager().clone())
    }

    async fn acquire(&self) -> Result<PooledConnection, sqlx::Error> {
        let _timer = self.pool.manager().wait.start_timer();
        match self.pool.get().await {
            Ok(connection) => Ok(PooledConnection(Some(connection))),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Timeout(TimeoutType::Create)) => Err(timed_out()),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }
}

/// A connection of the pool in use. If it is dropped before it is released, as when a request is cancelled, it is
/// closed, because its state is unknown.
struct PooledConnection(Option<Object<Connector>>);

impl PooledConnection {
    /// Returns the connection.
    ///
    /// # Panics
    /// Never: only `release` takes it, and that consumes `self`.
    fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("the connection has not been released")
    }

    /// Returns the connection to the pool.
    fn release(mut self) {
        self.0.take();
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        // Removed from the pool, and closed without a Terminate message: sending one could wait for a dead server.
        drop(self.0.take().map(Object::take));
    }
}

/// Reads the state of the pool on each scrape.
struct PoolCollector {
    pool: Pool<Connector>,
    connections: IntGaugeVec,
}

impl Collector for PoolCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.connections.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = self.pool.status();
        for (state, count) in [("idle", status.available), ("in_use", status.size - status.available)] {
            self.connections.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.connections.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_leave_a_connection_for_reads() {
        for (size, expected) in [(3, 1), (4, 2), (8, 4), (9, 5)] {
            let database = Database::new(PgConnectOptions::new(), size, &Registry::new()).expect("a pool");
            let _dedicated = database.dedicate();
            assert_eq!(database.changes.available_permits(), expected, "of {size} connections, one is dedicated");
        }
    }
}
