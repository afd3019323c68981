//! A way to Postgres that loses connections around a COMMIT, or a statement that is its own transaction.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use embedded_postgres::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
    task::JoinHandle,
};

/// What happens to a commit; the connection is lost either way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// It never arrives.
    Before,
    /// It arrives, and the client loses the connection at once, while it may still run.
    During,
    /// It is done, and its answer is lost.
    After,
}

/// Says what happens to the commit of this number, counted from 0.
type Plan = Box<dyn Fn(usize) -> Option<Cut> + Send + Sync>;

/// The proxy: it takes connections until it is dropped.
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
    /// Whether nothing gets through any more after the next cut.
    closes: AtomicBool,
    closed: watch::Sender<bool>,
}

impl Proxy {
    pub async fn start(server: &Server, plan: impl Fn(usize) -> Option<Cut> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            socket: server.socket_dir().join(".s.PGSQL.5432"),
            plan: Box::new(plan),
            commits: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
            closes: AtomicBool::new(false),
            closed: watch::Sender::new(false),
        });
        let carrying = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let _ = client.set_nodelay(true);
                let shared = carrying.clone();
                tokio::spawn(async move { shared.carry(client).await });
            }
        });
        Self { address, shared, task }
    }

    /// The URL of a database by this way.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@{}/{database}?sslmode=disable", self.address)
    }

    /// How many connections it cut.
    pub fn cuts(&self) -> usize {
        self.shared.cuts.load(Ordering::Relaxed)
    }

    /// Lets nothing through any more after the next cut.
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
    async fn carry(&self, mut client: TcpStream) {
        let mut closed = self.closed.subscribe();
        if *closed.borrow() {
            return;
        }
        // While it restarts there is nothing to connect to.
        let Ok(mut server) = UnixStream::connect(&self.socket).await else { return };
        let mut hold = None;
        let (mut asked, mut answered) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            tokio::select! {
                _ = closed.changed() => return,
                read = client.read(&mut asked) => {
                    let Ok(length @ 1..) = read else { return };
                    let cut = self.cut(&asked[..length], &mut hold);
                    if cut == Some(Cut::Before) {
                        return;
                    }
                    if server.write_all(&asked[..length]).await.is_err() {
                        return;
                    }
                    if cut == Some(Cut::During) {
                        drop(client);
                        let _ = server.read(&mut answered).await;
                        return;
                    }
                    if cut == Some(Cut::After) {
                        // Its answer means that it is done.
                        let _ = server.read(&mut answered).await;
                        return;
                    }
                }
                read = server.read(&mut answered) => {
                    let Ok(length @ 1..) = read else { return };
                    if client.write_all(&answered[..length]).await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// What is to happen to these bytes. `hold` is what this connection calls the statement that holds without a
    /// transaction around it, once it is prepared.
    fn cut(&self, bytes: &[u8], hold: &mut Option<Vec<u8>>) -> Option<Cut> {
        let contains = |text: &[u8]| bytes.windows(text.len()).any(|window| window == text);
        if bytes.first() == Some(&b'P') && contains(b"SELECT $1, 'held'") {
            // Parse: a type, a length of four bytes, the name.
            *hold = bytes[5..].split_inclusive(|byte| *byte == 0).next().map(<[u8]>::to_vec);
            return None;
        }
        let holds = bytes.first() == Some(&b'B') && hold.as_ref().is_some_and(|name| contains(name));
        if !holds && !contains(b"COMMIT\0") {
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
