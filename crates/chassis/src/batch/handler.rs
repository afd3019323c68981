//! Handlers of batches, and the queue that they may take more requests from.

use tokio::{
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
    type Reply: Send + 'static;

    /// Answers the requests, which are in order of arrival: one answer each, in the same order.
    fn handle(&mut self, batch: Vec<Self::Request>) -> impl Future<Output = Vec<Self::Reply>> + Send;
}

/// Answers a batch at once, and may let requests that arrive meanwhile join it. Every [`Handler`] is one that does not.
pub trait OpenHandler: Sized + Send + 'static {
    /// One request.
    type Request: Send + 'static;
    /// Its answer.
    type Reply: Send + 'static;

    /// Answers the requests, which are in order of arrival, and then those that joined: one answer each, in the same
    /// order.
    fn handle(
        &mut self,
        batch: Vec<Self::Request>,
        arrivals: &mut Arrivals<'_, Self>,
    ) -> impl Future<Output = Vec<Self::Reply>> + Send;
}

impl<H: Handler> OpenHandler for H {
    type Request = H::Request;
    type Reply = H::Reply;

    fn handle(
        &mut self,
        batch: Vec<H::Request>,
        _: &mut Arrivals<'_, Self>,
    ) -> impl Future<Output = Vec<H::Reply>> + Send {
        Handler::handle(self, batch)
    }
}

/// A request, and where its reply goes.
pub(super) type Waiting<H> = (<H as OpenHandler>::Request, oneshot::Sender<<H as OpenHandler>::Reply>);

/// The requests that arrive while a batch is in flight.
pub struct Arrivals<'a, H: OpenHandler> {
    pub(super) queue: &'a mut Queue<H>,
    /// Where the answers go: those of the batch, then those of what joined it.
    pub(super) answers: Vec<oneshot::Sender<H::Reply>>,
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
pub(super) struct Queue<H: OpenHandler> {
    /// One that was looked at and left.
    pub(super) next: Option<Waiting<H>>,
    pub(super) arrivals: mpsc::Receiver<Waiting<H>>,
}

impl<H: OpenHandler> Queue<H> {
    /// Waits for a request, and takes all that wait with it, up to `largest`; none at the end of the queue.
    pub(super) async fn next_batch(
        &mut self,
        largest: usize,
    ) -> Option<(Vec<H::Request>, Vec<oneshot::Sender<H::Reply>>)> {
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
