//! Passes connections on, byte for byte: what stands between a client and a server that is to be away for that client
//! alone. It goes away when it is killed, and goes silent when it is told to.

use std::{io, net::SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream, lookup_host},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::cli::Relay;

/// Listens, and returns the address and what is to be awaited.
///
/// # Errors
/// Where the address is taken.
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
            let passed_on = pass_on(client, &to);
            match silence {
                None => passed_on.await,
                Some(silence) => {
                    tokio::pin!(passed_on);
                    tokio::select! {
                        ended = &mut passed_on => ended,
                        // Both ends stay open, and nothing moves any more.
                        () = sleep_until(silence) => std::future::pending().await,
                    }
                }
            }
        });
    }
}

async fn pass_on(mut client: TcpStream, to: &str) -> io::Result<()> {
    let address = lookup_host(to).await?.next().ok_or(io::ErrorKind::NotFound)?;
    let mut server = TcpStream::connect(address).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
