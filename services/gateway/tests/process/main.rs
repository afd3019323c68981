//! The gateway as a process.

mod descriptors;
mod refusals;
mod slow_readers;

use std::{
    env,
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

/// Requests between two checks of the metrics.
const REQUESTS: usize = 100;

#[tokio::test]
async fn the_gateway_stops_even_if_nobody_reads_its_output() {
    let mut command = with_pdeathsig("KILL", env!("CARGO_BIN_EXE_gateway"));
    command.env_clear().env("PATH", env::var_os("PATH").unwrap_or_default());
    command.envs([("HTTP_ADDR", "127.0.0.1:0"), ("ADMIN_ADDR", "127.0.0.1:0"), ("DRAIN_DELAY", "0s")]);
    command.env("ROUTES", "users:/users=http://127.0.0.1:1");
    let mut gateway = command.stdout(Stdio::piped()).spawn().expect("the gateway starts");
    // The pipe stays open until the end, but nothing after the line "listening" is read from it.
    let mut output = BufReader::new(gateway.stdout.take().expect("an output"));
    let mut lines = (&mut output).lines().map(|line| serde_json::from_str(&line.expect("a line")).expect("JSON"));
    let listening: Value = lines.find(|line: &Value| line["message"] == "listening").expect("a line");
    let connect = |name: &str| TcpStream::connect(listening[name].as_str().expect("an address"));

    // The start of the path is part of the line in the access log.
    let request = format!("GET /{} HTTP/1.1\r\nhost: a\r\n\r\n", "n".repeat(6000));
    let mut stream = connect("http").expect("a connection");
    eventually("lines of the access log are dropped", TIMEOUT, async || {
        for _ in 0..REQUESTS {
            stream.write_all(request.as_bytes()).expect("sent");
            assert!(stream.read(&mut [0; 4096]).expect("a response") > 0);
        }
        let mut metrics = String::new();
        let mut admin = connect("admin").expect("a connection");
        admin.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").expect("sent");
        admin.read_to_string(&mut metrics).expect("the metrics");
        let dropped = metrics.lines().find_map(|line| line.strip_prefix("gateway_access_log_dropped_total "));
        (dropped.expect("the metric") != "0").then_some(())
    })
    .await;

    drop(stream);
    kill(Pid::from_raw(gateway.id().cast_signed()), Signal::SIGTERM).expect("a signal");
    let status = eventually("the gateway exits", TIMEOUT, async || gateway.try_wait().expect("a status")).await;
    assert!(status.success(), "{status}");
    drop(output);
}
