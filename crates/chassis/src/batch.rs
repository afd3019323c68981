//! Group work: requests that arrive while a batch is in flight share the next one, or join it where its handler lets
//! them. There is no artificial delay; under light load a batch is a single request.

use std::{future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot},
    task,
};

/// As many that wait are a batch, without a look at who is about to ask: a larger one costs each of them hardly less.
const ENOUGH: usize = 16;

/// Answers a batch of requests at once.
pub trait Handler: Send + 'static {
    /// One request.
    type Request: Send + 'static;
    /// Its answer.
    type Answer: Send + 'static;

    /// Answers the requests, which are in order of arrival: one answer each, in the same order.
    fn handle(&mut self, batch: Vec<Self::Request>) -> impl Future<Output = Vec<Self::Answer>> + Send;
}

/// Answers a batch at once, and may let requests that arrive meanwhile join it. Every [`Handler`] is one that does not.
pub trait OpenHandler: Sized + Send + 'static {
    /// One request.
    type Request: Send + 'static;
    /// Its answer.
    type Answer: Send + 'static;

    /// Answers the requests, which are in order of arrival, and then those that joined: one answer each, in the same
    /// order.
    fn handle(
        &mut self,
        batch: Vec<Self::Request>,
        arrivals: &mut Arrivals<'_, Self>,
    ) -> impl Future<Output = Vec<Self::Answer>> + Send;
}

impl<H: Handler> OpenHandler for H {
    type Request = H::Request;
    type Answer = H::Answer;

    fn handle(
        &mut self,
        batch: Vec<H::Request>,
        _: &mut Arrivals<'_, Self>,
    ) -> impl Future<Output = Vec<H::Answer>> + Send {
        Handler::handle(self, batch)
    }
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

type Waiting<H> = (<H as OpenHandler>::Request, oneshot::Sender<<H as OpenHandler>::Answer>);

/// The requests that arrive while a batch is in flight.
pub struct Arrivals<'a, H: OpenHandler> {
    queue: &'a mut Queue<H>,
    /// Where the answers go: those of the batch, then those of what joined it.
    answers: Vec<oneshot::Sender<H::Answer>>,
}

impl<H: OpenHandler> Arrivals<'_, H> {
    /// Lets the next request join the batch, if there is one and `joins` agrees. One that may not stays the next: none
    /// overtakes it.
    pub fn next_if(&mut self, joins: impl FnOnce(&H::Request) -> bool) -> Option<H::Request> {
        let (request, answer) = self.queue.try_next()?;
        if joins(&request) {
            self.answers.push(answer);
            return Some(request);
        }
        self.queue.next = Some((request, answer));
        None
    }
}

/// What waits, in order of arrival.
struct Queue<H: OpenHandler> {
    /// One that was looked at and left.
    next: Option<Waiting<H>>,
    arrivals: mpsc::Receiver<Waiting<H>>,
}

impl<H: OpenHandler> Queue<H> {
    /// Waits for a request, and takes all that wait with it, up to `largest`; none at the end of the queue.
    async fn next_batch(&mut self, largest: usize) -> Option<(Vec<H::Request>, Vec<oneshot::Sender<H::Answer>>)> {
        let first = match self.next.take() {
            Some(first) => first,
            None => self.arrivals.recv().await?,
        };
        if self.arrivals.len() < ENOUGH {
            // What is about to ask is let ahead: the larger a batch, the less each of its requests costs.
            task::yield_now().await;
        }
        let rest = std::iter::from_fn(|| self.arrivals.try_recv().ok());
        let waiting = std::iter::once(first).chain(rest.take(largest - 1));
        // Nothing was begun for a client that went away meanwhile.
        Some(waiting.filter(|(_, answer)| !answer.is_closed()).unzip())
    }

    fn try_next(&mut self) -> Option<Waiting<H>> {
        let waiting = std::iter::from_fn(|| self.next.take().or_else(|| self.arrivals.try_recv().ok()));
        waiting.into_iter().find(|(_, answer)| !answer.is_closed())
    }
}

/// Hands requests to an [`OpenHandler`], batch by batch.
pub struct Batcher<H: OpenHandler> {
    queue: mpsc::Sender<Waiting<H>>,
}

