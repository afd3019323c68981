//! An issuer at run time: its keys, and the task that keeps them current.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use runtime::request::chain;
use tokio::{
    select,
    sync::{Notify, Semaphore, watch},
    task::AbortHandle,
    time,
};

use crate::{
    config::IssuerConfig,
    key::KeySet,
    memory::{Digest, digest_of},
    metrics::{Counters, LastRead, Metrics},
    source::Source,
};

/// The maximum number of requests that wait for the keys of an issuer.
const MAX_WAITING: usize = 256;

/// When keys are read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    /// The time between two reads over HTTP.
    pub(crate) every: Duration,
    /// The time between two reads of a file.
    pub(crate) every_local: Duration,
    /// The time after a failure; it doubles up to `retry_limit`.
    pub(crate) retry: Duration,
    pub(crate) retry_limit: Duration,
    /// The shortest time between two reads because of unknown keys.
    pub(crate) demand: Duration,
    /// How long a request to the issuer may take.
    pub(crate) timeout: Duration,
    /// How long a request waits for keys.
    pub(crate) wait: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            every: Duration::from_mins(5),
            every_local: Duration::from_secs(2),
            retry: Duration::from_secs(1),
            retry_limit: Duration::from_secs(30),
            demand: Duration::from_secs(30),
            timeout: Duration::from_secs(5),
            wait: Duration::from_secs(5),
        }
    }
}

/// A number for the keys and issuers of a verifier, which changes with them. No two verifiers of a process ever have
/// the same.
#[derive(Debug)]
pub(crate) struct Generation(AtomicU64);

impl Generation {
    pub(crate) fn new() -> Self {
        let generation = Self(AtomicU64::default());
        generation.advance();
        generation
    }

    pub(crate) fn current(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }

    /// Called after a change, so that what is read after [`current`](Self::current) is at least as new.
    pub(crate) fn advance(&self) {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        self.0.store(NEXT.fetch_add(1, Ordering::Relaxed), Ordering::Release);
    }
}

/// An issuer and its keys.
pub(crate) struct Issuer {
    pub(crate) config: IssuerConfig,
    pub(crate) name: Arc<str>,
    pub(crate) counters: Arc<Counters>,
    keys: ArcSwapOption<KeySet>,
    last_read: LastRead,
    generation: Arc<Generation>,
    pace: Pace,
    reading: Mutex<Reading>,
    demanded: Notify,
    /// Counts the reads.
    reads: watch::Sender<u64>,
    waiting: Semaphore,
}

struct Reading {
    is_under_way: bool,
    last_demand: Option<Instant>,
}

/// An issuer whose keys are kept current for as long as this value lives.
pub(crate) struct RunningIssuer {
    pub(crate) issuer: Arc<Issuer>,
    task: AbortHandle,
}

impl Drop for RunningIssuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RunningIssuer {
    /// Starts to read the keys of an issuer, on the current runtime.
    ///
    /// # Errors
    /// Returns an error if no HTTP client can be created.
    pub(crate) fn start(
        config: IssuerConfig,
        metrics: &Metrics,
        generation: Arc<Generation>,
        pace: Pace,
    ) -> anyhow::Result<Self> {
        let source = Source::new(&config, pace.timeout)?;
        let last_read = LastRead::new(Mutex::new(Instant::now()));
        let issuer = Arc::new(Issuer {
            name: config.issuer.as_str().into(),
            counters: metrics.issuer(&config.issuer, &last_read),
            config,
            keys: ArcSwapOption::empty(),
            last_read,
            generation,
            pace,
            reading: Mutex::new(Reading { is_under_way: true, last_demand: None }),
            demanded: Notify::new(),
            reads: watch::Sender::new(0),
            waiting: Semaphore::new(MAX_WAITING),
        });
        let task = tokio::spawn(keep_current(issuer.clone(), source)).abort_handle();
        Ok(Self { issuer, task })
    }
}

impl Issuer {
    /// Returns the last good keys; `None` if there never were any.
    pub(crate) fn keys(&self) -> Option<Arc<KeySet>> {
        self.keys.load_full()
    }

    /// Has the keys read again because one is missing, unless that was done a short while ago. Returns what changes
    /// when they have been read; `None` if there is nothing to wait for.
    pub(crate) fn demand(&self) -> Option<watch::Receiver<u64>> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if !reading.is_under_way {
            if reading.last_demand.is_some_and(|last| last.elapsed() < self.pace.demand) {
                return None;
            }
            reading.last_demand = Some(Instant::now());
            reading.is_under_way = true;
            self.demanded.notify_one();
        }
        Some(self.reads.subscribe())
    }

    /// Waits until the keys have been read, if that can help.
    pub(crate) async fn wait_for_keys(&self) {
        let Ok(_waiting) = self.waiting.try_acquire() else { return };
        let Some(mut reads) = self.demand() else { return };
        let _ = time::timeout(self.pace.wait, reads.changed()).await;
    }

    fn begin(&self) {
        self.reading.lock().unwrap_or_else(PoisonError::into_inner).is_under_way = true;
    }

    fn end(&self) {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        reading.is_under_way = false;
        self.reads.send_modify(|reads| *reads = reads.wrapping_add(1));
    }
}

/// Reads the keys at once, at intervals, and when one is missing. The last good ones stay while the issuer is away.
async fn keep_current(issuer: Arc<Issuer>, source: Source) {
    let mut failures: u32 = 0;
    let mut is_reported = false;
    let mut known = None;
    loop {
        let result = read(&issuer, &source, &mut known).await;
        issuer.end();
        let pace = &issuer.pace;
        let pause = match result {
            Ok(()) => {
                if is_reported {
                    tracing::info!(issuer = %issuer.name, "keys of the issuer read again");
                }
                failures = 0;
                is_reported = false;
                if source.is_local() { pace.every_local } else { pace.every }
            }
            Err(error) => {
                let error = chain(error.as_ref());
                // Processes start in any order, so an issuer may be a moment late.
                if failures == 0 && !source.is_local() {
                    tracing::debug!(issuer = %issuer.name, error, "cannot read the keys of the issuer yet");
                } else if !is_reported || !source.is_local() {
                    tracing::warn!(issuer = %issuer.name, error, "cannot read the keys of the issuer");
                    is_reported = true;
                }
                let limit = if source.is_local() { pace.every_local } else { pace.retry_limit };
                let pause = pace.retry.saturating_mul(1 << failures.min(16)).min(limit);
                failures += 1;
                pause
            }
        };
        select! {
            () = time::sleep(pause) => {}
            () = issuer.demanded.notified() => {}
        }
        issuer.begin();
    }
}

/// Reads the keys once. `known` is the digest of the last good document.
async fn read(issuer: &Issuer, source: &Source, known: &mut Option<Digest>) -> anyhow::Result<()> {
    let document = source.read().await?;
    let digest = digest_of(&document);
    if *known != Some(digest) {
        let keys = KeySet::parse(&document, &issuer.config.algorithms)?;
        issuer.keys.store(Some(Arc::new(keys)));
        issuer.generation.advance();
        *known = Some(digest);
    }
    *issuer.last_read.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    Ok(())
}
