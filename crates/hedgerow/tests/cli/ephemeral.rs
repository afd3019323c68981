//! `hedgerow postgres -- CMD`.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::sandbox::{send, wait_until};

fn hedgerow(script: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hedgerow"));
    command.args(["postgres", "--", "sh", "-c", script]).stdin(Stdio::null());
    command
}

fn output(script: &str) -> String {
    let output = hedgerow(script).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn the_command_finds_the_server_in_its_environment() {
    assert_eq!(output("psql \"$DATABASE_URL\" -Atc 'SELECT current_user'"), "postgres");
    assert_eq!(output("psql -Atc 'SELECT current_database()'"), "postgres");
    assert_eq!(output("psql -Atc 'SHOW max_connections'"), "300");
}

#[test]
fn durability_is_off_unless_asked_for() {
    assert_eq!(output("psql -Atc 'SHOW fsync'"), "off");
    let mut command = Command::new(env!("CARGO_BIN_EXE_hedgerow"));
    let command = command.args(["postgres", "--fsync", "--", "psql", "-Atc", "SHOW fsync"]);
    assert_eq!(command.output().unwrap().stdout, b"on\n");
}

#[test]
fn the_exit_status_is_that_of_the_command() {
    let output = hedgerow("echo \"$PGHOST\"; exit 7").output().unwrap();
    assert_eq!(output.status.code(), Some(7));
    let socket_dir = String::from_utf8(output.stdout).unwrap();
    assert!(!Path::new(socket_dir.trim()).parent().unwrap().exists());
    assert_eq!(hedgerow("kill -9 $$").status().unwrap().code(), Some(128 + 9));
}

#[test]
fn signals_are_forwarded_to_the_command() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut child = hedgerow("echo \"$PGHOST\"; exec sleep 600").stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let folder = Path::new(line.trim()).parent().unwrap();
        assert!(folder.exists());
        send(child.id().cast_signed(), signal);
        wait_until("hedgerow exits", || child.try_wait().unwrap().is_some());
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal as i32));
        assert!(!folder.exists());
    }
}
