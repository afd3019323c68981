//! Load at a steady rate that does not depend on the server (an open loop), so that a stall cannot hide the requests
//! that it delays.

mod schedule;
mod tally;
mod template;
mod token;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use clap::Args;
use http::uri::Authority;
use humantime::parse_duration;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    schedule::{Schedule, Turn},
    tally::Tally,
    token::{Client, Token},
};
pub use self::{
    tally::{Line, Summary},
    template::Template,
};
use crate::client::{Connection, Failure, Url};

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
    /// A file with a token to send with each request
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Send tokens that are obtained from this URL by client credentials, and replaced every --token-interval
    #[arg(long, value_name = "URL", requires = "client_file", conflicts_with = "token_file")]
    pub token_url: Option<Url>,
    /// A file with the id and the secret of the client: ID:SECRET
    #[arg(long, value_name = "FILE", requires = "token_url")]
    pub client_file: Option<PathBuf>,
    /// How often to get another token
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse_duration)]
    pub token_interval: Duration,
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

impl Load {
    /// The requests to send.
    ///
    /// # Errors
    /// Returns an error if a body is missing, superfluous, or not a JSON object, or if a file cannot be read.
    pub fn requests(&self) -> Result<Requests, String> {
        if self.post.len() != self.body.len() {
            return Err(format!(
                "found {} --body for {} --post: each --post needs exactly one --body",
                self.body.len(),
                self.post.len()
            ));
        }
        let posts = self
            .post
            .iter()
            .zip(&self.body)
            .map(|(url, body)| Template::post(url.clone(), body, self.idempotency_keys));
        let client = self.client()?;
        let token = match &self.token_file {
            Some(file) => Some(read(file, Token::new)?),
            None => client.as_ref().map(|client| client.token.clone()),
        };
        let all = self.get.iter().map(|url| Ok(Template::get(url.clone()))).chain(posts);
        let templates = all.map(|template| Ok(template?.with_token(token.clone()))).collect::<Result<_, String>>()?;
        Ok(Requests { templates, client })
    }

    fn client(&self) -> Result<Option<Client>, String> {
        let (Some(url), Some(file)) = (&self.token_url, &self.client_file) else { return Ok(None) };
        let request = read(file, |client| Template::client_credentials(url.clone(), client))?;
        // It is replaced before the first request.
        let token = Token::new("")?;
        Ok(Some(Client { request, token, interval: self.token_interval }))
    }
}

/// Reads what a file with a secret has.
fn read<T>(file: &Path, parse: impl FnOnce(&str) -> Result<T, &'static str>) -> Result<T, String> {
    let text = fs::read_to_string(file).map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    parse(text.trim()).map_err(|error| format!("{}: {error}", file.display()))
}

/// The requests of a load.
#[derive(Debug)]
pub struct Requests {
    /// They are sent in turn.
    templates: Vec<Template>,
    /// Gets the token that they have.
    client: Option<Client>,
}

/// Sends the load until its duration has passed or `stop` is cancelled, and passes each line of output to `print`.
pub async fn run(args: &Load, requests: Requests, stop: CancellationToken, mut print: impl FnMut(&Line)) -> Summary {
    let Requests { templates, client } = requests;
    let mut renewal = None;
    if let Some(client) = client {
        let mut connection = Connection::new(client.request.authority().clone(), args.timeout);
        let first = client.renew(&mut connection).await;
        renewal = Some((client, connection, first));
    }
    let start = Instant::now();
    let load = Arc::new(Running {
        schedule: Schedule::new(start, args.rate, args.duration, stop),
        templates,
        connections: u64::from(args.connections),
        timeout: args.timeout,
        tally: Mutex::new(Tally::new(start)),
    });
    let mut workers = JoinSet::new();
    for _ in 0..args.connections {
        workers.spawn(work(load.clone()));
    }
    // Ends with this function.
    let mut renewing = JoinSet::new();
    if let Some((client, connection, (due, opened, result))) = renewal {
        load.tally().record(&client.request, due, opened, result);
        renewing.spawn(renew(load.clone(), client, connection));
    }
    let mut second = interval_at(start + Duration::from_secs(1), Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = second.tick() => load.tally().progress().iter().for_each(&mut print),
            finished = workers.join_next() => if finished.is_none() { break },
        }
    }
    let mut tally = load.tally();
    tally.progress().iter().for_each(&mut print);
    let summary = tally.summary();
    print(&Line::Summary(summary.clone()));
    summary
}

/// The state that all workers share.
struct Running {
    schedule: Schedule,
    templates: Vec<Template>,
    connections: u64,
    timeout: Duration,
    tally: Mutex<Tally>,
}

impl Running {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The request to send at this turn. Workers take turns almost in lockstep, so without the shift in each round, a
    /// connection would always send the same request.
    fn template(&self, turn: &Turn) -> &Template {
        let index = (turn.number + turn.number / self.connections) % self.templates.len() as u64;
        &self.templates[usize::try_from(index).unwrap_or_default()]
    }
}

/// Sends one request at a time, on one connection per host.
async fn work(load: Arc<Running>) {
    let mut connections = HashMap::<Authority, Connection>::new();
    while let Some(turn) = load.schedule.next().await {
        let template = load.template(&turn);
        let authority = template.authority().clone();
        let connection =
            connections.entry(authority).or_insert_with_key(|host| Connection::new(host.clone(), load.timeout));
        let opened = connection.opened;
        let result = send(connection, template).await;
        load.tally().record(template, turn.due, connection.opened - opened, result);
    }
}

/// Replaces the token of the requests again and again. Each request for a token counts as one of the load.
async fn renew(load: Arc<Running>, client: Client, mut connection: Connection) {
    loop {
        sleep(client.interval).await;
        let (due, opened, result) = client.renew(&mut connection).await;
        load.tally().record(&client.request, due, opened, result);
    }
}

async fn send(connection: &mut Connection, template: &Template) -> Result<(), Failure> {
    let (request, sent) = template.fill();
    let response = connection.exchange(request).await?;
    template.check(&sent, &response)
}
