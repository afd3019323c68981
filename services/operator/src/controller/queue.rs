//! The work queue: which objects are to be reconciled and when, and which are being reconciled.
//!
//! Objects get their turn in the order in which they became due, however many wait. An object is in the queue at most
//! once, and is never reconciled twice at the same time: if it becomes due meanwhile, it waits until that has ended.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{self, Instant},
};

/// Every step of a reconcile has a timeout, so a reconcile that takes this long will never end.
const STUCK_AFTER: Duration = Duration::from_mins(3);

/// When an object is reconciled again although nothing changes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Action(Option<Duration>);

impl Action {
    /// After this time.
    pub(crate) fn requeue(after: Duration) -> Self {
        Self(Some(after))
    }

    /// Only once something changes.
    pub(crate) fn await_change() -> Self {
        Self(None)
    }
}

/// The queued and the running reconciles.
#[derive(Clone, Default)]
pub(crate) struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes [`Queue::next`].
    added: Notify,
}

#[derive(Default)]
struct State {
    /// The objects by the time when they are due.
    order: BTreeSet<(Instant, Arc<str>)>,
    /// When each of them is due.
    due: HashMap<Arc<str>, Instant>,
    active: HashMap<Arc<str>, Active>,
    /// When the last reconcile started.
    started: Option<Instant>,
}

struct Active {
    since: Instant,
    /// When the object became due meanwhile.
    due: Option<Instant>,
}

impl State {
    /// Makes an object due at a time, or earlier if it is due earlier already.
    fn add(&mut self, object: &Arc<str>, at: Instant) {
        if let Some(active) = self.active.get_mut(object) {
            active.due = Some(active.due.map_or(at, |due| due.min(at)));
            return;
        }
        match self.due.get(object) {
            Some(due) if *due <= at => return,
            Some(due) => {
                self.order.remove(&(*due, object.clone()));
            }
            None => {}
        }
        self.due.insert(object.clone(), at);
        self.order.insert((at, object.clone()));
    }
}

impl Queue {
    /// Adds an object that changed.
    pub(crate) fn add(&self, object: &str) {
        self.state().add(&object.into(), Instant::now());
        self.0.added.notify_one();
    }

    /// Waits until an object is due and takes it. There is one caller.
    pub(crate) async fn next(&self) -> Turn {
        loop {
            let first = {
                let (mut state, now) = (self.state(), Instant::now());
                let first = state.order.first().map(|(at, _)| *at);
                if first.is_some_and(|at| at <= now)
                    && let Some((_, object)) = state.order.pop_first()
                {
                    state.due.remove(&object);
                    state.active.insert(object.clone(), Active { since: now, due: None });
                    state.started = Some(now);
                    return Turn { queue: self.clone(), object, next: Action::await_change() };
                }
                first
            };
            let added = self.0.added.notified();
            match first {
                Some(at) => {
                    let _ = time::timeout_at(at, added).await;
                }
                None => added.await,
            }
        }
    }

    /// Removes a deleted object.
    pub(crate) fn forget(&self, object: &str) {
        let mut state = self.state();
        if let Some((object, due)) = state.due.remove_entry(object) {
            state.order.remove(&(due, object));
        }
        if let Some(active) = state.active.get_mut(object) {
            active.due = None;
        }
    }

    /// The number of objects that wait, and for how long the first of them has been waiting.
    pub(crate) fn waiting(&self) -> (usize, Duration) {
        let (state, now) = (self.state(), Instant::now());
        let again = state.active.values().filter(|active| active.due.is_some_and(|due| due <= now)).count();
        let first = state.order.first().map_or(now, |(at, _)| *at);
        let queued = state.order.iter().take_while(|(at, _)| *at <= now).count();
        (queued + again, now.saturating_duration_since(first))
    }

