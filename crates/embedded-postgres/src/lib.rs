//! Runs a private Postgres server, using the Postgres that is installed.
//!
//! `hedgerow up` keeps its data in one, and tests use it to stop, kill or freeze a database under a running service.
//! The server listens on a Unix socket in a folder that only its owner can enter, and on no TCP port, so any number of
//! servers can run side by side. It needs Linux (`/proc`) and an installed Postgres; nothing is downloaded.
//!
//! ```no_run
//! use embedded_postgres::{Server, Settings};
//!
//! let mut server = Server::temporary(&Settings::for_tests())?;
//! let url = server.superuser_url("postgres");
//! server.kill(); // simulates a crash
//! server.start_again()?; // same data, same URL
//! # Ok::<(), embedded_postgres::Error>(())
//! ```

mod account;
mod cluster;
mod data_dir;
mod error;
mod folder;
mod installation;
mod log;
mod pdeathsig;
mod private;
mod process;
mod server;
mod socket;
mod url;

pub use account::Account;
pub use data_dir::DataDir;
pub use error::Error;
pub use pdeathsig::with_pdeathsig;
pub use private::PrivateFolder;
pub use server::{Frozen, Server, Settings};

/// The superuser that `initdb` creates. It needs no password: only the server's account can reach the socket.
pub const SUPERUSER: &str = "postgres";

/// The folder of the database cluster, inside the data folder.
const CLUSTER: &str = "pgdata";

/// The port number in the socket's file name. No TCP port is opened.
pub const PORT: u16 = 5432;
