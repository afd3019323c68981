//! The database servers: which of them respond, and how many reconciles use each of them at a time.
//!
//! A login to a server that does not respond takes as long as its timeout. If every object found that out for itself,
//! the objects of one such server would keep all others waiting. So the failure is remembered for all of them, and one
//! attempt at a time, in the background, finds out whether the server is back.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::ByteString;
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::{self, Instant},
};

use super::{conditions::ConditionResult, queue::Queue};
use crate::database::{Error, Server};

/// How long after its start a probe is waited for. A healthy server responds within milliseconds.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longer than any probe takes.
const MAX_PROBE: Duration = Duration::from_mins(2);

/// The wait before a server that failed is tried again is a quarter of the time that it has been failing.
const MIN_RETRY: Duration = Duration::from_secs(1);
const MAX_RETRY: Duration = Duration::from_secs(15);
const DIVISOR: u32 = 4;

/// The reason of an object that waits for others.
pub(crate) const BUSY: &str = "ServerBusy";

/// The servers that objects use.
pub(crate) struct Servers {
    /// By a hash of URL and CA certificates. A server whose Secret changes is another one, with no failure yet.
    access: Mutex<HashMap<u64, Arc<Access>>>,
    /// How many reconciles may use one server at a time.
    limit: usize,
    queue: Queue,
}

impl Servers {
    /// Objects of one server take at most a third of the reconciles that may run concurrently, so that two servers that
    /// hang leave some to the others.
    pub(crate) fn new(concurrency: u16, queue: Queue) -> Self {
        Self { access: Mutex::default(), limit: usize::from((concurrency / 3).max(1)), queue }
    }

    /// The access to the server that the data of a Secret describe.
    pub(crate) fn access(&self, data: &BTreeMap<String, ByteString>) -> Arc<Access> {
        let mut hasher = DefaultHasher::new();
        for key in ["url", "uri", "ca.crt"] {
            data.get(key).map(|value| &value.0).hash(&mut hasher);
        }
        let mut all = self.access.lock().unwrap_or_else(PoisonError::into_inner);
        let access = || Arc::new(Access::new(self.limit, self.queue.clone()));
        all.entry(hasher.finish()).or_insert_with(access).clone()
    }
}

/// The access to one server.
pub(crate) struct Access {
    permits: Semaphore,
    /// The objects that found no permit, in that order. Each of them is queued once there is one.
    waiting: Mutex<VecDeque<String>>,
    queue: Queue,
    state: watch::Sender<State>,
}

#[derive(Default)]
struct State {
    health: Health,
    /// When the probe started that finds out the health at this moment.
    probing: Option<Instant>,
}

#[derive(Default, Clone)]
enum Health {
    #[default]
    Unknown,
    Good,
    Bad {
        result: ConditionResult,
        since: Instant,
        retry_at: Instant,
    },
}

/// Why an object cannot use a server now.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The server failed when this object tried it.
    Failed(ConditionResult),
    /// The server failed when another object tried it.
    Failing(ConditionResult),
    /// Others use the server, or it has not responded yet. This says nothing about the database of the object.
    Waiting(ConditionResult),
}

impl From<Refusal> for ConditionResult {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Failed(result) | Refusal::Failing(result) | Refusal::Waiting(result) => result,
        }
    }
}

/// The use of a server, until this is dropped.
pub(crate) struct Permit<'a> {
    access: &'a Access,
    permit: Option<SemaphorePermit<'a>>,
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        drop(self.permit.take());
        self.access.wake();
    }
}

impl Access {
    fn new(limit: usize, queue: Queue) -> Self {
        Self { permits: Semaphore::new(limit), waiting: Mutex::default(), queue, state: watch::Sender::default() }
    }

