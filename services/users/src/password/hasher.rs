//! Hashing on threads of its own: one hash takes some 20 ms of a core, so the threads that serve requests must not do it.

use std::{
    sync::{Arc, Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use argon2::Block;
use prometheus::{IntGauge, Registry};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Password,
    phc::{self, StoredHash},
    threads,
};

/// The maximum number of passwords that wait for a thread.
const MAX_WAITING: usize = 64;

/// How long a password may wait for a thread.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// How much the threads give way to others: a flood of logins must not slow down other requests.
const NICENESS: i32 = 10;

/// There are too many passwords to hash.
#[derive(Debug, thiserror::Error)]
#[error("too many passwords are being checked; try again in a moment")]
pub(crate) struct Busy;

/// Whether a password is right.
pub(crate) enum Verdict {
    Wrong,
    Right {
        /// A new hash, if the stored one was made with lower parameters than today's.
        rehashed: Option<String>,
    },
}

/// Hashes passwords, a limited number at once.
pub(crate) struct Hasher {
    jobs: mpsc::Sender<Job>,
    /// One for each password that waits or is being hashed.
    places: Arc<Semaphore>,
    waiting: IntGauge,
}

/// A place among the passwords that wait.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

struct Job {
    password: Password,
    task: Task,
    since: Instant,
    /// Freed once the job is done or given up.
    _place: Place,
}

enum Task {
    Hash(oneshot::Sender<Option<String>>),
    /// `None` if there is no hash to compare with: that takes as long.
    Verify(Box<Option<StoredHash>>, oneshot::Sender<Verdict>),
}

impl Hasher {
    /// Starts the threads. They exit when the hasher is dropped.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started, or the metric is already registered.
    pub(crate) fn start(registry: &Registry) -> anyhow::Result<Self> {
        let waiting = IntGauge::new("auth_password_queue", "Passwords that wait to be hashed.")?;
        registry.register(Box::new(waiting.clone()))?;
        let count = threads::count();
        let (jobs, queue) = mpsc::channel();
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..count {
            let (queue, waiting) = (queue.clone(), waiting.clone());
            thread::Builder::new().name(format!("password-{number}")).spawn(move || work(&queue, &waiting))?;
        }
        Ok(Self { jobs, places: Arc::new(Semaphore::new(MAX_WAITING + count)), waiting })
    }

    /// Takes a place in the queue. Do it before any other work for the password.
    ///
    /// # Errors
    /// Returns an error if too many wait.
    pub(crate) fn enter(&self) -> Result<Place, Busy> {
        let permit = self.places.clone().try_acquire_owned().map_err(|_| Busy)?;
        Ok(Place { _permit: permit })
    }

    /// Hashes a password. Returns a PHC string.
    ///
    /// # Errors
    /// Returns an error if no thread was free in time.
    pub(crate) async fn hash(&self, place: Place, password: Password) -> Result<String, Busy> {
        let (reply, hashed) = oneshot::channel();
        self.submit(place, password, Task::Hash(reply))?;
        hashed.await.ok().flatten().ok_or(Busy)
    }

    /// Checks a password against a stored hash. Without one, or if the stored one is unusable, it takes as long, and is
    /// wrong.
    ///
    /// # Errors
    /// Returns an error if no thread was free in time.
    pub(crate) async fn verify(&self, place: Place, password: Password, phc: Option<&str>) -> Result<Verdict, Busy> {
        let stored = phc.and_then(|phc| {
            StoredHash::parse(phc).inspect_err(|error| tracing::error!(%error, "a password cannot be checked")).ok()
        });
        let (reply, verdict) = oneshot::channel();
        self.submit(place, password, Task::Verify(Box::new(stored), reply))?;
        verdict.await.map_err(|_| Busy)
    }

    fn submit(&self, place: Place, password: Password, task: Task) -> Result<(), Busy> {
        self.waiting.inc();
        let job = Job { password, task, since: Instant::now(), _place: place };
        self.jobs.send(job).map_err(|_| {
            self.waiting.dec();
            Busy
        })
    }
}

/// The loop of a thread. It keeps the memory of its hashes: allocating it anew would take a tenth of the time.
fn work(queue: &Mutex<mpsc::Receiver<Job>>, waiting: &IntGauge) {
    // Denied only by unusual sandboxes, and hashing works without it.
    let _ = rustix::process::nice(NICENESS);
    let mut memory = Vec::new();
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        waiting.dec();
        if memory.is_empty() {
            memory = phc::memory();
        }
        job.run(&mut memory);
    }
}

impl Job {
    /// Does the job, unless its caller has gone or it has waited too long: then the reply is dropped.
    fn run(self, memory: &mut [Block]) {
        if self.since.elapsed() > MAX_WAIT {
            return;
        }
        match self.task {
            Task::Hash(reply) if !reply.is_closed() => {
                let _ = reply.send(phc::hash(&self.password, memory));
            }
            Task::Verify(stored, reply) if !reply.is_closed() => {
                let _ = reply.send(verify(&self.password, (*stored).as_ref(), memory));
            }
            Task::Hash(_) | Task::Verify(..) => {}
        }
    }
}

fn verify(password: &Password, stored: Option<&StoredHash>, memory: &mut [Block]) -> Verdict {
    match stored {
        None => {
            // Takes as long as a check.
            let _ = phc::hash(password, memory);
            Verdict::Wrong
        }
        Some(stored) => {
            let is_right = stored.matches(password, memory);
            // Also if it is wrong: the check of an outdated hash takes less time than that of an unknown user.
            let rehashed = if stored.is_outdated() { phc::hash(password, memory) } else { None };
            if is_right { Verdict::Right { rehashed } } else { Verdict::Wrong }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(text: &str) -> Password {
        Password::new(text).expect("a password")
    }

    async fn is_right(hasher: &Hasher, text: &str, phc: Option<&str>) -> bool {
        let place = hasher.enter().expect("a place");
        matches!(hasher.verify(place, password(text), phc).await.expect("in time"), Verdict::Right { .. })
    }

    #[tokio::test]
    async fn a_hash_is_only_of_its_own_password() {
        let hasher = Hasher::start(&Registry::new()).expect("started");
        let phc = hasher.hash(hasher.enter().expect("a place"), password("a tall heron waits")).await.expect("a hash");
        assert!(is_right(&hasher, "a tall heron waits", Some(&phc)).await);
        assert!(!is_right(&hasher, "a small heron waits", Some(&phc)).await);
        assert!(!is_right(&hasher, "a tall heron waits", None).await);
        assert!(!is_right(&hasher, "a tall heron waits", Some("garbage")).await);
        assert_eq!(hasher.waiting.get(), 0);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_recovers() {
        let hasher = Hasher::start(&Registry::new()).expect("started");
        let places: Vec<_> = std::iter::from_fn(|| hasher.enter().ok()).collect();
        assert!(places.len() > MAX_WAITING, "{}", places.len());
        assert!(hasher.enter().is_err());
        drop(places);
        assert!(!is_right(&hasher, "a tall heron waits", None).await);
    }
}
