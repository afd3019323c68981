//! Who may send which requests: tokens, rules, refusals, and what a service learns of the caller. The issuer serves its
//! keys over HTTP.

mod forwarding;
mod leases;
mod paths;
mod refusals;
mod revocation;
mod rules;

use std::time::SystemTime;

use http::{HeaderName, HeaderValue, header};
use identity::sign::{ACCESS_TOKEN, SigningKey, key_set};
use serde_json::json;

use super::{stub::full_body, *};

const ISSUER: &str = "https://issuer.example";

/// An issuer and the endpoint that serves its keys.
struct Issuer {
    keys: Stub,
    key: SigningKey,
}

impl Issuer {
    async fn start() -> Self {
        let key = SigningKey::generate().expect("a key");
        let keys = key_set([key.jwk()]).to_string();
        let serve = move |_| {
            let keys = keys.clone();
            async move { Response::new(full_body(keys)) }
        };
        Self { keys: Stub::responding(serve).await, key }
    }

    /// The flag that makes a gateway accept its tokens.
    fn flag(&self) -> String {
        let issuer = json!([{ "issuer": ISSUER, "jwks_url": format!("http://{}/keys", self.keys.address) }]);
        format!("--auth-issuers={issuer}")
    }

    /// A token with some claims replaced; those that are `null` are removed.
    fn token(&self, changes: &Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs();
        let mut claims = json!({
            "iss": ISSUER, "sub": "ada", "aud": "hedgerow", "client_id": "web", "exp": now + 600, "iat": now,
            "scope": "test:read",
        });
        for (name, value) in changes.as_object().expect("an object") {
            claims[name] = value.clone();
        }
        claims.as_object_mut().expect("an object").retain(|_, value| !value.is_null());
        self.key.sign(&claims, ACCESS_TOKEN).expect("a token")
    }

    /// A gateway in front of one service with this field `route.auth`.
    fn gateway(&self, flags: &[&str], auth: &Value, stub: &Stub) -> TestGateway {
        let issuer = self.flag();
        TestGateway::of(&[&[issuer.as_str()], flags].concat(), vec![guarded(auth, stub)])
    }
}

/// The service `test` with this field `route.auth`.
fn guarded(auth: &Value, stub: &Stub) -> Service {
    let access = Arc::new(Access::new(Some(auth)));
    Service { access, ..service("test", &["/test"], &[stub.address]) }
}

/// Responds with the headers of each request, one a line.
async fn mirror() -> Stub {
    Stub::responding(async |request| {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()))
        };
        Response::new(full_body(request.headers().iter().map(line).collect::<String>()))
    })
    .await
}

/// A request with these values of `Authorization`.
fn with_credentials(method: Method, path: &str, credentials: &[&str]) -> Request<Full<Bytes>> {
    let mut request = request(method, path, "");
    for value in credentials {
        request.headers_mut().append(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a value"));
    }
    request
}

impl TestGateway {
    /// Sends a request with a token.
    async fn send_with(&self, method: Method, path: &str, token: &str) -> TestResponse {
        self.send(with_credentials(method, path, &[&format!("Bearer {token}")])).await
    }
}
