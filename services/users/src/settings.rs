//! The settings of the issuer, as flags that mirror environment variables.

use std::{fs, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use clap::Args;
use identity::seal::KeyEncryptionKey;

const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// The longest lifetime of an access token. For as long, sessions that were ended are published.
const MAX_LIFETIME: Duration = HOUR;

/// The flags of the issuer. Without them the service issues no tokens.
#[derive(Debug, Clone, Default, Args)]
pub struct IssuerArgs {
    /// URL of this service as an issuer of tokens, as clients see it, such as `https://shop.example`; if unset, it
    /// issues none
    #[arg(long, env, global = true, value_name = "URL", value_parser = issuer_url)]
    // Without issuers that it accepts it would let anybody do everything, and so make administrators for other services.
    #[arg(requires = "auth_kek_file", requires = "auth_issuers")]
    pub auth_issuer_url: Option<String>,
    /// File with the key that seals the issuer's keys in the database: 32 random bytes, also in base64
    #[arg(long, env, global = true, value_name = "FILE", value_parser = Kek::read, requires = "auth_issuer_url")]
    pub auth_kek_file: Option<Kek>,
    /// The lifetimes of tokens and keys
    #[command(flatten)]
    pub lifetimes: Lifetimes,
}

/// How long tokens and keys live. Only tests change these.
#[derive(Debug, Clone, Copy, Args)]
pub struct Lifetimes {
    /// How long an access token is valid: 1s to 1h
    #[arg(long = "auth-token-lifetime", env = "AUTH_TOKEN_LIFETIME", global = true, hide = true)]
    #[arg(value_name = "TIME", default_value = "10m", value_parser = lifetime)]
    pub token: Duration,
    /// How long a key is published before it signs
    #[arg(long = "auth-key-lead", env = "AUTH_KEY_LEAD", global = true, hide = true)]
    #[arg(value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration)]
    pub lead: Duration,
    /// How long a key signs
    #[arg(long = "auth-key-rotation", env = "AUTH_KEY_ROTATION", global = true, hide = true)]
    #[arg(value_name = "TIME", default_value = "30d", value_parser = humantime::parse_duration)]
    pub rotation: Duration,
    /// How often the keys are read
    #[arg(long = "auth-key-poll", env = "AUTH_KEY_POLL", global = true, hide = true)]
    #[arg(value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    pub poll: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self { token: Duration::from_mins(10), lead: DAY, rotation: 30 * DAY, poll: Duration::from_mins(1) }
    }
}

/// The key-encryption key, read once at the start.
#[derive(Debug, Clone)]
pub struct Kek(pub Arc<KeyEncryptionKey>);

impl Kek {
    /// Reads the key from a file: 32 bytes, or their base64.
    fn read(path: &str) -> Result<Self, String> {
        let content = fs::read(path).map_err(|error| format!("cannot read the key-encryption key: {error}"))?;
        Self::parse(&content)
    }

    /// Parses the content of the file.
    ///
    /// # Errors
    /// Returns a text that repeats nothing of the key.
    pub fn parse(content: &[u8]) -> Result<Self, String> {
        let decoded = BASE64_STANDARD.decode(content.trim_ascii()).ok();
        let bytes = decoded.filter(|bytes| bytes.len() == KeyEncryptionKey::LENGTH).unwrap_or_else(|| content.to_vec());
        let key = KeyEncryptionKey::from_bytes(&bytes);
        let key = key.map_err(|_| "the key-encryption key must be 32 bytes, raw or in base64")?;
        Ok(Self(Arc::new(key)))
    }
}

fn issuer_url(text: &str) -> Result<String, &'static str> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = text.chars().all(|c| c.is_ascii_graphic() && !matches!(c, '?' | '#' | '"' | '\\' | '<' | '>'));
    match rest {
        Some(rest) if is_plain && !rest.is_empty() && !rest.starts_with('/') && !rest.ends_with('/') => {
            Ok(text.to_owned())
        }
        _ => Err("must be an http or https URL without a query, a fragment or a trailing slash"),
    }
}

fn lifetime(text: &str) -> Result<Duration, String> {
    let lifetime = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if (Duration::from_secs(1)..=MAX_LIFETIME).contains(&lifetime) {
        Ok(lifetime)
    } else {
        Err("must be 1s to 1h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use chassis::AuthArgs;
    use clap::Parser;

    use super::*;

    #[test]
    fn a_key_is_32_bytes_raw_or_in_base64() {
        let raw = [7; 32];
        for good in [
            raw.to_vec(),
            BASE64_STANDARD.encode(raw).into_bytes(),
            format!("{}\n", BASE64_STANDARD.encode(raw)).into(),
        ] {
            assert!(Kek::parse(&good).is_ok());
        }
        for bad in [&b""[..], b"secret", &[7; 31], &[7; 33], BASE64_STANDARD.encode([7; 31]).as_bytes()] {
            let error = Kek::parse(bad).expect_err("must be refused");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(Kek::read("/nowhere").expect_err("no file").starts_with("cannot read"));
    }

    #[test]
    fn an_issuer_accepts_tokens_itself() {
        #[derive(Debug, Parser)]
        struct Cli {
            #[command(flatten)]
            auth: AuthArgs,
            #[command(flatten)]
            issuer: IssuerArgs,
        }
        let folder = tempfile::TempDir::new().expect("a folder");
        let kek = folder.path().join("kek");
        fs::write(&kek, [7; 32]).expect("written");
        let kek = format!("--auth-kek-file={}", kek.display());
        let issuer = ["users", "--auth-issuer-url=https://shop.example", &kek];
        let error = Cli::try_parse_from(issuer).expect_err("no issuers").to_string();
        assert!(error.contains("--auth-issuers"), "{error}");
        let cli = Cli::try_parse_from([&issuer[..], &["--auth-issuers=[]"]].concat()).expect("valid");
        assert!(cli.auth.auth_issuers.is_some() && cli.issuer.auth_kek_file.is_some());
    }

    #[test]
    fn an_issuer_has_no_query_fragment_or_trailing_slash() {
        for good in ["https://shop.example", "http://127.0.0.1:8080", "https://shop.example/auth"] {
            assert!(issuer_url(good).is_ok(), "{good}");
        }
        for bad in ["", "shop.example", "https://", "https:///x", "https://x/", "https://x?y", "https://x#y", "ftp://x"]
        {
            assert!(issuer_url(bad).is_err(), "{bad}");
        }
    }
}
