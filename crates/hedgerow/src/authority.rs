//! The local authority: signs the tokens by which services and the administrator prove who they are, as a cluster does for
//! service accounts.
//!
//! Its key is in a private folder of the data folder, so whoever can read the data can also make tokens. Without root all
//! services run as the same user, so they could read it too.

mod publisher;

use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use api::identity::{ADMIN_ACCOUNT, subject};
use embedded_postgres::{DataDir, PrivateFolder};
use identity::sign::{ACCESS_TOKEN, SigningKey, key_set};
use identity::{ADMIN, DEFAULT_AUDIENCE};
use serde_json::{Value, json};

use crate::authentication::{FOLDER, NAMESPACE};

pub use self::publisher::Publisher;

/// The `iss` of the tokens of services and of the administrator.
const SERVICES: &str = "hedgerow-up";

/// The `iss`, the subject and the client of tokens that have scopes and nothing else. They are not of a service, so they
/// must not have the rights of one.
const SCOPED: &str = "hedgerow-token";

/// The file with its private key, as a PKCS #8 document in DER.
const KEY_FILE: &str = "signing-key.der";

/// The type of the tokens of services, as of those of service accounts.
const SERVICE_TOKEN: &str = "JWT";

/// The local authority.
pub struct Authority {
    key: SigningKey,
}

impl Authority {
    /// Reads the key of a data folder, or makes one.
    pub fn open_or_create(data: &DataDir) -> anyhow::Result<(Self, PrivateFolder)> {
        let folder = data.private_folder(FOLDER)?;
        let key = if let Some(document) = folder.read(KEY_FILE)? {
            parse(&document, folder.path())?
        } else {
            let key = SigningKey::generate()?;
            folder.replace(KEY_FILE, &key.to_pkcs8()?)?;
            key
        };
        Ok((Self { key }, folder))
    }

    /// Reads the key of a data folder, whether it is in use or not.
    ///
    /// # Errors
    /// Returns an error if there is none.
    pub fn open(data: &Path) -> anyhow::Result<Self> {
        let folder = data.join(FOLDER);
        let document = PrivateFolder::read_at(&folder, KEY_FILE)?;
        ensure!(
            document.is_some(),
            "no key in {}: run `hedgerow up --auth` with this data folder first, or name another one with --data-dir",
            folder.display()
        );
        Ok(Self { key: parse(&document.unwrap_or_default(), &folder)? })
    }

    /// A token by which a service, or the administrator, proves who it is.
    pub fn service_token(&self, account: &str, audience: &str, lifetime: Duration) -> anyhow::Result<String> {
        let claims = json!({ "iss": SERVICES, "sub": subject(NAMESPACE, account), "aud": [audience] });
        self.sign(claims, SERVICE_TOKEN, lifetime)
    }

    /// A token that has scopes and says of nobody who it is.
    pub fn scoped_token(&self, scopes: &[String], lifetime: Duration) -> anyhow::Result<String> {
        let claims = json!({
            "iss": SCOPED,
            "sub": SCOPED,
            "client_id": SCOPED,
            "aud": [DEFAULT_AUDIENCE],
            "scope": scopes.join(" "),
        });
        self.sign(claims, ACCESS_TOKEN, lifetime)
    }

    fn sign(&self, mut claims: Value, typ: &str, lifetime: Duration) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
        claims["iat"] = now.as_secs().into();
        claims["exp"] = (now + lifetime).as_secs().into();
        Ok(self.key.sign(&claims, typ)?)
    }

    /// The public key, as a JSON Web Key Set.
    fn jwks(&self) -> Value {
        key_set([self.key.jwk()])
    }

    /// Its entries in the list of issuers. `jwks` is the path of the file with its public key.
    fn entries(jwks: &str) -> [Value; 2] {
        let keys = format!("file://{jwks}");
        let services = json!({
            "issuer": SERVICES,
            "jwks_url": keys,
            // Each service also accepts the tokens that name itself.
            "audience": [DEFAULT_AUDIENCE],
            "kind": "service",
            "roles": { "claim": "sub", "map": { subject(NAMESPACE, ADMIN_ACCOUNT): [ADMIN] } },
        });
        let scoped = json!({
            "issuer": SCOPED,
            "jwks_url": keys,
            "audience": [DEFAULT_AUDIENCE],
            // None of these has a role.
            "roles": { "claim": "roles", "map": {} },
        });
        [services, scoped]
    }
}

fn parse(document: &[u8], folder: &Path) -> anyhow::Result<SigningKey> {
    let file = folder.join(KEY_FILE);
    SigningKey::from_pkcs8(document).with_context(|| {
        format!("cannot use {}: remove it, and `hedgerow up --auth` makes another one", file.display())
    })
}
