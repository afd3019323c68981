//! Standard output, which may be a pipe that nobody reads. That must not stop the process.

use std::{
    io::{self, Write},
    os::fd::AsFd,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};

/// How long a line of the log waits for standard output before it is dropped.
const LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a line checks whether another writer has finished.
const LOCK_INTERVAL: Duration = Duration::from_millis(1);

/// Held while something is written, so that lines do not mix. Rust's own lock cannot be taken with a timeout.
static LOCK: Mutex<()> = Mutex::new(());

/// Whether the last line was dropped. The next ones then do not wait.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Writes lines, and drops them if standard output accepts nothing for a second. For threads with other work.
pub struct LossyStdout;

impl Write for LossyStdout {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let timeout = if STUCK.load(Ordering::Relaxed) { Duration::ZERO } else { LINE_TIMEOUT };
        let deadline = Instant::now() + timeout;
        let lock = lock_until(deadline);
        let is_ready = lock.is_some() && is_writable(deadline.saturating_duration_since(Instant::now()));
        STUCK.store(!is_ready, Ordering::Relaxed);
        if is_ready { write(line).map(|()| line.len()) } else { Ok(line.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines, and waits for as long as it takes. For a thread that does nothing else.
pub struct BlockingStdout;

impl Write for BlockingStdout {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        // Waits without the lock, so that it is not held while nobody reads.
        while !is_writable(LINE_TIMEOUT) {}
        let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        write(lines).map(|()| lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn lock_until(deadline: Instant) -> Option<MutexGuard<'static, ()>> {
    loop {
        match LOCK.try_lock() {
            Ok(lock) => return Some(lock),
            Err(TryLockError::Poisoned(lock)) => return Some(lock.into_inner()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_INTERVAL),
            Err(TryLockError::WouldBlock) => return None,
        }
    }
}

/// Whether standard output accepts data within this time. A pipe then accepts at least 4 KiB (`PIPE_BUF`).
fn is_writable(timeout: Duration) -> bool {
    let stdout = io::stdout();
    let mut watched = [PollFd::new(stdout.as_fd(), PollFlags::POLLOUT)];
    let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
    loop {
        match poll(&mut watched, timeout) {
            Ok(0) => return false,
            Err(Errno::EINTR) => {}
            // If it cannot be watched, or its reader is gone, writing reports the error.
            _ => return true,
        }
    }
}

fn write(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}
