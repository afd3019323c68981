//! Group work: requests that arrive while a batch is in flight share the next one. There is no artificial delay; under
//! light load a batch is a single request.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};

/// Answers a batch of requests at once.
pub trait Handler: Send + 'static {
    /// One request.
    type Request: Send + 'static;
    /// Its answer.
    type Answer: Send + 'static;

    /// Answers the requests, which are in order of arrival: one answer each, in the same order.
    fn handle(&mut self, batch: Vec<Self::Request>) -> impl Future<Output = Vec<Self::Answer>> + Send;
}

/// Why a request was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Too many requests wait already; nothing was done.
    #[error("too many requests are waiting")]
    Overloaded,
    /// The batch's handler failed without an answer.
    #[error("the batch ended without an answer")]
    Lost,
}

type Waiting<H> = (<H as Handler>::Request, oneshot::Sender<<H as Handler>::Answer>);

/// Hands requests to a [`Handler`], batch by batch.
pub struct Batcher<H: Handler> {
    queue: mpsc::Sender<Waiting<H>>,
}

impl<H: Handler> Batcher<H> {
    /// Starts the task that owns the handler. At most `capacity` requests wait, and a batch has at most `largest`.
    pub fn spawn(mut handler: H, capacity: usize, largest: usize) -> Self {
        let (queue, mut arrivals) = mpsc::channel::<Waiting<H>>(capacity);
        tokio::spawn(async move {
            let mut waiting = Vec::with_capacity(largest);
            while arrivals.recv_many(&mut waiting, largest).await > 0 {
                // Nothing was begun for a client that went away meanwhile.
                let live = waiting.drain(..).filter(|(_, answer)| !answer.is_closed());
                let (batch, answers): (Vec<_>, Vec<_>) = live.unzip();
                if batch.is_empty() {
                    continue;
                }
                // A panic was reported by its hook; its requests see that no answer comes, and the task goes on.
                if let Ok(results) = AssertUnwindSafe(handler.handle(batch)).catch_unwind().await {
                    for (answer, result) in answers.into_iter().zip(results) {
                        let _ = answer.send(result);
                    }
                }
            }
        });
        Self { queue }
    }

    /// Queues a request and waits for its answer.
    ///
    /// # Errors
    /// [`Unanswered::Overloaded`] at once when the queue is full.
    pub async fn ask(&self, request: H::Request) -> Result<H::Answer, Unanswered> {
        let (answer, result) = oneshot::channel();
        self.queue.try_send((request, answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Unanswered::Overloaded,
            mpsc::error::TrySendError::Closed(_) => Unanswered::Lost,
        })?;
        result.await.map_err(|_| Unanswered::Lost)
    }
}

impl From<Unanswered> for crate::Problem {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Overloaded => Self::unavailable("too many requests are waiting; try again in a moment"),
            Unanswered::Lost => Self::internal(unanswered),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    /// Answers each number with its batch's size once it is let through.
    struct Sizes(Arc<Semaphore>);

    impl Handler for Sizes {
        type Request = u32;
        type Answer = (u32, usize);

        async fn handle(&mut self, batch: Vec<u32>) -> Vec<(u32, usize)> {
            self.0.acquire().await.expect("open").forget();
            assert!(!batch.contains(&13), "a request that makes the handler panic");
            let size = batch.len();
            batch.into_iter().map(|number| (number, size)).collect()
        }
    }

    fn start(capacity: usize) -> (Arc<Semaphore>, Arc<Batcher<Sizes>>) {
        let gate = Arc::new(Semaphore::new(0));
        (gate.clone(), Arc::new(Batcher::spawn(Sizes(gate), capacity, 64)))
    }

    #[tokio::test]
    async fn requests_that_arrive_meanwhile_share_the_next_batch() {
        let (gate, batcher) = start(64);
        let first = batcher.ask(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await; // the batch of one is in flight
        let rest = futures_util::future::join_all((1..=5).map(|number| batcher.ask(number)));
        tokio::pin!(rest);
        assert!(rest.as_mut().now_or_never().is_none());
        gate.add_permits(2);
        assert_eq!(first.await, Ok((0, 1)));
        assert_eq!(rest.await, (1..=5).map(|number| Ok((number, 5))).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_full_queue_refuses_at_once() {
        let (_gate, batcher) = start(1);
        let first = batcher.ask(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        assert_eq!(batcher.ask(1).await, Err(Unanswered::Overloaded));
    }

    #[tokio::test]
    async fn a_panic_loses_its_batch_only() {
        let (gate, batcher) = start(64);
        gate.add_permits(2);
        assert_eq!(batcher.ask(13).await, Err(Unanswered::Lost));
        assert_eq!(batcher.ask(1).await, Ok((1, 1)));
    }
}
