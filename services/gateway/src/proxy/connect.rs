//! TCP connections to endpoints.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{setsockopt, sockopt},
};
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

/// How much the kernel keeps for an endpoint that does not read, in bytes. It accounts for as much again. Without a limit
/// it would keep megabytes for each request, which count as the memory of the pod.
const SEND_BUFFER: usize = 128 * 1024;

/// The kind of an error that says nothing about the endpoint: this process has no port, file descriptor or memory left
/// for a connection.
pub(super) const EXHAUSTED: ErrorKind = ErrorKind::ResourceBusy;

/// Connects to an endpoint.
///
/// # Errors
/// Returns an error if the connection fails or takes longer than `timeout`, and one of the kind [`EXHAUSTED`] if the
/// endpoint is not the cause.
pub(super) async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = time::timeout(timeout, TcpStream::connect(address)).await?.map_err(classify)?;
    stream.set_nodelay(true)?;
    setsockopt(&stream, sockopt::SndBuf, &SEND_BUFFER)?;
    setsockopt(&stream, sockopt::KeepAlive, &true)?;
    setsockopt(&stream, sockopt::TcpKeepIdle, &KEEPALIVE_IDLE)?;
    setsockopt(&stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL)?;
    setsockopt(&stream, sockopt::TcpKeepCount, &KEEPALIVE_PROBES)?;
    Ok(stream)
}

fn classify(error: io::Error) -> io::Error {
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::EADDRNOTAVAIL | Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM) => {
            io::Error::new(EXHAUSTED, error)
        }
        _ => error,
    }
}
