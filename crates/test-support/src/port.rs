//! A port that is a test's own, whether or not anybody listens there.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1 that the kernel gives to nobody else. One that is only known to have been free does not stay so:
/// each listener of another test gets it by a chance of 1 in 7,000.
#[derive(Debug, Clone)]
pub struct Port {
    /// The address, which refuses connections while nobody listens.
    pub address: SocketAddr,
    _held: Arc<TcpSocket>,
}

impl Port {
    /// Takes one where nobody listens.
    ///
    /// # Panics
    /// Where none is free.
    #[must_use]
    pub fn free() -> Self {
        let held = bound((Ipv4Addr::LOCALHOST, 0).into());
        Self { address: held.local_addr().expect("an address"), _held: Arc::new(held) }
    }

    /// Listens there, once whoever did so before is gone.
    ///
    /// # Panics
    /// Where that is not so.
    #[expect(clippy::unused_async, reason = "only who has a runtime can listen")]
    pub async fn listen(&self) -> TcpListener {
        bound(self.address).listen(1024).expect("nobody else listens")
    }
}

/// A socket that shares its port with others that say so too: those of this module. With `SO_REUSEADDR` it would share
/// it with anybody, while nobody listens.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("the system knows it");
    socket.bind(address).expect("a free port");
    socket
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_port_refuses_connections_but_while_somebody_listens() {
        let port = Port::free();
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address).is_err());
            let listener = port.listen().await;
            let client = TcpStream::connect(port.address).expect("somebody listens");
            let (server, _) = listener.accept().await.expect("a connection");
            // Connections outlive their listener, and its port's next one is not held up by those that do.
            drop(listener);
            assert!(TcpStream::connect(port.address).is_err());
            let again = port.listen().await;
            drop((server, client, again));
        }
    }

    #[tokio::test]
    async fn a_port_is_nobody_elses() {
        let port = Port::free();
        assert!(TcpListener::bind(port.address).await.is_err());
        let listener = port.listen().await;
        assert!(TcpListener::bind(port.address).await.is_err());
        drop(listener);
    }
}