    /// Returns an error if a reconcile is stuck, or if objects wait although nothing is started.
    pub(crate) fn check(&self) -> Result<(), Arc<str>> {
        let (state, now) = (self.state(), Instant::now());
        let age = |since: Instant| now.saturating_duration_since(since);
        if let Some((object, active)) = state.active.iter().find(|(_, active)| age(active.since) > STUCK_AFTER) {
            return Err(format!("reconciling {object} has been running for {} s", age(active.since).as_secs()).into());
        }
        match state.order.first() {
            Some((at, object)) if age((*at).max(state.started.unwrap_or(*at))) > STUCK_AFTER => {
                let waited = age(*at).as_secs();
                Err(format!("{object} has been waiting for {waited} s, and no reconcile is started").into())
            }
            _ => Ok(()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An object that is being reconciled, until this is dropped.
pub(crate) struct Turn {
    queue: Queue,
    object: Arc<str>,
    next: Action,
}

impl Turn {
    pub(crate) fn object(&self) -> &str {
        &self.object
    }

    /// Ends the turn and schedules the next one.
    pub(crate) fn end(mut self, next: Action) {
        self.next = next;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.queue.state();
            let due = state.active.remove(&self.object).and_then(|active| active.due);
            let next = self.next.0.map(|after| Instant::now() + after);
            if let Some(at) = due.into_iter().chain(next).min() {
                state.add(&self.object, at);
            }
        }
        self.queue.0.added.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Longer than anything in the queue takes to become due.
    const LONG: Duration = Duration::from_hours(1);

    async fn next(queue: &Queue) -> Turn {
        time::timeout(LONG, queue.next()).await.expect("an object is due")
    }

    #[tokio::test(start_paused = true)]
    async fn objects_are_taken_in_the_order_they_became_due() {
        let queue = Queue::default();
        let names: Vec<String> = (0..100).map(|n| format!("object-{}", n * 37 % 100)).collect();
        for name in &names {
            queue.add(name);
            time::advance(Duration::from_millis(1)).await;
        }
        for name in &names {
            queue.add(name);
        }
        assert_eq!(queue.waiting(), (100, Duration::from_millis(100)));
        for name in &names {
            assert_eq!(next(&queue).await.object(), name);
        }
        assert_eq!(queue.waiting().0, 0, "each object is in the queue once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_object_does_not_starve_the_others() {
        let queue = Queue::default();
        queue.add("busy");
        queue.add("quiet");
        for turn in ["busy", "quiet", "busy"] {
            let taken = next(&queue).await;
            assert_eq!(taken.object(), turn);
            time::advance(Duration::from_millis(1)).await;
            queue.add("busy");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_object_that_changes_during_its_turn_is_due_after_it() {
        let queue = Queue::default();
        queue.add("orders");
        let turn = next(&queue).await;
        queue.add("orders");
        assert!(time::timeout(LONG, queue.next()).await.is_err(), "it is being reconciled");
        turn.end(Action::await_change());
        next(&queue).await.end(Action::await_change());
        assert!(time::timeout(LONG, queue.next()).await.is_err(), "nothing is due");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_does_not_wait_for_the_next_scheduled_turn() {
        let queue = Queue::default();
        queue.add("orders");
        next(&queue).await.end(Action::requeue(Duration::from_mins(5)));
        let begun = Instant::now();
        next(&queue).await.end(Action::requeue(Duration::from_mins(5)));
        let waited = begun.elapsed();
        assert!(waited >= Duration::from_mins(5) && waited < Duration::from_mins(6), "{waited:?}");

        let waiting = queue.clone();
        let waiting = tokio::spawn(async move { waiting.next().await.object().to_owned() });
        tokio::task::yield_now().await;
        queue.add("orders");
        assert_eq!(waiting.await.expect("no panic"), "orders");
        assert_eq!(begun.elapsed(), waited, "it is due at once");
    }

    #[tokio::test(start_paused = true)]
    async fn a_forgotten_object_gets_no_turn() {
        let queue = Queue::default();
        queue.add("orders");
        let turn = next(&queue).await;
        queue.add("orders");
        queue.forget("orders");
        drop(turn);
        queue.add("users");
        queue.forget("users");
        assert!(time::timeout(LONG, queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn liveness_fails_if_a_reconcile_or_the_queue_is_stuck() {
        let queue = Queue::default();
        queue.add("orders");
        assert_eq!(queue.check(), Ok(()));
        time::advance(STUCK_AFTER + Duration::from_secs(1)).await;
        assert_eq!(queue.check(), Err("orders has been waiting for 181 s, and no reconcile is started".into()));

        queue.add("users");
        let turn = next(&queue).await;
        assert_eq!(queue.check(), Ok(()), "users waits, but reconciles are started");
        time::advance(STUCK_AFTER + Duration::from_secs(1)).await;
        assert_eq!(queue.check(), Err("reconciling orders has been running for 181 s".into()));
        drop(turn);
        drop(next(&queue).await);
        time::advance(STUCK_AFTER * 2).await;
        assert_eq!(queue.check(), Ok(()), "nothing is due");
    }
}
