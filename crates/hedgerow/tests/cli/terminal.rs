//! Output on a terminal.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use nix::pty::openpty;
use nix::sys::signal::Signal;

use crate::sandbox::{GATEWAY, Sandbox, send};

#[test]
fn on_a_terminal_each_line_starts_with_the_name_of_its_service() {
    let sandbox = Sandbox::new();
    let pair = openpty(None, None).unwrap();
    let mut command = sandbox.up_command();
    command.env_remove("ACCESS_LOG").stdin(Stdio::null());
    command.stdout(Stdio::from(pair.slave.try_clone().unwrap())).stderr(Stdio::from(pair.slave));
    let mut child = command.spawn().unwrap();
    drop(command);
    let mut seen = Vec::new();
    for line in BufReader::new(File::from(pair.master)).lines().map_while(Result::ok) {
        if line.contains("Try:") {
            send(child.id().cast_signed(), Signal::SIGTERM);
        }
        seen.push(line.trim_end().to_owned());
    }
    assert!(child.wait().unwrap().success());
    for line in ["users     | serving", "inventory | serving", "gateway   | serving", "users     | without an end"] {
        assert!(seen.iter().any(|other| other == line), "{line:?} in {seen:#?}");
    }
    assert_eq!(sandbox.given(GATEWAY, "ACCESS_LOG").unwrap(), "false");
}