    /// Lets `object` use the server if it responds and not too many others use it. Otherwise the object does not wait
    /// here, where it would hold up objects of other servers: it gets another turn once there is a permit.
    pub(crate) async fn enter(self: &Arc<Self>, server: &Server, object: &str) -> Result<Permit<'_>, Refusal> {
        self.check_health(server, PATIENCE).await?;
        // While this is locked, no permit is returned without waking the object.
        let mut waiting = self.waiting();
        let Ok(permit) = self.permits.try_acquire() else {
            if !waiting.iter().any(|other| other == object) {
                waiting.push_back(object.to_owned());
            }
            return Err(Refusal::Waiting(ConditionResult::pending(
                BUSY,
                format!("waiting for other objects that use the database server {server}"),
            )));
        };
        waiting.retain(|other| other != object);
        Ok(Permit { access: self, permit: Some(permit) })
    }

    /// Waits until the server can be used, for as long as it takes: the caller sets the limit. Fails if the server does.
    pub(crate) async fn wait(self: &Arc<Self>, server: &Server) -> Result<Permit<'_>, Refusal> {
        self.check_health(server, MAX_PROBE).await?;
        // The semaphore is never closed.
        Ok(Permit { access: self, permit: self.permits.acquire().await.ok() })
    }

    /// Queues the objects that have waited the longest, one for each free permit. If another object takes the permit
    /// first, the object waits again. If it no longer needs the permit, the next one to be returned makes up for that.
    fn wake(&self) {
        let mut waiting = self.waiting();
        let free = self.permits.available_permits().min(waiting.len());
        for object in waiting.drain(..free) {
            self.queue.add(&object);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the result of a probe until `patience` after its start, so that objects that come later wait less.
    async fn check_health(self: &Arc<Self>, server: &Server, patience: Duration) -> Result<(), Refusal> {
        let mut state = self.state.subscribe();
        let started = self.start_probe(server);
        let failure = if started { Refusal::Failed } else { Refusal::Failing };
        let (refusal, deadline) = {
            let state = state.borrow_and_update();
            let refusal = match &state.health {
                Health::Good => return Ok(()),
                // Only the reconcile that tries again waits for the result.
                Health::Bad { result, .. } if !started => return Err(failure(result.clone())),
                Health::Bad { result, .. } => failure(result.clone()),
                Health::Unknown => {
                    let message = format!("the database server {server} has not responded yet");
                    Refusal::Waiting(ConditionResult::pending("ServerUnreachable", message))
                }
            };
            (refusal, state.probing.unwrap_or_else(Instant::now) + patience)
        };
        match time::timeout_at(deadline, state.wait_for(|state| state.probing.is_none())).await {
            Ok(Ok(state)) => match &state.health {
                Health::Bad { result, .. } => Err(failure(result.clone())),
                _ => Ok(()),
            },
            _ => Err(refusal),
        }
    }

    /// Starts a probe in the background if the health is not known or may have changed. Returns whether it did.
    fn start_probe(self: &Arc<Self>, server: &Server) -> bool {
        let started = self.state.send_if_modified(|state| {
            let is_due = match &state.health {
                Health::Good => false,
                Health::Unknown => true,
                Health::Bad { retry_at, .. } => Instant::now() >= *retry_at,
            };
            let start = is_due && state.probing.is_none();
            if start {
                state.probing = Some(Instant::now());
            }
            start
        });
        if started {
            let (access, server) = (self.clone(), server.clone());
            tokio::spawn(async move {
                let result = server.probe().await;
                access.state.send_modify(|state| {
                    state.probing = None;
                    match result {
                        Ok(()) => state.health = Health::Good,
                        Err(error) => state.health.fail(error),
                    }
                });
            });
        }
        started
    }

    /// Remembers that the admin could not log in, or could not read the catalog in time.
    pub(crate) fn login_failed(&self, error: &Error) {
        if error.is_about_server() {
            self.state.send_modify(|state| state.health.fail(error.clone()));
        }
    }

    /// Takes note of an error after the login. That the admin cannot read the catalog in time is a failure of the
    /// server. A service can make its own database slow and lock its own role, so any other timeout only makes the next
    /// reconcile find out whether the server still responds.
    pub(crate) fn interrupted(&self, error: &Error) {
        match error {
            Error::Unresponsive { .. } => self.login_failed(error),
            error if error.is_about_server() || matches!(error, Error::Sql { .. }) => {
                self.state.send_modify(|state| {
                    if matches!(state.health, Health::Good) {
                        state.health = Health::Unknown;
                    }
                });
            }
            _ => {}
        }
    }
}

impl Health {
    fn fail(&mut self, error: Error) {
        let now = Instant::now();
        let since = match self {
            Self::Bad { since, .. } => *since,
            Self::Unknown | Self::Good => now,
        };
        let retry_at = now + (now.duration_since(since) / DIVISOR).clamp(MIN_RETRY, MAX_RETRY);
        *self = Self::Bad { result: error.into(), since, retry_at };
    }
}
