//! The gateway as a process.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::Stdio,
};

use embedded_postgres::with_pdeathsig;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use test_support::process::{TIMEOUT, eventually};

/// More than fits into a pipe, which holds 64 KiB: a line of the access log has more than 200 bytes.
const REQUESTS: usize = 500;

#[tokio::test]
async fn the_gateway_stops_even_if_nobody_reads_its_output() {
    let mut command = with_pdeathsig("KILL", env!("CARGO_BIN_EXE_gateway"));
    command.envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0"), ("DRAIN_DELAY", "0s")]);
    let mut gateway = command.stdout(Stdio::piped()).spawn().expect("the gateway starts");
    // Open until the end, but read only up to this line.
    let mut output = BufReader::new(gateway.stdout.take().expect("an output"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");
    let listening: Value = serde_json::from_str(&line).expect("JSON");
    let mut stream = TcpStream::connect(listening["http"].as_str().expect("an address")).expect("a connection");
    for _ in 0..REQUESTS {
        stream.write_all(b"GET /nobody HTTP/1.1\r\nhost: a\r\n\r\n").expect("sent");
        assert!(stream.read(&mut [0; 4096]).expect("a response") > 0);
    }
    drop(stream);
    kill(Pid::from_raw(gateway.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    let status = eventually("the gateway exits", TIMEOUT, async || gateway.try_wait().expect("a status")).await;
    assert!(status.success(), "{status}");
    drop(output);
}
