//! A TCP proxy in front of the server that adds TLS or cuts connections at a chosen point.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use embedded_postgres::PORT;
use operator::database::Server;
use sqlx::{Connection, Error, PgConnection};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, UnixStream},
    time,
};
use tokio_rustls::TlsAcceptor;

use crate::postgres::{ADMIN_PASSWORD, Postgres};

/// When all connections are cut.
#[derive(Clone, Default)]
enum Cut {
    #[default]
    Never,
    /// After this many simple queries. Every statement that writes is one.
    After(usize),
    /// After a statement with this prefix.
    AfterThis(&'static str),
    /// The connections were cut, and new ones are cut too.
    Done,
}

impl Cut {
    /// Whether this packet is the last.
    fn ends_with(&mut self, packet: &[u8]) -> bool {
        // A message `Query`: its type, its length, its text.
        let statement = packet.strip_prefix(b"Q").and_then(|message| message.get(4..));
        let last = match (&mut *self, statement) {
            (Self::Done, _) => true,
            (Self::Never, _) | (_, None) => false,
            (Self::After(left), Some(_)) => {
                *left -= 1;
                *left == 0
            }
            (Self::AfterThis(text), Some(statement)) => statement.starts_with(text.as_bytes()),
        };
        if last {
            *self = Self::Done;
        }
        last
    }
}

/// A TCP port in front of a server's socket.
pub struct Proxy {
    port: u16,
    cut: Arc<Mutex<Cut>>,
}

impl Proxy {
    pub async fn start(postgres: &Postgres) -> Self {
        Self::start_with(postgres, None).await
    }

    pub async fn start_with(postgres: &Postgres, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self { port: listener.local_addr().unwrap().port(), cut: Arc::default() };
        let socket = postgres.process.socket_dir().join(format!(".s.PGSQL.{PORT}"));
        let cut = proxy.cut.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let (socket, cut, tls) = (socket.clone(), cut.clone(), tls.clone());
                tokio::spawn(async move {
                    let server = UnixStream::connect(socket).await?;
                    let Some(tls) = tls else { return pass(client, server, &cut).await };
                    // The SSLRequest and its acceptance.
                    client.read_exact(&mut [0; 8]).await?;
                    client.write_all(b"S").await?;
                    pass(tls.accept(client).await?, server, &cut).await
                });
            }
        });
        proxy
    }

    /// Cuts all connections after this many more statements.
    pub fn ends_after(&self, statements: usize) {
        *self.cut.lock().unwrap() = Cut::After(statements);
    }

    /// Cuts all connections after a statement with this prefix.
    pub fn ends_with(&self, text: &'static str) {
        *self.cut.lock().unwrap() = Cut::AfterThis(text);
    }

    /// The server, with an admin who is not a superuser.
    pub fn server(&self) -> Server {
        Server::new(&self.url("admin", ADMIN_PASSWORD, "postgres", "disable"), None).unwrap()
    }

    pub fn url(&self, role: &str, password: &str, database: &str, ssl_mode: &str) -> String {
        format!("postgres://{role}:{password}@localhost:{}/{database}?sslmode={ssl_mode}", self.port)
    }

    pub async fn open(&self, role: &str, password: &str, database: &str) -> Result<PgConnection, Error> {
        PgConnection::connect(&self.url(role, password, database, "disable")).await
    }
}

async fn pass(client: impl AsyncRead + AsyncWrite, server: UnixStream, cut: &Mutex<Cut>) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = server.into_split();
    let requests = async {
        let mut packet = vec![0; 1 << 16];
        loop {
            let length = from_client.read(&mut packet).await?;
            if length == 0 {
                return Ok(());
            }
            let last = cut.lock().unwrap().ends_with(&packet[..length]);
            to_server.write_all(&packet[..length]).await?;
            if last {
                // Another connection may be in use: its next packet ends it.
                return Ok(());
            }
        }
    };
    tokio::select! {
        ended = requests => ended,
        ended = tokio::io::copy(&mut from_server, &mut to_client) => ended.map(drop),
    }
}

/// Waits until the condition holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = time::Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(time::Instant::now() < deadline, "{what}");
        time::sleep(Duration::from_millis(10)).await;
    }
}