impl<H: OpenHandler> Batcher<H> {
    /// Starts the task that owns the handler, on this runtime. At most `capacity` requests wait, and a batch has at most
    /// `largest` before others join it.
    pub fn spawn(on: &Handle, mut handler: H, capacity: usize, largest: usize) -> Self {
        let (queue, arrivals) = mpsc::channel::<Waiting<H>>(capacity);
        on.spawn(async move {
            let mut queue = Queue { next: None, arrivals };
            while let Some((batch, answers)) = queue.next_batch(largest).await {
                if batch.is_empty() {
                    continue;
                }
                let mut arrivals = Arrivals { queue: &mut queue, answers };
                // A panic was reported by its hook; its requests see that no answer comes, and the task goes on.
                let results = AssertUnwindSafe(handler.handle(batch, &mut arrivals)).catch_unwind().await;
                for (answer, result) in arrivals.answers.into_iter().zip(results.unwrap_or_default()) {
                    let _ = answer.send(result);
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
        (gate.clone(), Arc::new(Batcher::spawn(&Handle::current(), Sizes(gate), capacity, 64)))
    }

    /// Waits until what was asked is taken, and the tasks that were let ahead have run.
    async fn begun<H: OpenHandler>(batcher: &Batcher<H>) {
        while batcher.queue.capacity() < batcher.queue.max_capacity() {
            task::yield_now().await;
        }
        task::yield_now().await;
        task::yield_now().await;
    }

    #[tokio::test]
    async fn requests_that_arrive_meanwhile_share_the_next_batch() {
        let (gate, batcher) = start(64);
        let first = batcher.ask(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        begun(&batcher).await;
        let rest = futures_util::future::join_all((1..=5).map(|number| batcher.ask(number)));
        tokio::pin!(rest);
        assert!(rest.as_mut().now_or_never().is_none());
        gate.add_permits(2);
        assert_eq!(first.await, Ok((0, 1)));
        assert_eq!(rest.await, (1..=5).map(|number| Ok((number, 5))).collect::<Vec<_>>());
    }

    /// Answers each number with its batch's size once it is let through; even numbers may join it.
    struct Even(Sizes);

    impl OpenHandler for Even {
        type Request = u32;
        type Answer = (u32, usize);

        async fn handle(&mut self, mut batch: Vec<u32>, arrivals: &mut Arrivals<'_, Self>) -> Vec<(u32, usize)> {
            self.0.0.acquire().await.expect("open").forget();
            while let Some(number) = arrivals.next_if(|number| number % 2 == 0) {
                batch.push(number);
            }
            let size = batch.len();
            batch.into_iter().map(|number| (number, size)).collect()
        }
    }

    #[tokio::test]
    async fn nothing_is_begun_for_a_client_that_went_away() {
        let (gate, batcher) = start(64);
        let first = batcher.ask(0);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        begun(&batcher).await;
        assert!(batcher.ask(1).now_or_never().is_none(), "asked, and gone");
        let last = batcher.ask(2);
        tokio::pin!(last);
        assert!(last.as_mut().now_or_never().is_none());
        gate.add_permits(2);
        assert_eq!(first.await, Ok((0, 1)));
        assert_eq!(last.await, Ok((2, 1)));
    }

    #[tokio::test]
    async fn requests_join_in_order_until_one_may_not() {
        let gate = Arc::new(Semaphore::new(0));
        let batcher = Batcher::spawn(&Handle::current(), Even(Sizes(gate.clone())), 64, 64);
        let all = futures_util::future::join_all([0, 2, 4, 5, 6, 7].map(|number| batcher.ask(number)));
        let first = batcher.ask(1);
        tokio::pin!(first, all);
        assert!(first.as_mut().now_or_never().is_none());
        begun(&batcher).await;
        assert!(all.as_mut().now_or_never().is_none());
        gate.add_permits(2);
        assert_eq!(first.await, Ok((1, 4)));
        let expected = [(0, 4), (2, 4), (4, 4), (5, 3), (6, 3), (7, 3)];
        assert_eq!(all.await, expected.map(Ok));
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
