//! A Postgres server of one's own: found where it is installed, initialised, started, stopped.
//!
//! Behind `hedgerow up`, and in tests that have to stop a database under a service's feet. The server
//! listens on a Unix socket in a folder that only its owner can enter, and on no TCP port, so any number
//! of them run side by side. It needs Linux (`/proc`) and an installed Postgres; it downloads nothing.
//!
//! ```no_run
//! use embedded_postgres::{Server, Settings};
//!
//! let mut server = Server::temporary(&Settings::for_tests())?;
//! let url = server.superuser_url("postgres");
//! server.kill(); // as a crash would
//! server.start_again()?; // the same data, the same url
//! # Ok::<(), embedded_postgres::Error>(())
//! ```

mod account;
mod cluster;
mod data_dir;
mod error;
mod installation;
mod log;
mod process;
mod server;
mod socket;
mod tether;
mod url;

pub use account::Account;
pub use data_dir::DataDir;
pub use error::Error;
pub use server::{Frozen, Server, Settings};
pub use tether::tethered;

/// The role that `initdb` makes: trusted on the socket, whose folder only the server's account enters.
pub const SUPERUSER: &str = "postgres";

/// Part of the socket's file name. No TCP port of that number is opened.
pub const PORT: u16 = 5432;
