//! Publishes what services trust and by which tokens they prove who they are, and keeps that current.

use std::time::{Duration, SystemTime};

use embedded_postgres::PrivateFolder;
use identity::seal::KeyEncryptionKey;
use identity::{AuthArgs, DEFAULT_AUDIENCE, IssuerConfig};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Authority;
use crate::authentication::{Authentication, ISSUERS_FILE, JWKS_FILE, KEK_FILE, TOKENS};
use crate::service::Service;

/// The longest pause between two checks of the clock and at the user's list of issuers. The clock also advances while the
/// machine sleeps, which no timer notices.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// Writes the files that services read.
pub struct Publisher {
    authority: Authority,
    folder: PrivateFolder,
    authentication: Authentication,
    /// The issuers that the user has configured.
    further: AuthArgs,
    /// The callers, with those to whom each proves who it is.
    calls: Vec<(String, Vec<String>)>,
    /// How long a token is valid.
    lifetime: Duration,
    /// The published issuers.
    issuers: String,
    /// When the tokens were written.
    renewed: SystemTime,
}

impl Publisher {
    /// Writes all files.
    pub fn start(
        (authority, folder): (Authority, PrivateFolder),
        authentication: Authentication,
        services: &[Service],
        lifetime: Duration,
        inherited: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let calls = services.iter().map(|service| {
            let callees = authentication.callees(service).into_iter().map(str::to_owned);
            (service.name().to_owned(), callees.collect())
        });
        let calls = calls.filter(|(_, callees): &(_, Vec<_>)| !callees.is_empty()).collect();
        let auth_audience = inherited("AUTH_AUDIENCE").unwrap_or_else(|| DEFAULT_AUDIENCE.to_owned());
        let further = AuthArgs { auth: None, auth_issuers: inherited("AUTH_ISSUERS"), auth_audience };
        let (issuers, renewed) = (String::new(), SystemTime::now());
        let mut publisher = Self { authority, folder, authentication, further, calls, lifetime, issuers, renewed };
        if publisher.authentication.issuer.is_some() && publisher.folder.read(KEK_FILE)?.is_none() {
            // The issuer refuses a new key if it cannot open what the lost one has sealed.
            publisher.folder.replace(KEK_FILE, &rand::random::<[u8; KeyEncryptionKey::LENGTH]>())?;
        }
        publisher.folder.replace(JWKS_FILE, publisher.authority.jwks().to_string().as_bytes())?;
        publisher.publish_issuers()?;
        publisher.renew()?;
        Ok(publisher)
    }

    /// Keeps the files current until the result is dropped.
    pub fn keep_current(mut self) -> JoinSet<()> {
        let mut task = JoinSet::new();
        let pause = (self.lifetime / 10).min(MAX_PAUSE);
        task.spawn(async move {
            let mut is_failing = false;
            loop {
                sleep(pause).await;
                // An invalid list of the user must not keep tokens from being renewed.
                let issuers = self.publish_issuers();
                let tokens = if self.is_due() { self.renew() } else { Ok(()) };
                let result = issuers.and(tokens);
                if let Err(error) = &result
                    && !is_failing
                {
                    eprintln!("hedgerow: cannot renew the issuers and tokens of services: {error:#}; retrying");
                }
                is_failing = result.is_err();
            }
        });
        task
    }

    /// Whether the tokens have half of their time behind them, or the clock was set back.
    fn is_due(&self) -> bool {
        self.renewed.elapsed().map_or(true, |age| age >= self.lifetime / 2)
    }

    /// Writes a token for each call.
    fn renew(&mut self) -> anyhow::Result<()> {
        let now = SystemTime::now();
        let tokens = self.folder.subfolder(TOKENS)?;
        for (caller, callees) in &self.calls {
            let folder = tokens.subfolder(caller)?;
            for callee in callees {
                folder.replace(callee, self.authority.service_token(caller, callee, self.lifetime)?.as_bytes())?;
            }
        }
        self.renewed = now;
        Ok(())
    }

    /// Writes the list of issuers if it has changed: that of the user may be a file.
    fn publish_issuers(&mut self) -> anyhow::Result<()> {
        let issuers = list(&self.authentication, &self.further.read_issuers()?).to_string();
        if issuers != self.issuers {
            self.folder.replace(ISSUERS_FILE, issuers.as_bytes())?;
            self.issuers = issuers;
        }
        Ok(())
    }
}

