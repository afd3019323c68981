//! Runs helm and kubectl in the current kube context, as a user would.

use std::{path::Path, process::Stdio, time::Duration};

use test_support::cluster::SOON;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    time::{self, Instant},
};

/// Runs a program to completion. Returns its standard output, or its standard error if it fails.
pub async fn run(program: &str, arguments: &[&str]) -> Result<String, String> {
    let mut command = Command::new(program);
    // At the root of the repository, as a user would.
    command.args(arguments).current_dir(root()).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.unwrap_or_else(|error| panic!("{program}: {error}"));
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The root of the repository.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A program that runs until this is dropped.
pub struct Running {
    _process: Child,
    /// The line that said that it was ready.
    pub line: String,
}

impl Running {
    /// Starts a program and waits for a line that contains `sign`.
    pub async fn start(program: &str, arguments: &[&str], sign: &str) -> Self {
        Self::try_start(program, arguments, sign).await.unwrap_or_else(|| panic!("{program} exited"))
    }

    /// Like [`start`](Self::start), but returns `None` if the program exits without that line.
    pub async fn try_start(program: &str, arguments: &[&str], sign: &str) -> Option<Self> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let found = time::timeout(Duration::from_secs(30), async {
            while let Some(line) = lines.next_line().await.expect("text") {
                if line.contains(sign) {
                    return Some(line);
                }
            }
            None
        });
        let line = found.await.expect("the program starts in time")?;
        // Keep reading: a full pipe would block the program.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Some(Self { _process: process, line })
    }

    /// Forwards a local port to port 8080 of a Service, and returns the local URL.
    pub async fn forward(namespace: &str, service: &str) -> (Self, String) {
        Self::forward_to(namespace, &format!("service/{service}")).await
    }

    /// Like [`forward`](Self::forward), but to any object, such as `pod/NAME`.
    pub async fn forward_to(namespace: &str, target: &str) -> (Self, String) {
        let arguments = ["port-forward", "--namespace", namespace, target, ":8080"];
        // kubectl may choose a pod that does not run yet, such as one that the autoscaler has just added.
        let begun = Instant::now();
        let forward = loop {
            match Self::try_start("kubectl", &arguments, "Forwarding from 127").await {
                Some(forward) => break forward,
                None => assert!(begun.elapsed() < SOON, "kubectl cannot forward to {target}"),
            }
            time::sleep(Duration::from_millis(500)).await;
        };
        let port = forward.line.split(':').nth(1).and_then(|rest| rest.split(' ').next()).expect("a port");
        let url = format!("http://127.0.0.1:{port}");
        (forward, url)
    }
}
