//! The memory that clients who read nothing cost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use test_support::{
    process::{Process, Program, TIMEOUT, eventually},
    raw::{self, Raw},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

const READERS: usize = 200;

/// What each may cost, in bytes: 64 KiB of the response, and a few for the request and its connections. In a debug
/// build the latter are larger.
const MAX_COST: usize = 88 * 1024;

/// Starts a service with an endless response, and counts what is written.
async fn endless() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let written = Arc::<AtomicUsize>::default();
    let count = written.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n").await;
                let piece = vec![b'x'; 64 * 1024];
                while stream.write_all(&piece).await.is_ok() {
                    count.fetch_add(piece.len(), Ordering::SeqCst);
                }
            });
        }
    });
    (port, written)
}

/// Sends requests whose responses are not read, and waits until nothing more of them is taken from the service.
async fn read_nothing(gateway: &Process, count: usize, written: &AtomicUsize) -> Vec<TcpStream> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let mut stream = socket.connect(gateway.http).await.expect("a connection");
        stream.write_all(raw::get("/test").as_bytes()).await.expect("sent");
        readers.push(stream);
    }
    let mut before = 0;
    eventually("the responses stand still", TIMEOUT, async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = written.load(Ordering::SeqCst);
        (now > 0 && std::mem::replace(&mut before, now) == now).then_some(())
    })
    .await;
    readers
}

async fn resident(gateway: &Process) -> usize {
    let mut admin = Raw::connect(gateway.admin).await.expect("a connection");
    admin.send(raw::get("/metrics")).await.expect("sent");
    let metrics = admin.response().await.expect("the metrics").body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
    line.and_then(|bytes| bytes.parse().ok()).expect("the metric")
}

#[tokio::test]
async fn a_client_that_reads_nothing_costs_little_memory() {
    let (port, written) = endless().await;
    let program = Program::new(env!("CARGO_BIN_EXE_gateway"));
    let gateway = program.variable("ROUTES", format!("test:/test=http://127.0.0.1:{port}")).serve().await;
    let _first = read_nothing(&gateway, READERS / 10, &written).await;
    let before = resident(&gateway).await;
    let _readers = read_nothing(&gateway, READERS, &written).await;
    let each = (resident(&gateway).await - before) / READERS;
    assert!(each < MAX_COST, "{each} bytes each");
}
