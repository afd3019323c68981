//! The access log: one line of JSON per request on standard output, between the lines of the application log.
//!
//! A request only appends its line to a buffer of its thread. A writer thread flushes the buffers several times a
//! second. If standard output cannot keep up, lines are dropped and counted: a log that nobody reads must not stop the
//! gateway.

mod line;

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

use prometheus::IntCounter;

use line::Clock;
pub(crate) use line::write_string;

/// How long lines are collected between two writes.
const PAUSE: Duration = Duration::from_millis(50);

/// The maximum size of a thread's buffer, in bytes.
const MAX_BUFFER: usize = 4 * 1024 * 1024;

/// The capacity that a buffer keeps after it has been written, in bytes.
const KEPT_CAPACITY: usize = 256 * 1024;

/// How long the process waits at exit for the remaining lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// Collects the lines.
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
}

/// The writer thread. Dropping it writes the remaining lines, so it must be dropped after everything that logs. If the
/// sink is stuck, it gives up after [`FLUSH_TIMEOUT`].
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

struct Shared {
    shards: Box<[Mutex<Shard>]>,
    ended: AtomicBool,
    dropped: IntCounter,
}

/// The lines of one thread.
#[derive(Default)]
struct Shard {
    lines: Vec<u8>,
    clock: Clock,
}

impl AccessLog {
    /// Starts a log for the given number of threads.
    ///
    /// # Errors
    /// Returns an error if the writer thread cannot be spawned.
    pub(crate) fn start(
        threads: usize,
        dropped: IntCounter,
        mut sink: impl Write + Send + 'static,
    ) -> io::Result<(Self, Writer)> {
        let shards = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared { shards, ended: AtomicBool::new(false), dropped });
        let writing = shared.clone();
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || writing.write(&mut sink))?;
        let log = Self { shared: shared.clone(), writer: thread.thread().clone() };
        Ok((log, Writer { shared, thread }))
    }

    /// Appends a line. `write` gets the buffer and the time, and writes the line without the line break.
    pub(crate) fn line(&self, thread: usize, write: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let mut shard = self.shared.shards[thread].lock().unwrap_or_else(PoisonError::into_inner);
        if shard.lines.len() >= MAX_BUFFER {
            self.shared.dropped.inc();
            return;
        }
        let is_first = shard.lines.is_empty();
        let Shard { lines, clock } = &mut *shard;
        write(lines, clock.now());
        lines.push(b'\n');
        drop(shard);
        if is_first {
            self.writer.unpark();
        }
    }
}

impl Shared {
    fn write(&self, sink: &mut impl Write) {
        let mut lines = Vec::new();
        loop {
            // Read before the buffers, so that the last round includes every line.
            let ended = self.ended.load(Ordering::Acquire);
            let mut idle = true;
            for shard in &self.shards {
                std::mem::swap(&mut lines, &mut shard.lock().unwrap_or_else(PoisonError::into_inner).lines);
                if !lines.is_empty() {
                    idle = false;
                    // Requests go on even if nobody reads the log anymore.
                    let _ = sink.write_all(&lines).and_then(|()| sink.flush());
                    lines.clear();
                    lines.shrink_to(KEPT_CAPACITY);
                }
            }
            if ended {
                return;
            }
            if idle {
                thread::park();
            }
            // Sleeps instead of parking, because the first line of any thread would end the pause early.
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.thread.thread().unpark();
        // `join` has no timeout.
        let started = Instant::now();
        while !self.thread.is_finished() && started.elapsed() < FLUSH_TIMEOUT {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver, Sender};

    use test_support::process::TIMEOUT;

    use super::*;

    /// A sink that blocks until the sender is dropped.
    struct BlockingSink {
        written: Arc<Mutex<Vec<u8>>>,
        unblocked: Receiver<()>,
    }

    impl Write for BlockingSink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.unblocked.recv();
            self.written.lock().expect("a lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A sink that reports every write.
    struct CountingSink(Sender<()>);

    impl Write for CountingSink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.send(());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Fixture {
        log: Arc<AccessLog>,
        writer: Writer,
        dropped: IntCounter,
        written: Arc<Mutex<Vec<u8>>>,
        unblock: Sender<()>,
    }

    fn blocked() -> Fixture {
        let (unblock, unblocked) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let dropped = IntCounter::new("dropped", "dropped").expect("a metric");
        let sink = BlockingSink { written: written.clone(), unblocked };
        let (log, writer) = AccessLog::start(2, dropped.clone(), sink).expect("a thread");
        Fixture { log: Arc::new(log), writer, dropped, written, unblock }
    }

    #[test]
    fn dropping_the_writer_writes_every_line_of_every_thread() {
        let Fixture { log, writer, dropped, written, unblock } = blocked();
        drop(unblock);
        let threads = [0, 1].map(|thread| {
            let log = log.clone();
            thread::spawn(move || {
                for number in 0..1000 {
                    log.line(thread, |line, _| line.extend_from_slice(format!("{thread} {number}").as_bytes()));
                }
            })
        });
        for thread in threads {
            thread.join().expect("no panic");
        }
        drop(writer);
        let written = String::from_utf8(written.lock().expect("a lock").clone()).expect("text");
        for thread in ["0", "1"] {
            let numbers =
                written.lines().filter_map(|line| line.strip_prefix(thread)).map(|number| number.trim().parse());
            assert!(numbers.eq((0..1000).map(Ok::<usize, _>)), "{written}");
        }
        assert_eq!((written.lines().count(), dropped.get()), (2000, 0));
    }

    #[test]
    fn lines_within_a_pause_are_written_together() {
        let (sink, taken) = mpsc::channel();
        let dropped = IntCounter::new("dropped", "dropped").expect("a metric");
        let (log, writer) = AccessLog::start(1, dropped, CountingSink(sink)).expect("a thread");
        let (started, mut count) = (Instant::now(), 0);
        // Regardless of when the writer thread gets to run.
        while count < 5 {
            log.line(0, |line, _| line.extend_from_slice(b"a line"));
            thread::yield_now();
            count += taken.try_iter().count() as u128;
            assert!(started.elapsed() < TIMEOUT, "{count} writes");
        }
        let limit = started.elapsed().as_millis() / PAUSE.as_millis() + 1;
        drop(writer);
        assert!(count <= limit, "{count} writes, expected at most {limit}");
    }

    #[test]
    fn a_full_buffer_drops_and_counts_lines_without_blocking() {
        let Fixture { log, writer, dropped, written, unblock } = blocked();
        let line = vec![b'x'; 64 * 1024];
        let count = 1000;
        for _ in 0..count {
            log.line(0, |buffer, _| buffer.extend_from_slice(&line));
        }
        assert!(dropped.get() > 800, "{} of {count}", dropped.get());
        drop(unblock);
        drop(writer);
        let written = written.lock().expect("a lock");
        let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        assert!(lines.clone().all(|found| found == line));
        assert_eq!(lines.count() as u64, count - dropped.get());
    }

    #[test]
    fn a_sink_that_is_stuck_does_not_keep_the_process_alive() {
        let Fixture { log, writer, unblock: _stuck, .. } = blocked();
        log.line(0, |line, _| line.extend_from_slice(b"a line"));
        let (ended, end) = mpsc::channel();
        thread::spawn(move || {
            drop(writer);
            ended.send(())
        });
        assert_eq!(end.recv_timeout(TIMEOUT), Ok(()));
    }
}
