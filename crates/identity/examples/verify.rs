//! Prints how long it takes to verify a token that was seen before, and a new one.
//!
//! `cargo run --release -p identity --example verify`

use std::{
    env, fs,
    time::{Duration, Instant, SystemTime},
};

use http::{HeaderMap, HeaderValue, header};
use identity::{
    AuthArgs, Identity, Verifier,
    sign::{ACCESS_TOKEN, SigningKey, key_set},
};
use prometheus::Registry;
use serde_json::json;

/// How many tokens are new in a round, and how many were seen before.
const NEW: u32 = 2_000;
const SEEN: u32 = 500_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let key = SigningKey::generate()?;
    let path = env::temp_dir().join(format!("verify-{}.json", std::process::id()));
    fs::write(&path, key_set([key.jwk()]).to_string())?;
    let issuers = json!([{ "issuer": "https://issuer.example", "jwks_url": format!("file://{}", path.display()) }]);
    let args = AuthArgs { auth_issuers: Some(issuers.to_string()), ..AuthArgs::default() };
    let verifier = Verifier::new(&args, &Registry::new())?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let requests = (0..NEW).map(|number| {
        let claims = json!({
            "iss": "https://issuer.example", "sub": "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f5e", "aud": "hedgerow",
            "client_id": "hedgerow", "exp": now + 600, "iat": now, "jti": number, "auth_time": now,
            "sid": "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f5e", "scope": "reservations:write", "roles": ["user"],
        });
        let token = key.sign(&claims, ACCESS_TOKEN)?;
        Ok(HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::try_from(format!("Bearer {token}"))?)]))
    });
    let requests = requests.collect::<anyhow::Result<Vec<HeaderMap>>>()?;
    anyhow::ensure!(matches!(verifier.identify(&requests[0]).await, Ok(Identity::Caller(_))), "a token is refused");
    fs::remove_file(path)?;

    let new = time(&verifier, &requests[1..]);
    println!("a new token:              {:>6.2} µs", micros(new, NEW - 1));
    let seen = &requests[..64];
    let rounds = SEEN / 64;
    let elapsed: Duration = (0..rounds).map(|_| time(&verifier, seen)).sum();
    println!("a token seen before:      {:>6.2} µs", micros(elapsed, rounds * 64));
    let anonymous = vec![HeaderMap::new(); 64];
    let elapsed: Duration = (0..rounds).map(|_| time(&verifier, &anonymous)).sum();
    println!("a request without token:  {:>6.3} µs", micros(elapsed, rounds * 64));
    Ok(())
}

fn time(verifier: &Verifier, requests: &[HeaderMap]) -> Duration {
    let started = Instant::now();
    for headers in requests {
        assert!(matches!(verifier.try_identify(headers), Some(Ok(_))));
    }
    started.elapsed()
}

fn micros(elapsed: Duration, count: u32) -> f64 {
    elapsed.as_secs_f64() * 1e6 / f64::from(count)
}
