//! A proxy to Postgres that cuts connections around a COMMIT, or around a statement that is its own transaction.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to a commit. The connection is lost in every case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It never arrives.
    Before,
    /// It arrives, and the client loses the connection at once while the commit may still run.
    During,
    /// It completes, and its response is lost.
    After,
}

/// Decides what happens to the commit with this number, counted from 0.
type Plan = Box<dyn Fn(usize) -> Option<Cut> + Send + Sync>;

/// The proxy. It accepts connections until it is dropped.
pub struct Proxy {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    socket: PathBuf,
    plan: Plan,
    commits: AtomicUsize,
    cuts: AtomicUsize,
    /// Whether to close all connections after the next cut.
    closes: AtomicBool,
    closed: watch::Sender<bool>,
}

impl Proxy {
    /// Starts a proxy to the server whose socket is in this folder.
    pub async fn start(socket_dir: &Path, plan: impl Fn(usize) -> Option<Cut> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            socket: socket_dir.join(".s.PGSQL.5432"),
            plan: Box::new(plan),
            commits: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            closes: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        });
        let accepting = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let _ = client.set_nodelay(true);
                let shared = accepting.clone();
                tokio::spawn(async move { shared.forward(client).await });
            }
        });
        Self { address, shared, task }
    }

    /// The URL of a database through this proxy.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}?sslmode=disable", self.address)
    }

    /// The number of connections cut.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// Closes all connections after the next cut and refuses new ones.
    pub fn close_after_the_next_cut(&self) {
        self.shared.closes.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    async fn forward(&self, mut client: TcpStream) {
        let mut closed = self.closed.subscribe();
        if *closed.borrow() {
            return;
        }
        // The server may be restarting.
        let Ok(mut server) = UnixStream::connect(&self.socket).await else { return };
        let mut hold = None;
        let (mut requests, mut responses) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            tokio::select! {
                _ = closed.changed() => return,
                read = client.read(&mut requests) => {
                    let Ok(length @ 1..) = read else { return };
                    let cut = self.cut(&requests[..length], &mut hold);
                    if cut == Some(Cut::Before) {
                        return;
                    }
                    if server.write_all(&requests[..length]).await.is_err() {
                        return;
                    }
                    if cut == Some(Cut::During) {
                        drop(client);
                        let _ = server.read(&mut responses).await;
                        return;
                    }
                    if cut == Some(Cut::After) {
                        // The response shows that the commit is complete.
                        let _ = server.read(&mut responses).await;
                        return;
                    }
                }
                read = server.read(&mut responses) => {
                    let Ok(length @ 1..) = read else { return };
                    if client.write_all(&responses[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Decides what happens to these bytes. `hold` is the name of the prepared statement that reserves stock without a
    /// surrounding transaction, once it is prepared on this connection.
    fn cut(&self, bytes: &[u8], hold: &mut Option<Vec<u8>>) -> Option<Cut> {
        let contains = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        if bytes.first() == Some(&b'P') && contains(b"SELECT $1, 'held'") {
            // A Parse message: its type, its length in four bytes, and the statement's name.
            *hold = bytes[5..].split_inclusive(|byte| *byte == 0).next().map(<[u8]>::to_vec);
            return None;
        }
        let is_hold = bytes.first() == Some(&b'B') && hold.as_ref().is_some_and(|name| contains(name));
        if !is_hold && !contains(b"COMMIT\0") {
            return None;
        }
        let cut = (self.plan)(self.commits.fetch_add(1, Ordering::Relaxed))?;
        self.cuts.fetch_add(1, Ordering::Relaxed);
        if self.closes.load(Ordering::Relaxed) {
            self.closed.send_replace(true);
        }
        Some(cut)
    }
}
