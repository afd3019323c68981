//! Keeps what is running running, until an end is wished for.

use std::time::Duration;

use anyhow::{Context, bail};
use embedded_postgres::Server;
use tokio::process::Child;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep};

use crate::health;
use crate::program::{Program, terminate};
use crate::service::reachable;
use crate::stop::Stop;

/// How long a service may take to be ready at its first start.
const READY_DEADLINE: Duration = Duration::from_secs(30);

/// The pause before a service is started again; it doubles up to [`LONGEST_PAUSE`].
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause before a service is started again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// After running for this long a service counts as sound, and its next pause is the shortest again.
const SOUND: Duration = Duration::from_secs(10);

/// How often Postgres is looked at.
const GLANCE: Duration = Duration::from_millis(500);

/// Starts a service and waits until it is ready.
pub async fn start(program: &Program) -> anyhow::Result<Child> {
    let name = program.name();
    let mut child = program.serve().with_context(|| format!("run {name}"))?;
    let deadline = Instant::now() + READY_DEADLINE;
    let admin = reachable(program.service.admin);
    loop {
        let why = match health::ready(admin).await {
            Ok(()) => return Ok(child),
            Err(why) => why,
        };
        if Instant::now() > deadline {
            bail!("{name} is not ready after {} s: {why}", READY_DEADLINE.as_secs());
        }
        tokio::select! {
            status = child.wait() => bail!("{name} ended before it was ready ({})", status?),
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// Starts a service again whenever it ends, until the end.
pub async fn keep_service(program: Program, mut child: Child, mut stop: Stop) {
    let name = program.name();
    let mut pause = SHORTEST_PAUSE;
    loop {
        let started = Instant::now();
        let how = tokio::select! {
            status = child.wait() => status.map_or_else(|error| error.to_string(), |status| status.to_string()),
            () = stop.asked() => {
                if let Err(error) = terminate(&mut child, &mut stop).await {
                    eprintln!("hedgerow: cannot stop {name}: {error}");
                }
                return;
            }
        };
        if started.elapsed() > SOUND {
            pause = SHORTEST_PAUSE;
        }
        eprintln!("hedgerow: {name} ended ({how}); starting it again in {} ms", pause.as_millis());
        child = loop {
            tokio::select! {
                () = sleep(pause) => {}
                () = stop.asked() => return,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            match program.serve() {
                Ok(child) => break child,
                Err(error) => eprintln!("hedgerow: cannot run {name}: {error}"),
            }
        };
    }
}

/// Starts Postgres again whenever it ends; gives it back at the end.
pub async fn keep_postgres(mut server: Server, mut stop: Stop) -> anyhow::Result<Server> {
    loop {
        tokio::select! {
            () = sleep(GLANCE) => {}
            () = stop.asked() => return Ok(server),
        }
        if !server.is_running() {
            eprintln!("hedgerow: Postgres ended; starting it again");
            let (same, started) = spawn_blocking(|| {
                let started = server.start_again();
                (server, started)
            })
            .await?;
            server = same;
            if let Err(error) = started {
                eprintln!("hedgerow: {:#}", anyhow::Error::from(error));
            }
        }
    }
}
