//! Load at a steady rate, whatever the server does: an open loop, so that no stall hides the requests it delayed.

mod schedule;
mod tally;
mod template;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::uri::Authority;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use self::{
    schedule::{Schedule, Turn},
    tally::Tally,
};
pub use self::{
    tally::{Line, Summary},
    template::Template,
};
use crate::{
    cli::Load,
    client::{Connection, Failure},
};

/// Sends the load until its time is over or `stop` says so, and hands each line to `print` when it is due.
pub async fn run(
    args: &Load,
    templates: Vec<Template>,
    stop: CancellationToken,
    mut print: impl FnMut(&Line),
) -> Summary {
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
    let mut second = interval_at(start + Duration::from_secs(1), Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = second.tick() => load.tally().progress().iter().for_each(&mut print),
            ended = workers.join_next() => if ended.is_none() { break },
        }
    }
    let mut tally = load.tally();
    tally.progress().iter().for_each(&mut print);
    let summary = tally.summary();
    print(&Line::Summary(summary.clone()));
    summary
}

/// What all workers share.
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

    /// What is sent at this turn. Workers take turns nearly in step, so without the shift at each round a connection
    /// would send the same request over and over.
    fn template(&self, turn: &Turn) -> &Template {
        let place = (turn.number + turn.number / self.connections) % self.templates.len() as u64;
        &self.templates[usize::try_from(place).unwrap_or_default()]
    }
}

/// Takes turns, one request at a time, on one connection a host.
async fn work(load: Arc<Running>) {
    let mut connections = HashMap::<Authority, Connection>::new();
    while let Some(turn) = load.schedule.next().await {
        let template = load.template(&turn);
        let authority = template.authority().clone();
        let connection =
            connections.entry(authority).or_insert_with_key(|host| Connection::new(host.clone(), load.timeout));
        let opened = connection.opened;
        let ended = ask(connection, template).await;
        load.tally().record(template, turn.due, connection.opened - opened, ended);
    }
}

async fn ask(connection: &mut Connection, template: &Template) -> Result<(), Failure> {
    let (request, sent) = template.fill();
    let answer = connection.exchange(request).await?;
    template.check(&sent, &answer)
}