/// The issuer of users, the local authority and the issuers of the user, which replace ours of the same name.
fn list(authentication: &Authentication, further: &[IssuerConfig]) -> Value {
    let users = authentication.issuer.as_ref().map(|issuer| {
        let keys = issuer.internal_url("/.well-known/jwks.json");
        json!({ "issuer": issuer.url, "jwks_url": keys, "audience": [DEFAULT_AUDIENCE] })
    });
    let authority = Authority::entries(&authentication.path(JWKS_FILE));
    let is_replaced = |ours: &Value| further.iter().any(|further| ours["issuer"] == *further.issuer);
    let ours = users.into_iter().chain(authority).filter(|ours| !is_replaced(ours));
    ours.chain(further.iter().map(|further| json!(further))).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::Path;
    use std::{fs, thread};

    use embedded_postgres::DataDir;
    use identity::parse_issuers;
    use tempfile::TempDir;

    use super::*;
    use crate::ports::assign;
    use crate::service::tests::manifest;

    struct Fixture {
        folder: TempDir,
        data: DataDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = TempDir::new().unwrap();
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let data = DataDir::open(&folder.path().join("data")).unwrap();
            Self { folder, data }
        }

        /// Publishes with these issuers of the user.
        fn start(&self, further: &str) -> anyhow::Result<Publisher> {
            let services = assign(vec![
                manifest("inventory", &[], None, ""),
                manifest("users", &["inventory"], None, "route: {paths: [/users]}"),
            ])?;
            let authentication = Authentication::new(self.data.path(), &services, |_| None)?;
            let authority = Authority::open_or_create(&self.data)?;
            let inherited = |name: &str| (name == "AUTH_ISSUERS").then(|| further.to_owned());
            Publisher::start(authority, authentication, &services, Duration::from_secs(2), inherited)
        }

        fn read(&self, file: &str) -> String {
            fs::read_to_string(self.data.path().join("identity").join(file)).unwrap()
        }

        fn issuers(&self) -> Vec<IssuerConfig> {
            parse_issuers(&self.read(ISSUERS_FILE), "inventory").unwrap()
        }

        fn names(&self) -> Vec<String> {
            self.issuers().into_iter().map(|issuer| issuer.issuer).collect()
        }
    }

    #[test]
    fn the_issuers_of_the_user_are_added() {
        let fixture = Fixture::new();
        fixture.start(r#"[{"issuer": "https://login.example"}]"#).unwrap();
        let ours = ["http://127.0.0.1:8082", "hedgerow-up", "hedgerow-token"];
        assert_eq!(fixture.names(), [&ours[..], &["https://login.example"]].concat());
        // A service accepts the tokens of users for all of Hedgerow, those of services also for itself.
        let audiences: Vec<_> = fixture.issuers().into_iter().map(|issuer| issuer.audience.0.join(" ")).collect();
        assert_eq!(audiences, ["hedgerow", "hedgerow inventory", "hedgerow", "hedgerow"]);

        let own = r#"[{"issuer": "http://127.0.0.1:8082", "audience": "other"}]"#;
        fixture.start(own).unwrap();
        assert_eq!(fixture.names(), ["hedgerow-up", "hedgerow-token", "http://127.0.0.1:8082"]);
        let error = format!("{:#}", fixture.start("[{}]").err().unwrap());
        assert!(error.starts_with("AUTH_ISSUERS is invalid: missing field `issuer`"), "{error}");
    }

    #[test]
    fn a_changed_list_of_the_user_is_published() {
        let fixture = Fixture::new();
        let file = fixture.folder.path().join("mine.json");
        fs::write(&file, r#"[{"issuer": "https://one.example"}]"#).unwrap();
        let mut publisher = fixture.start(file.to_str().unwrap()).unwrap();
        fs::write(&file, r#"[{"issuer": "https://two.example"}]"#).unwrap();
        publisher.publish_issuers().unwrap();
        assert_eq!(fixture.names().last().unwrap(), "https://two.example");
        fs::write(&file, "[").unwrap();
        publisher.publish_issuers().unwrap_err();
        assert_eq!(fixture.names().last().unwrap(), "https://two.example");
    }

    #[test]
    fn keys_stay_and_tokens_are_replaced() {
        let fixture = Fixture::new();
        let read = |fixture: &Fixture| [JWKS_FILE, "tokens/users/inventory"].map(|file| fixture.read(file));
        let kek = |fixture: &Fixture| fs::read(fixture.data.path().join("identity").join(KEK_FILE)).unwrap();
        let mut publisher = fixture.start("").unwrap();
        let (first_kek, [jwks, token]) = (kek(&fixture), read(&fixture));
        assert_eq!(first_kek.len(), 32);
        assert!(!publisher.is_due());
        while !publisher.is_due() {
            thread::sleep(Duration::from_millis(10));
        }
        publisher.renew().unwrap();
        assert!(!publisher.is_due());
        let [_, renewed] = read(&fixture);
        assert_ne!(renewed, token);
        // A clock that was set back must not make the tokens look new for ever.
        publisher.renewed += Duration::from_hours(1);
        assert!(publisher.is_due());

        let folder = Path::new("tokens/users");
        let names = |folder: &Path| {
            let entries = fs::read_dir(fixture.data.path().join("identity").join(folder)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!(names(folder), ["inventory"], "no drafts are left");
        fixture.start("").unwrap();
        assert_eq!(read(&fixture)[0], jwks);
        assert_eq!(kek(&fixture), first_kek);
    }
}
