//! Which objects wait for a look, and which are being looked at.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A look has a limit of time on each of its steps: one that takes so long will never end.
const STUCK: Duration = Duration::from_mins(3);

/// Keeps count, for the metrics and the liveness probe.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    waiting: HashSet<String>,
    looks: HashMap<String, Instant>,
}

impl Queue {
    /// Something changed about an object.
    pub(crate) fn triggered(&self, object: &str) {
        self.state().waiting.insert(object.to_owned());
    }

    /// It is being looked at, until the result is dropped.
    pub(crate) fn begin(&self, object: &str) -> Look {
        let mut state = self.state();
        state.waiting.remove(object);
        state.looks.insert(object.to_owned(), Instant::now());
        Look { queue: self.clone(), object: object.to_owned() }
    }

    /// It is gone.
    pub(crate) fn forget(&self, object: &str) {
        self.state().waiting.remove(object);
    }

    /// How many objects wait.
    pub(crate) fn depth(&self) -> usize {
        self.state().waiting.len()
    }

    /// Whether every look goes on.
    pub(crate) fn is_alive(&self) -> Result<(), Arc<str>> {
        match self.state().looks.iter().find(|(_, since)| since.elapsed() > STUCK) {
            Some((object, since)) => {
                Err(format!("the look at {object} has not ended for {} s", since.elapsed().as_secs()).into())
            }
            None => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at an object.
pub(crate) struct Look {
    queue: Queue,
    object: String,
}

impl Drop for Look {
    fn drop(&mut self) {
        self.queue.state().looks.remove(&self.object);
    }
}
