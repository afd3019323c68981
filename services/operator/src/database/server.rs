//! A database server and its admin, as described by a Secret.

use std::{fmt, str::FromStr};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sqlx::{
    ConnectOptions,
    postgres::{PgConnectOptions, PgSslMode},
};

use super::{error::Error, identifier::Invalid, session::Session};
use crate::manifests::CA_PATH;

/// Everything except the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// A server and the admin who creates roles and databases on it. `Display` shows host and port.
#[derive(Clone)]
pub struct Server {
    admin: PgConnectOptions,
    /// The CA certificates that the server certificate is verified against, if the Secret has any.
    ca: Option<Vec<u8>>,
}

impl Server {
    /// Creates a server from the URL of an admin. With `ca` (PEM), the server certificate and host name are verified.
    /// As in `libpq`, `sslmode=require` then means `verify-ca`: only the certificate is.
    ///
    /// # Errors
    /// Returns an error if the URL or the certificates are invalid. The message repeats nothing of the URL.
    pub fn new(url: &str, ca: Option<&[u8]>) -> Result<Self, Invalid> {
        let expected = Invalid("the admin URL must have the form postgres://USER:PASSWORD@HOST:5432/DATABASE");
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(expected);
        }
        // Statements contain password verifiers, which must not be logged.
        let mut admin = PgConnectOptions::from_str(url).map_err(|_| expected)?.disable_statement_logging();
        // CloudNativePG's superuser is for every database, which its Secret writes as `*`.
        if matches!(admin.get_database(), None | Some("*")) {
            admin = admin.database("postgres");
        }
        if let Some(ca) = ca {
            if CertificateDer::pem_slice_iter(ca).next().is_none_or(|first| first.is_err()) {
                return Err(Invalid("ca.crt contains no PEM certificate"));
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

    /// The host name or address, or the directory of the Unix socket.
    #[must_use]
    pub fn host(&self) -> &str {
        self.admin.get_socket().and_then(|path| path.to_str()).unwrap_or_else(|| self.admin.get_host())
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.admin.get_port()
    }

    /// The URL with which the role `name` connects to the database `name`.
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

    /// The CA certificates in PEM. A service needs them at [`CA_PATH`].
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

    /// The role of the admin.
    pub(super) fn admin_name(&self) -> &str {
        self.admin.get_username()
    }

    /// Logs in as the admin to the database in its URL.
    pub(super) async fn admin(&self) -> Result<Session, Error> {
        Session::open(self.to_string(), &with_safe_search_path(self.admin.clone()), true).await
    }

    /// Logs in as the admin to the database of a service.
    pub(super) async fn admin_in(&self, database: &str) -> Result<Session, Error> {
        Session::open(self.to_string(), &with_safe_search_path(self.admin.clone().database(database)), true).await
    }

    /// Logs in as the role of a service to its database.
    pub(super) async fn log_in(&self, name: &str, password: &str) -> Result<Session, Error> {
        Session::open(self.to_string(), &self.admin.clone().username(name).password(password).database(name), false)
            .await
    }
}

/// Fixes the `search_path`. The owner of a database can set it for everyone who connects, which would make the admin
/// run functions and operators of the service.
fn with_safe_search_path(options: PgConnectOptions) -> PgConnectOptions {
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
    fn debug_output_and_errors_contain_no_secret() {
        let server = Server::new("postgres://ada:secret@db:5433/x", None).unwrap();
        assert_eq!(format!("{server:?}"), "Server(db:5433)");
        for url in ["mysql://ada:secret@db/x", "postgres://ada:secret@db:badport/x", "secret"] {
            assert!(!Server::new(url, None).unwrap_err().to_string().contains("secret"));
        }
    }

    #[test]
    fn the_service_url_keeps_host_and_tls_mode() {
        let server = Server::new("postgresql://ada:secret@db/x?sslmode=verify-full&user=ada", None).unwrap();
        assert_eq!(server.url("shöp", "a/b"), "postgres://sh%C3%B6p:a%2Fb@db:5432/sh%C3%B6p?sslmode=verify-full");
        let server = Server::new("postgres://ada@localhost/x?host=/run/pg&sslmode=disable", None).unwrap();
        assert_eq!(server.url("shop", "p"), "postgres://shop:p@localhost:5432/shop?host=%2Frun%2Fpg&sslmode=disable");
        assert_eq!((server.host(), server.port()), ("/run/pg", 5432));
    }

    #[test]
    fn an_admin_of_every_database_connects_to_postgres() {
        for (url, database) in
            [("postgres://a@db/*", "postgres"), ("postgres://a@db", "postgres"), ("postgres://a@db/x", "x")]
        {
            assert_eq!(Server::new(url, None).unwrap().admin.get_database(), Some(database), "{url}");
        }
    }

    #[test]
    fn a_ca_is_used_unless_tls_is_disabled() {
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
