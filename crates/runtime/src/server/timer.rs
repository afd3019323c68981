//! The clock of an HTTP/1 connection, for hyper, which makes and drops a timer for each request.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};
use tokio::time;

use crate::timer::ReusableTimer;

/// Timers that are all one [`ReusableTimer`]: of a connection, only one is waited for at a time.
pub(super) struct ConnectionTimer(Arc<Mutex<ReusableTimer>>);

impl ConnectionTimer {
    /// That of a connection whose first request may take so long to come.
    pub(super) fn new(limit: Duration) -> Self {
        Self(Arc::new(Mutex::new(ReusableTimer::new(time::Instant::now() + limit))))
    }
}

impl Timer for ConnectionTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        Box::pin(Until { timer: self.0.clone(), at: deadline.into() })
    }

    fn now(&self) -> Instant {
        time::Instant::now().into_std()
    }
}

struct Until {
    timer: Arc<Mutex<ReusableTimer>>,
    at: time::Instant,
}

impl Future for Until {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.timer.lock().unwrap_or_else(PoisonError::into_inner).poll(cx, self.at)
    }
}

impl Sleep for Until {}
