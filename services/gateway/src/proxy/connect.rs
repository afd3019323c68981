//! TCP connections to endpoints.

use std::{io, net::SocketAddr, time::Duration};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{net::TcpStream, time};

/// A host that is gone sends nothing, not even a reset, so the kernel probes connections on which nothing was received
/// for this long (in seconds), at this interval and this often.
///
/// `TCP_USER_TIMEOUT` would replace the number of probes, and also give up on a peer that is alive but does not read
/// for a while. The kernel does not probe while sent data is unacknowledged. That case is covered elsewhere: HTTP/1.1
/// requests have deadlines, HTTP/2 has pings, and tunnels set `TCP_USER_TIMEOUT`.
const KEEPALIVE_IDLE: u32 = 5;
const KEEPALIVE_INTERVAL: u32 = 2;
const KEEPALIVE_PROBES: u32 = 3;

/// Connects to an endpoint.
///
/// # Errors
/// Returns an error if the connection fails or takes longer than `timeout`.
pub(super) async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = time::timeout(timeout, TcpStream::connect(address)).await??;
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(stream)
}
