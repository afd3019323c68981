//! Forwards connections, byte for byte, between one client and a server. When the relay is killed, or goes silent, the
//! server is unavailable for that client alone.

use std::{io, net::SocketAddr, time::Duration};

use clap::Args;
use humantime::parse_duration;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, lookup_host},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

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

/// Starts to listen. Returns the address and a future that forwards connections.
///
/// # Errors
/// Returns an error if the address cannot be bound.
pub async fn start(args: Relay, stop: CancellationToken) -> io::Result<(SocketAddr, impl Future<Output = ()>)> {
    let listener = TcpListener::bind(args.listen).await?;
    let address = listener.local_addr()?;
    Ok((address, async move {
        tokio::select! {
            () = accept(listener, args) => {}
            () = stop.cancelled() => {}
        }
    }))
}

async fn accept(listener: TcpListener, args: Relay) {
    let silence = args.silent_after.map(|time| Instant::now() + time);
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let to = args.to.clone();
        tokio::spawn(async move {
            let forwarding = forward(client, &to);
            match silence {
                None => forwarding.await,
                Some(silence) => {
                    tokio::pin!(forwarding);
                    tokio::select! {
                        result = &mut forwarding => result,
                        // Both connections stay open, but no bytes are forwarded.
                        () = sleep_until(silence) => std::future::pending().await,
                    }
                }
            }
        });
    }
}

async fn forward(mut client: TcpStream, to: &str) -> io::Result<()> {
    let address = lookup_host(to).await?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut server = TcpStream::connect(address).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
