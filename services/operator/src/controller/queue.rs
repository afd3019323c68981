//! The objects that wait for a reconcile and those being reconciled, for metrics and the liveness probe.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Every step of a reconcile has a timeout, so a reconcile that takes this long will never end.
const STUCK_AFTER: Duration = Duration::from_mins(3);

/// The queued and the running reconciles.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: HashSet<String>,
    active: HashMap<String, Instant>,
}

impl Queue {
    /// Adds an object that changed.
    pub(crate) fn add(&self, object: &str) {
        self.state().waiting.insert(object.to_owned());
    }

    /// Marks an object as being reconciled until the result is dropped.
    pub(crate) fn start(&self, object: &str) -> ActiveReconcile {
        let mut state = self.state();
        state.waiting.remove(object);
        state.active.insert(object.to_owned(), Instant::now());
        ActiveReconcile { queue: self.clone(), object: object.to_owned() }
    }

    /// Removes a deleted object.
    pub(crate) fn forget(&self, object: &str) {
        self.state().waiting.remove(object);
    }

    /// The number of objects that wait.
    pub(crate) fn depth(&self) -> usize {
        self.state().waiting.len()
    }

    /// Returns an error if a reconcile is stuck.
    pub(crate) fn check(&self) -> Result<(), Arc<str>> {
        match self.state().active.iter().find(|(_, since)| since.elapsed() > STUCK_AFTER) {
            Some((object, since)) => {
                Err(format!("the reconcile of {object} has been running for {} s", since.elapsed().as_secs()).into())
            }
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running reconcile.
pub(crate) struct ActiveReconcile {
    queue: Queue,
    object: String,
}

impl Drop for ActiveReconcile {
    fn drop(&mut self) {
        self.queue.state().active.remove(&self.object);
    }
}
