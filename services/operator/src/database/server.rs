//! A database server and its admin, from the keys of a Secret.

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::{Error, Invalid, session::Session};
use crate::manifests::CA_PATH;

/// All but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A server, and the admin who makes roles and databases on it. Shown, it is host and port.
#[derive(Clone)]
pub struct Server {
    admin: PgConnectOptions,
    /// The certificates of the authority that signed its own, where the Secret names one.
    ca: Option<Vec<u8>>,
}

impl Server {
    /// The server that an admin's URL names. With `ca`, certificates in PEM, it must prove itself by TLS, and by its
    /// name too unless the URL says `sslmode=require`, which then means what it means to `libpq`: `verify-ca`.
    ///
    /// # Errors
    /// A text that repeats nothing of the URL.
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Self, Invalid> {
        let expected = Invalid("the admin's URL must be such as postgres://USER:PASSWORD@HOST:5432/DATABASE");
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(expected);
        }
        // Statements hold verifiers of passwords: they are not for the log.
        let mut admin = PgConnectOptions::from_str(url).map_err(|_| expected)?.disable_statement_logging();
        if admin.get_database().is_none() {
            admin = admin.database("postgres");
        }
        if let Some(ca) = ca {
            if CertificateDer::pem_slice_iter(ca).next().is_none_or(|first| first.is_err()) {
                return Err(Invalid("ca.crt holds no certificate in PEM"));
            }
            let mode = match admin.get_ssl_mode() {
                PgSslMode::Allow | PgSslMode::Prefer => PgSslMode::VerifyFull,
                PgSslMode::Require => PgSslMode::VerifyCa,
                mode => mode,
            };
            admin = admin.ssl_mode(mode).ssl_root_cert_from_pem(ca.to_vec());
        }
        Ok(Self { admin, ca: ca.map(<[u8]>::to_vec) })
    }

    /// The host's name or address, or the folder of the Unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        self.admin.get_socket().and_then(|path| path.to_str()).unwrap_or_else(|| self.admin.get_host())
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.admin.get_port()
    }

    /// The URL by which the role `name` opens the database `name`.
    #[must_use]
    pub fn url(&self, name: &str, password: &str) -> String {
        let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
        let (name, password, port) = (encode(name), encode(password), self.port());
        let (host, socket) = match self.admin.get_socket() {
            Some(folder) => ("localhost", format!("host={}&", encode(&folder.to_string_lossy()))),
            None => (self.admin.get_host(), String::new()),
        };
        let authority = match self.ca {
            Some(_) if self.ssl_mode().starts_with("verify") => format!("&sslrootcert={}", encode(CA_PATH)),
            _ => String::new(),
        };
        format!("postgres://{name}:{password}@{host}:{port}/{name}?{socket}sslmode={}{authority}", self.ssl_mode())
    }

    /// The certificates of the server's own authority, in PEM: a service needs them at [`CA_PATH`].
    #[must_use]
    pub fn ca(&self) -> Option<&[u8]> {
        self.ca.as_deref()
    }

    fn ssl_mode(&self) -> &'static str {
        match self.admin.get_ssl_mode() {
            PgSslMode::Disable => "disable",
            PgSslMode::Allow | PgSslMode::Prefer => "prefer",
            PgSslMode::Require => "require",
            PgSslMode::VerifyCa => "verify-ca",
            PgSslMode::VerifyFull => "verify-full",
        }
    }

    /// Logs in as the admin, to the database that its URL names.
    pub(super) async fn admin(&self) -> Result<Session, Error> {
        Session::open(self, &safely(self.admin.clone())).await
    }

    /// Logs in as the admin, to the database of a service.
    pub(super) async fn admin_in(&self, database: &str) -> Result<Session, Error> {
        Session::open(self, &safely(self.admin.clone().database(database))).await
    }

    /// Logs in as a service's role, to its database.
    pub(super) async fn log_in(&self, name: &str, password: &str) -> Result<Session, Error> {
        Session::open(self, &self.admin.clone().username(name).password(password).database(name)).await
    }
}

/// The owner of a database can set `search_path` for whoever opens it: an admin that followed it would run what a
/// service calls `=`.
fn safely(options: PgConnectOptions) -> PgConnectOptions {
    options.options([("search_path", "pg_catalog")])
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host(), self.port())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

    #[test]
    fn a_server_shows_no_secret() {
        let server = Server::new("postgres://ada:secret@db:5433/x", None).unwrap();
        assert_eq!(format!("{server:?}"), "Server(db:5433)");
        for url in ["mysql://ada:secret@db/x", "postgres://ada:secret@db:badport/x", "secret"] {
            assert!(!Server::new(url, None).unwrap_err().to_string().contains("secret"));
        }
    }

    #[test]
    fn a_service_gets_a_url_of_its_own() {
        let server = Server::new("postgresql://ada:secret@db/x?sslmode=verify-full&user=ada", None).unwrap();
        assert_eq!(server.url("shöp", "a/b"), "postgres://sh%C3%B6p:a%2Fb@db:5432/sh%C3%B6p?sslmode=verify-full");
        let server = Server::new("postgres://ada@localhost/x?host=/run/pg&sslmode=disable", None).unwrap();
        assert_eq!(server.url("shop", "p"), "postgres://shop:p@localhost:5432/shop?host=%2Frun%2Fpg&sslmode=disable");
        assert_eq!((server.host(), server.port()), ("/run/pg", 5432));
    }

    #[test]
    fn an_authority_is_checked_against_unless_tls_is_off() {
        let mode = |parameters: &str, ca| {
            let server = Server::new(&format!("postgres://ada@db/x{parameters}"), ca).unwrap();
            (server.admin.get_ssl_mode(), server.ssl_mode())
        };
        assert!(matches!(mode("", None), (PgSslMode::Prefer, "prefer")));
        assert!(matches!(mode("", Some(CA)), (PgSslMode::VerifyFull, "verify-full")));
        assert!(matches!(mode("?sslmode=require", Some(CA)), (PgSslMode::VerifyCa, "verify-ca")));
        assert!(matches!(mode("?sslmode=disable", Some(CA)), (PgSslMode::Disable, "disable")));
        assert!(Server::new("postgres://ada@db/x", Some(b"none")).is_err());
    }
}
