//! The command line.

use std::time::Duration;

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

impl Load {
    /// What is sent, round and round.
    ///
    /// # Errors
    /// Where a body is missing, left over, or no JSON object.
    pub fn templates(&self) -> Result<Vec<Template>, String> {
        if self.post.len() != self.body.len() {
            return Err(format!("{} --body for {} --post", self.body.len(), self.post.len()));
        }
        let posts = self.post.iter().zip(&self.body).map(|(url, body)| Template::post(url.clone(), body));
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
