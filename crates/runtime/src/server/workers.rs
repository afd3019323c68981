//! Threads that serve connections, each with its own runtime. A request's tasks wake on its own thread, and a
//! connection never moves between processors.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use tokio::{
    net::TcpStream,
    runtime::{Builder, Handle},
    sync::oneshot,
};
use tokio_util::task::TaskTracker;

/// The threads that serve connections. Without any (the default), the caller's runtime serves them. The threads stop,
/// with everything that runs on them, when the last clone is dropped.
#[derive(Clone, Default)]
pub struct Workers(Arc<[Worker]>);

struct Worker {
    handle: Handle,
    connections: Arc<AtomicUsize>,
    _end: oneshot::Sender<()>,
}

impl Workers {
    /// Starts this many threads.
    ///
    /// # Errors
    /// Returns an error if a thread cannot be started.
    pub fn start(count: usize) -> io::Result<Self> {
        let worker = |number| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let handle = runtime.handle().clone();
            let (end, ended) = oneshot::channel::<()>();
            thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                let _ = runtime.block_on(ended);
            })?;
            Ok(Worker { handle, connections: Arc::default(), _end: end })
        };
        (0..count).map(worker).collect::<io::Result<_>>().map(Self)
    }

    /// Returns the runtime of the first thread or, if there is none, the caller's.
    #[must_use]
    pub fn first(&self) -> Handle {
        self.0.first().map_or_else(Handle::current, |worker| worker.handle.clone())
    }

    /// Serves a connection on the thread with the fewest connections.
    pub(super) fn spawn<F: Future<Output = ()> + Send>(
        &self,
        connections: &TaskTracker,
        stream: TcpStream,
        serve: impl FnOnce(TcpStream, usize) -> F + Send + 'static,
    ) {
        let fewest = self.0.iter().enumerate().min_by_key(|(_, worker)| worker.connections.load(Ordering::Relaxed));
        let Some((number, worker)) = fewest else {
            connections.spawn(async move { serve(stream, 0).await });
            return;
        };
        let count = Count::enter(&worker.connections);
        // Detached, so that it can be registered with the other runtime.
        let stream = stream.into_std();
        let serve = async move {
            let _count = count;
            if let Ok(stream) = stream.and_then(TcpStream::from_std) {
                serve(stream, number).await;
            }
        };
        connections.spawn_on(serve, &worker.handle);
    }
}

/// Counts a connection until it is dropped.
struct Count(Arc<AtomicUsize>);

impl Count {
    fn enter(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(connections.clone())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
