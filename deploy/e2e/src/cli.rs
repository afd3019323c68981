//! The command line.

use std::{env, net::SocketAddr, time::Duration};

use clap::{Args, Parser};
use humantime::parse_duration;

use crate::{client::Url, load::Template, probe::Address};

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

/// Options of `serve`.
#[derive(Debug, Args)]
pub struct Serve {
    /// Address for requests
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Address for /livez, /readyz and /metrics
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
    /// The name in responses
    #[arg(long, env, value_name = "NAME", default_value = "e2e")]
    pub name: String,
    /// How long to keep serving after SIGTERM
    #[arg(long, env, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub drain_delay: Duration,
}

/// Options of `relay`.
#[derive(Debug, Args)]
pub struct Relay {
    /// Address for clients
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:6443")]
    pub listen: SocketAddr,
    /// Address of the server
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// Stop forwarding after this time, but keep accepting connections and keep them open
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub silent_after: Option<Duration>,
}

/// Options of `load`.
#[derive(Debug, Args)]
pub struct Load {
    /// A URL to GET; may be repeated
    #[arg(long, value_name = "URL", required_unless_present = "post")]
    pub get: Vec<Url>,
    /// A URL to POST to; may be repeated
    #[arg(long, value_name = "URL", requires = "body")]
    pub post: Vec<Url>,
    /// The body of each --post, in the same order: a JSON object
    #[arg(long, value_name = "JSON", requires = "post")]
    pub body: Vec<String>,
    /// Send a unique `Idempotency-Key` with each POST
    #[arg(long, requires = "post")]
    pub idempotency_keys: bool,
    /// Connections per host, which limit the requests in flight
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Requests per second, over all connections
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// How long to send requests
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub duration: Duration,
    /// Timeout of a connection attempt, and of a response
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
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

impl Load {
    /// The requests to send in turn.
    ///
    /// # Errors
    /// Returns an error if a body is missing, superfluous, or not a JSON object.
    pub fn templates(&self) -> Result<Vec<Template>, String> {
        if self.post.len() != self.body.len() {
            return Err(format!(
                "{} --body for {} --post: give each --post one --body",
                self.body.len(),
                self.post.len()
            ));
        }
        let posts = self
            .post
            .iter()
            .zip(&self.body)
            .map(|(url, body)| Template::post(url.clone(), body, self.idempotency_keys));
        self.get.iter().map(|url| Ok(Template::get(url.clone()))).chain(posts).collect()
    }
}

/// Options of `get`.
#[derive(Debug, Args)]
pub struct Get {
    /// URLs to request
    #[arg(value_name = "URL", required = true)]
    pub urls: Vec<Address>,
    /// Timeout of a connection attempt, and of a response
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Succeed if every name resolves but no connection can be made, for example because of a network policy
    #[arg(long)]
    pub expect_blocked: bool,
}

/// Options of `wait`.
#[derive(Debug, Args)]
pub struct Wait {
    /// URL to request
    #[arg(value_name = "URL")]
    pub url: Address,
    /// When to give up
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
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
