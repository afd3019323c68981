//! Standard output. It may be a pipe that nobody reads, which must not stop the process.

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

/// How long a line waits for standard output before it is dropped.
const LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a waiting writer checks whether the lock is free.
const LOCK_INTERVAL: Duration = Duration::from_millis(1);

/// How much is written at once, in bytes. A pipe that takes anything takes `PIPE_BUF` (4096 on Linux), and one byte may
/// be the end of a cut line.
const PIECE: usize = 4095;

/// Held for each line, so that lines do not mix. Rust's own lock cannot be taken with a timeout.
static LOCK: Mutex<()> = Mutex::new(());

/// Whether the last line was dropped. If so, the next one does not wait.
static STUCK: AtomicBool = AtomicBool::new(false);

/// Whether only the first part of the last line was written.
static CUT: AtomicBool = AtomicBool::new(false);

/// Writes lines. A line that cannot be written within a second is dropped, or cut if it is longer than 4 KiB. For
/// threads that have other work.
pub struct LossyStdout;

impl Write for LossyStdout {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let timeout = if STUCK.load(Ordering::Relaxed) { Duration::ZERO } else { LINE_TIMEOUT };
        let deadline = Instant::now() + timeout;
        let written = match lock_until(deadline) {
            Some(_lock) => write_until(&mut io::stdout(), line, deadline)?,
            None => 0,
        };
        STUCK.store(written < line.len(), Ordering::Relaxed);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes lines, and waits for as long as it takes. For a thread that does nothing else.
pub struct BlockingStdout;

impl Write for BlockingStdout {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        // Waits without the lock: whoever else has a line can see that nobody reads.
        while !is_writable(&io::stdout(), LINE_TIMEOUT) {}
        let _lock = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        // As many lines as certainly fit, or one that is longer.
        let fits = &lines[..lines.len().min(PIECE)];
        let end = fits.iter().rposition(|byte| *byte == b'\n');
        let end = end.or_else(|| lines.iter().position(|byte| *byte == b'\n')).map_or(lines.len(), |end| end + 1);
        write(&mut io::stdout(), &lines[..end]).map(|()| end)
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

/// Writes a line in pieces that do not block. Returns how much was written by the deadline.
fn write_until(sink: &mut (impl Write + AsFd), line: &[u8], deadline: Instant) -> io::Result<usize> {
    let mut written = 0;
    while written < line.len() {
        if !is_writable(sink, deadline.saturating_duration_since(Instant::now())) {
            CUT.fetch_or(written > 0, Ordering::Relaxed);
            break;
        }
        let end = line.len().min(written + PIECE);
        write(sink, &line[written..end])?;
        written = end;
    }
    Ok(written)
}

/// Whether the sink takes data within this time.
fn is_writable(sink: &impl AsFd, timeout: Duration) -> bool {
    let mut watched = [PollFd::new(sink.as_fd(), PollFlags::POLLOUT)];
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

fn write(sink: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    if CUT.swap(false, Ordering::Relaxed) {
        sink.write_all(b"\n")?;
    }
    sink.write_all(bytes)?;
    sink.flush()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn a_line_longer_than_the_room_in_a_pipe_does_not_block() {
        let (reader, mut pipe) = io::pipe().expect("a pipe");
        // As many pieces as fit: the last one leaves less room than the line needs.
        while is_writable(&pipe, Duration::ZERO) {
            pipe.write_all(&[b'x'; 4096]).expect("room for a page");
        }
        let (sender, written) = mpsc::channel();
        let (mut first, deadline) = (reader, Instant::now() + Duration::from_millis(100));
        io::Read::read_exact(&mut first, &mut [0; 4096]).expect("a page");
        thread::spawn(move || sender.send(write_until(&mut pipe, &[b'y'; 10_000], deadline)));
        let written = written.recv_timeout(Duration::from_secs(30)).expect("it does not block");
        assert_eq!(written.expect("no error"), PIECE);
        assert!(CUT.swap(false, Ordering::Relaxed));
        drop(first);
    }
}
