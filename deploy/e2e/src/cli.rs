//! The command line.

use std::{env, net::SocketAddr, time::Duration};

use clap::{Args, Parser};
use humantime::parse_duration;

use crate::{client::Url, load::Template, probe::Address};

/// What the end-to-end tests run inside the cluster; prints one JSON object a line
#[derive(Debug, Parser)]
#[command(name = "e2e", version)]
pub enum Cli {
    /// Send requests at a steady rate and count every one that is not answered as it should be
    ///
    /// Requests go round the given URLs, over keep-alive HTTP/1.1 connections, and are never sent a second time. Each
    /// is due at a moment of its own, whatever became of those before it, and its latency is counted from then: a
    /// server that stalls is charged with all that it kept waiting. GET must be answered 200 with JSON, POST 201 with
    /// JSON that repeats the fields of the body. `{uuid}` in a URL or body is another UUID in each request.
    ///
    /// A connection that the server closes between two requests is replaced. SIGTERM ends the load early. Every second
    /// has a line, and so have failures (the first ten of a second); the last line is the summary. The exit status is 1
    /// where a request failed.
    Load(Load),
    /// Ask each URL once: 0 when all answer, 1 when one does not
    ///
    /// Any HTTP answer counts. `tcp://HOST:PORT` asks for a connection only.
    Get(Get),
    /// Ask a URL until it answers 2xx: 0 when it does, 1 when the time is over
    ///
    /// `tcp://HOST:PORT` asks for a connection only.
    Wait(Wait),
    /// Serve as a service does that has no database: each request is answered with its path and this service's name
    /// (what is done where no command is given)
    Serve(Serve),
    /// Pass connections on, byte for byte, until SIGTERM
    Relay(Relay),
    /// Kill the processes of a pod by SIGKILL, all but the one that keeps its addresses: 0 when there was one
    ///
    /// It has to run among the processes of the pod's node (`hostPID`), as root.
    Kill {
        /// The pod's UID
        #[arg(value_name = "UID")]
        pod: String,
    },
}

/// Where to listen, and under which name.
#[derive(Debug, Args)]
pub struct Serve {
    /// Where requests are answered
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub http_addr: SocketAddr,
    /// Where /livez, /readyz and /metrics are
    #[arg(long, env, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub admin_addr: SocketAddr,
    /// What it calls itself
    #[arg(long, env, value_name = "NAME", default_value = "e2e")]
    pub name: String,
    /// After SIGTERM, how long to go on serving
    #[arg(long, env, value_name = "TIME", default_value = "0s", value_parser = parse_duration)]
    pub drain_delay: Duration,
}

/// Between whom, and until when.
#[derive(Debug, Args)]
pub struct Relay {
    /// Where clients connect to
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:6443")]
    pub listen: SocketAddr,
    /// The server
    #[arg(long, value_name = "HOST:PORT")]
    pub to: String,
    /// From then on no byte is passed on any more, though connections are still taken and stay open
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub silent_after: Option<Duration>,
}

/// What to send, how fast and for how long.
#[derive(Debug, Args)]
pub struct Load {
    /// A URL to GET; may be repeated
    #[arg(long, value_name = "URL", required_unless_present = "post")]
    pub get: Vec<Url>,
    /// A URL to POST to; may be repeated
    #[arg(long, value_name = "URL", requires = "body")]
    pub post: Vec<Url>,
    /// What to POST: a JSON object for each --post, in the same order
    #[arg(long, value_name = "JSON", requires = "post")]
    pub body: Vec<String>,
    /// Give each POST an `Idempotency-Key` of its own
    #[arg(long, requires = "post")]
    pub idempotency_keys: bool,
    /// Connections to each host, and so the most requests in flight
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Requests a second, over all connections
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: u32,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    pub duration: Duration,
    /// How long a connection, and then an answer, may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
}

impl Cli {
    /// The command line of this process; a service is run without arguments.
    #[must_use]
    pub fn read() -> Self {
        let given = env::args_os();
        let default = (given.len() < 2).then(|| "serve".into());
        Self::parse_from(given.chain(default))
    }
}

impl Load {
    /// What is sent, round and round.
    ///
    /// # Errors
    /// Where a body is missing, left over, or no JSON object.
    pub fn templates(&self) -> Result<Vec<Template>, String> {
        if self.post.len() != self.body.len() {
            return Err(format!("{} --body for {} --post", self.body.len(), self.post.len()));
        }
        let posts = self
            .post
            .iter()
            .zip(&self.body)
            .map(|(url, body)| Template::post(url.clone(), body, self.idempotency_keys));
        self.get.iter().map(|url| Ok(Template::get(url.clone()))).chain(posts).collect()
    }
}

/// Whom to ask, and what to expect.
#[derive(Debug, Args)]
pub struct Get {
    /// Whom to ask
    #[arg(value_name = "URL", required = true)]
    pub urls: Vec<Address>,
    /// How long a connection, and then an answer, may take
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Succeed when every name resolves and no connection can be made, as where a network policy forbids it
    #[arg(long)]
    pub expect_blocked: bool,
}

/// Whom to ask, and for how long.
#[derive(Debug, Args)]
pub struct Wait {
    /// Whom to ask
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
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
