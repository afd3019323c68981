//! The access log: one line of JSON a request, on standard output among the other lines of the log.
//!
//! A request only appends its line to a buffer of its thread; a thread of the log's own writes the buffers out a few
//! times a second. Where standard output is slower than the requests, lines are dropped and counted: a log that is not
//! read must not stop the gateway.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prometheus::IntCounter;

/// How long lines are gathered before they are written.
const PAUSE: Duration = Duration::from_millis(50);

/// The most bytes of a thread that wait to be written.
const MOST: usize = 4 * 1024 * 1024;

/// A buffer that is longer is not kept for the next lines.
const USUAL: usize = 256 * 1024;

/// The log; its end is that of its thread, once all is written.
pub(crate) struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
}

/// What ends the log: to be dropped after everything that writes to it.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
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
    /// Begins to write, for as many threads.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub(crate) fn start(
        threads: usize,
        dropped: IntCounter,
        mut to: impl Write + Send + 'static,
    ) -> io::Result<(Self, Writer)> {
        let shards = (0..threads.max(1)).map(|_| Mutex::default()).collect();
        let shared = Arc::new(Shared { shards, ended: AtomicBool::new(false), dropped });
        let writing = shared.clone();
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(move || writing.write(&mut to))?;
        let log = Self { shared: shared.clone(), writer: thread.thread().clone() };
        Ok((log, Writer { shared, thread: Some(thread) }))
    }

    /// Adds a line, which `write` writes without its end. It gets the time, too.
    pub(crate) fn line(&self, thread: usize, write: impl FnOnce(&mut Vec<u8>, &[u8])) {
        let mut shard = self.shared.shards[thread].lock().unwrap_or_else(PoisonError::into_inner);
        if shard.lines.len() >= MOST {
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
    fn write(&self, to: &mut impl Write) {
        let mut lines = Vec::new();
        loop {
            // Before the last look: what is added later is nobody's any more.
            let ended = self.ended.load(Ordering::Acquire);
            let mut idle = true;
            for shard in &self.shards {
                std::mem::swap(&mut lines, &mut shard.lock().unwrap_or_else(PoisonError::into_inner).lines);
                if !lines.is_empty() {
                    idle = false;
                    // Whoever reads it may be gone; the requests go on.
                    let _ = to.write_all(&lines).and_then(|()| to.flush());
                    lines.clear();
                    lines.shrink_to(USUAL);
                }
            }
            if ended {
                return;
            }
            if idle {
                thread::park();
            }
            // Not parked: the first line of each thread would end the pause in which others are to come.
            thread::sleep(PAUSE);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

/// The time as RFC 3339 text, of which only the part below a second is written anew for each line.
struct Clock {
    second: u64,
    text: [u8; 27],
}

impl Default for Clock {
    fn default() -> Self {
        Self { second: u64::MAX, text: *b"1970-01-01T00:00:00.000000Z" }
    }
}

impl Clock {
    fn now(&mut self) -> &[u8] {
        self.at(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    fn at(&mut self, time: Duration) -> &[u8] {
        if time.as_secs() != self.second {
            self.second = time.as_secs();
            let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_secs(self.second)).to_string();
            if let Some(text) = text.as_bytes().get(..19) {
                self.text[..19].copy_from_slice(text);
            }
        }
        let mut micros = time.subsec_micros();
        for digit in self.text[20..26].iter_mut().rev() {
            *digit = b'0' + u8::try_from(micros % 10).unwrap_or_default();
            micros /= 10;
        }
        &self.text
    }
}

/// Writes text as a JSON string.
pub(crate) fn write_string(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    if text.iter().all(|byte| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')) {
        line.extend_from_slice(text);
    } else {
        for character in String::from_utf8_lossy(text).chars() {
            match character {
                '"' | '\\' => line.extend([b'\\', character as u8]),
                '\0'..=' ' | '\u{7f}' if character != ' ' => {
                    let _ = write!(line, "\\u{:04x}", u32::from(character));
                }
                _ => line.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::{
        sync::mpsc::{self, Receiver, Sender},
        time::Instant,
    };

    use test_support::process::PATIENCE;

    use super::*;

    /// Takes nothing until it is let.
    struct Slow {
        written: Arc<Mutex<Vec<u8>>>,
        let_go: Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.let_go.recv();
            self.written.lock().expect("a lock").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Tells of each write.
    struct Counting(Sender<()>);

    impl Write for Counting {
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
        go: Sender<()>,
    }

    fn slow() -> Fixture {
        let (go, let_go) = mpsc::channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let dropped = IntCounter::new("dropped", "dropped").expect("a metric");
        let to = Slow { written: written.clone(), let_go };
        let (log, writer) = AccessLog::start(2, dropped.clone(), to).expect("a thread");
        Fixture { log: Arc::new(log), writer, dropped, written, go }
    }

    #[test]
    fn lines_of_all_threads_are_written_whole_by_the_end() {
        let Fixture { log, writer, dropped, written, go } = slow();
        drop(go);
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
    fn lines_that_come_within_a_pause_are_written_at_once() {
        let (sink, taken) = mpsc::channel();
        let dropped = IntCounter::new("dropped", "dropped").expect("a metric");
        let (log, writer) = AccessLog::start(1, dropped, Counting(sink)).expect("a thread");
        let (begun, mut count) = (Instant::now(), 0);
        // However long the writer takes to begin, or to go on.
        while count < 5 {
            log.line(0, |line, _| line.extend_from_slice(b"a line"));
            thread::yield_now();
            count += taken.try_iter().count() as u128;
            assert!(begun.elapsed() < PATIENCE, "{count} writes");
        }
        let most = begun.elapsed().as_millis() / PAUSE.as_millis() + 1;
        drop(writer);
        assert!(count <= most, "{count} of {most}");
    }

    #[test]
    fn what_cannot_be_written_in_time_is_dropped_and_counted_and_nobody_waits() {
        let Fixture { log, writer, dropped, written, go } = slow();
        let line = vec![b'x'; 64 * 1024];
        let count = 1000;
        for _ in 0..count {
            log.line(0, |to, _| to.extend_from_slice(&line));
        }
        assert!(dropped.get() > 800, "{} of {count}", dropped.get());
        drop(go);
        drop(writer);
        let written = written.lock().expect("a lock");
        let lines = written.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        assert!(lines.clone().all(|found| found == line));
        assert_eq!(lines.count() as u64, count - dropped.get());
    }

    #[test]
    fn the_time_is_that_of_the_line() {
        let mut clock = Clock::default();
        for (time, text) in [
            (Duration::ZERO, "1970-01-01T00:00:00.000000Z"),
            (Duration::from_micros(1_764_076_500_000_042), "2025-11-25T13:15:00.000042Z"),
            (Duration::from_micros(1_764_076_500_999_999), "2025-11-25T13:15:00.999999Z"),
            (Duration::from_secs(1_764_076_501), "2025-11-25T13:15:01.000000Z"),
        ] {
            assert_eq!(str::from_utf8(clock.at(time)), Ok(text));
        }
    }

    #[test]
    fn any_text_is_one_json_string() {
        for text in ["", "/users", "a\"b", "a\\b", "a\nb", "\u{7f}\u{1}\t", "caf\u{e9} \u{1f980}", " "] {
            let mut line = Vec::new();
            write_string(&mut line, text.as_bytes());
            assert_eq!(serde_json::from_slice::<String>(&line).expect("JSON"), text);
        }
        let mut line = Vec::new();
        write_string(&mut line, b"\xff");
        assert_eq!(serde_json::from_slice::<String>(&line).expect("JSON"), "\u{fffd}");
    }
}
