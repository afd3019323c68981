//! A port that is reserved for a test, whether or not anything listens on it.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1 that the kernel assigns to nothing else. A port that was merely free a moment ago is not safe:
/// each listener of another test would get it with a probability of 1 in 7,000.
#[derive(Debug, Clone)]
pub struct Port {
    /// The address. It refuses connections while nothing listens on it.
    pub address: SocketAddr,
    _held: Arc<TcpSocket>,
}

impl Port {
    /// Reserves a free port.
    ///
    /// # Panics
    /// Panics if no port is free.
    #[must_use]
    pub fn free() -> Self {
        let held = bound((Ipv4Addr::LOCALHOST, 0).into());
        Self { address: held.local_addr().expect("an address"), _held: Arc::new(held) }
    }

    /// Listens on the port. The previous listener must be closed.
    ///
    /// # Panics
    /// Panics if something else listens on it.
    #[expect(clippy::unused_async, reason = "a listener needs a runtime")]
    pub async fn listen(&self) -> TcpListener {
        bound(self.address).listen(1024).expect("no other listener")
    }
}

/// Creates a socket that shares its port with other sockets that set `SO_REUSEPORT`: those of this module. With
/// `SO_REUSEADDR` any socket could bind the port while nothing listens on it.
fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("SO_REUSEPORT is supported");
    socket.bind(address).expect("a free port");
    socket
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn a_port_refuses_connections_unless_something_listens() {
        let port = Port::free();
        for _ in 0..3 {
            assert!(TcpStream::connect(port.address).is_err());
            let listener = port.listen().await;
            let client = TcpStream::connect(port.address).expect("a listener");
            let (server, _) = listener.accept().await.expect("a connection");
            // Connections outlive their listener and do not block the next one.
            drop(listener);
            assert!(TcpStream::connect(port.address).is_err());
            let again = port.listen().await;
            drop((server, client, again));
        }
    }

    #[tokio::test]
    async fn a_reserved_port_cannot_be_bound() {
        let port = Port::free();
        assert!(TcpListener::bind(port.address).await.is_err());
        let listener = port.listen().await;
        assert!(TcpListener::bind(port.address).await.is_err());
        drop(listener);
    }
}
