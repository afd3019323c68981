//! The services' output: on a terminal each line starts with the name of its service, elsewhere it is passed through
//! unchanged.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::pty::openpty;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// The length, in bytes, at which a line is broken.
const MAX_LINE: usize = 1 << 20;

/// How long to wait for the last output of a process that has exited: its own children may keep the terminal open.
const LAST_OUTPUT_TIMEOUT: Duration = Duration::from_millis(500);

/// Whether this process writes to a terminal.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal() && io::stderr().is_terminal()
}

/// Copies the output of one process to standard output.
pub struct Relay(JoinHandle<()>);

impl Relay {
    /// Gives `command` a pseudoterminal, so that it still formats its output for people, and starts to copy what it
    /// writes there. The relay ends when the last process with this output has closed it.
    pub fn attach(command: &mut Command, prefix: String) -> io::Result<Self> {
        let (ours, theirs) = pseudoterminal()?;
        command.stdout(Stdio::from(theirs.try_clone()?)).stderr(Stdio::from(theirs));
        let copy = move || copy(File::from(ours), &prefix, |lines| io::stdout().lock().write_all(lines));
        thread::Builder::new().name("output".to_owned()).spawn(copy).map(Self)
    }

    /// Waits until all that an exited process has written is copied.
    pub async fn finish(&self) {
        let deadline = Instant::now() + LAST_OUTPUT_TIMEOUT;
        while !self.0.is_finished() && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Our end and the process's end. Neither is inherited by other processes, and the bytes are not translated.
fn pseudoterminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let pair = openpty(None, None)?;
    let mut settings = tcgetattr(&pair.slave)?;
    cfmakeraw(&mut settings);
    tcsetattr(&pair.slave, SetArg::TCSANOW, &settings)?;
    // Only a duplicate is closed on exec.
    Ok((pair.master.try_clone()?, pair.slave.try_clone()?))
}

/// Writes each line that is read from `from`, after `prefix`. A last line without an end gets one. After an error of
/// `write` the rest is read and discarded, so that the writing process does not block.
fn copy(mut from: impl Read, prefix: &str, mut write: impl FnMut(&[u8]) -> io::Result<()>) {
    let mut buffer = [0; 8192];
    let mut line = Vec::new();
    let mut lines = Vec::new();
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // A pseudoterminal that the other side has closed reports an error (EIO).
            Ok(0) | Err(_) => break,
            Ok(read) => read,
        };
        for piece in buffer[..read].split_inclusive(|byte| *byte == b'\n') {
            line.extend_from_slice(piece);
            if line.ends_with(b"\n") || line.len() >= MAX_LINE {
                add(&mut lines, prefix, &mut line);
            }
        }
        if !lines.is_empty() {
            let _ = write(&lines);
            lines.clear();
        }
    }
    if !line.is_empty() {
        add(&mut lines, prefix, &mut line);
        let _ = write(&lines);
    }
}

fn add(lines: &mut Vec<u8>, prefix: &str, line: &mut Vec<u8>) {
    lines.extend_from_slice(prefix.as_bytes());
    lines.append(line);
    if !lines.ends_with(b"\n") {
        lines.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// A reader that returns each piece by itself.
    struct Pieces<'a>(Vec<&'a [u8]>);

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Err(io::Error::other("closed"));
            }
            self.0.remove(0).read(buffer)
        }
    }

    fn copied(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut written = Vec::new();
        copy(Pieces(pieces.to_vec()), "a | ", |lines| {
            written.push(lines.to_vec());
            Ok(())
        });
        written
    }

    #[test]
    fn each_line_gets_the_prefix_and_is_written_whole() {
        let written = copied(&[b"one\ntw", b"o", b"\n\n\xffthree"]);
        assert_eq!(written, [&b"a | one\n"[..], b"a | two\na | \n", b"a | \xffthree\n"]);
        assert!(copied(&[]).is_empty());
    }

    #[test]
    fn a_very_long_line_is_broken_and_nothing_is_lost() {
        let long = vec![b'x'; MAX_LINE + 5000];
        let pieces: Vec<_> = long.chunks(1000).collect();
        let written = copied(&pieces).concat();
        let lines: Vec<_> =
            String::from_utf8(written).unwrap().lines().map(|line| line.replace("a | ", "").len()).collect();
        assert_eq!(lines, [MAX_LINE + 424, 5000 - 424]);
    }

    #[test]
    fn a_process_sees_a_terminal_and_its_bytes_are_not_translated() {
        let (ours, theirs) = pseudoterminal().unwrap();
        let mut command = Command::new("sh");
        command.args(["-c", r"test -t 1 && printf 'a\nb\tc'"]).stdout(Stdio::from(theirs));
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut written = Vec::new();
        copy(File::from(ours), "", |lines| written.write_all(lines));
        assert!(child.wait().unwrap().success());
        assert_eq!(written, b"a\nb\tc\n");
    }
}
