//! The pool of connections that requests share.

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

use super::{
    connector::{ACQUIRE_TIMEOUT, Connector, PING_TIMEOUT},
    dedicated::DedicatedConnection,
    failure::{Failure, timed_out, with_timeout},
};

/// The connections that requests share. Their replies wake the thread that opened them: that of the requests.
#[derive(Clone)]
pub struct Database {
    pool: Pool<Connector>,
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
        let timeouts =
            Timeouts { wait: Some(ACQUIRE_TIMEOUT), create: Some(ACQUIRE_TIMEOUT), recycle: Some(PING_TIMEOUT) };
        let pool = Pool::builder(Connector::new(options, wait))
            .max_size(usize::try_from(size)?)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()?;
        let connections = Opts::new("db_pool_connections", "Database connections of the pool.");
        let connections = IntGaugeVec::new(connections, &["state"])?;
        registry.register(Box::new(PoolCollector { pool: pool.clone(), connections }))?;
        Ok(Self { pool })
    }

    /// Runs work on a connection, within 6 s.
    ///
    /// # Errors
    /// Returns a [`Failure`] that says what is known of the effects.
    pub async fn run<T>(
        &self,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Failure> {
        let mut lease = self.acquire().await.map_err(Failure::NotBegun)?;
        let result = with_timeout(work(lease.connection())).await;
        if result.as_ref().err().is_none_or(Failure::leaves_the_connection_sound) {
            lease.give_back();
        }
        result
    }

    /// Dedicates a connection to one task. The pool has room for one fewer.
    #[must_use]
    pub fn dedicate(&self) -> DedicatedConnection {
        self.pool.resize(self.pool.status().max_size.saturating_sub(1));
        DedicatedConnection::new(self.pool.manager().clone())
    }

    async fn acquire(&self) -> Result<Lease, sqlx::Error> {
        let _timer = self.pool.manager().wait.start_timer();
        match self.pool.get().await {
            Ok(connection) => Ok(Lease(Some(connection))),
            Err(PoolError::Backend(error)) => Err(error),
            Err(PoolError::Timeout(TimeoutType::Create)) => Err(timed_out()),
            Err(_) => Err(sqlx::Error::PoolTimedOut),
        }
    }
}

/// A connection of the pool in use. If it is dropped before it is given back, as when a request is cancelled, it is
/// closed, because its state is unknown.
struct Lease(Option<Object<Connector>>);

impl Lease {
    /// Returns the connection.
    ///
    /// # Panics
    /// Never: only `give_back` takes it, and that consumes the lease.
    fn connection(&mut self) -> &mut PgConnection {
        self.0.as_mut().expect("the lease has not been given back")
    }

    fn give_back(mut self) {
        self.0.take();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Removed from the pool, and closed without a Terminate message, for which a dead peer would have to be waited
        // for.
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
