//! The command line.

use std::env;

use clap::Parser;

use crate::{
    load::Load,
    probe::{Get, Wait},
    relay::Relay,
    serve::Serve,
};

/// Tools that the end-to-end tests run inside the cluster; each output line is a JSON object
#[derive(Debug, Parser)]
#[command(name = "e2e", version)]
pub enum Cli {
    /// Send requests at a steady rate and count those that fail
    ///
    /// Requests go to the given URLs in turn, over keep-alive HTTP/1.1 connections, and are never retried. Each has a
    /// scheduled time that does not depend on earlier requests, and its latency is measured from that time, so a stall
    /// counts for every request that it delays. A GET must return 200 with JSON, a POST 201 with JSON that repeats the
    /// fields of the body. `{uuid}` in a URL or body is replaced by a new UUID in each request.
    ///
    /// A connection that the server closes between two requests is replaced. SIGTERM ends the load early. One line is
    /// printed per second and per failure (the first ten of each second); the last line is the summary. The exit status
    /// is 1 if a request failed.
    Load(Load),
    /// Request each URL once; exit with 0 if all respond, otherwise with 1
    ///
    /// Any HTTP response counts. `tcp://HOST:PORT` only connects.
    Get(Get),
    /// Request a URL until it returns 2xx; exit with 1 after the timeout
    ///
    /// `tcp://HOST:PORT` only connects.
    Wait(Wait),
    /// Serve like a service without a database: each response contains the request path and the name of the service
    /// (the default if no command is given)
    Serve(Serve),
    /// Forward connections, byte for byte, until SIGTERM
    Relay(Relay),
    /// Kill the processes of a pod with SIGKILL, except its sandbox; exit with 1 if there are none
    ///
    /// Must run as root in the process namespace of the pod's node (`hostPID`).
    Kill {
        /// The pod's UID
        #[arg(value_name = "UID")]
        pod: String,
    },
}

impl Cli {
    /// Parses the command line of this process. Without arguments, the command is `serve`, as for a service in a pod.
    #[must_use]
    pub fn read() -> Self {
        let given = env::args_os();
        let default = (given.len() < 2).then(|| "serve".into());
        Self::parse_from(given.chain(default))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }
}
