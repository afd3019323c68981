//! What `bench/run --identity` needs besides the services:
//! - `bench-identity argon2id THREADS SECONDS` hashes passwords and does nothing else. Prints a line of JSON.
//! - `bench-identity tokens FOLDER` makes a key set, the token of a service for inventory, and that of a user.
//! - `bench-identity serve` is a service that calls inventory over gRPC.

use std::{
    env, fs,
    path::Path,
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context, anyhow};
use argon2::{Algorithm, Argon2, Block, Params, Version};
use axum::extract::State;
use chassis::{
    Service,
    grpc::{Channel, read},
};
use contracts::inventory::v1::{BatchGetStockRequest, inventory_client::InventoryClient};
use http::StatusCode;
use identity::sign::{ACCESS_TOKEN, SigningKey, key_set};
use serde_json::json;
use sqlx::migrate::Migrator;
use utoipa_axum::{router::OpenApiRouter, routes};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const INVENTORY: &str = "inventory";

/// How many calls a request makes, one after the other, so that the cost of the request itself is small.
const CALLS: usize = 100;

const DEADLINE: Duration = Duration::from_secs(5);

/// How long the tokens are valid.
const LIFETIME: Duration = Duration::from_hours(24);

static NO_MIGRATIONS: Migrator = Migrator::DEFAULT;

static SERVICE: Service<Option<InventoryClient<Channel>>> = Service {
    name: "bench-identity",
    about: "Calls inventory",
    version: env!("CARGO_PKG_VERSION"),
    migrations: &NO_MIGRATIONS,
    api: || OpenApiRouter::new().routes(routes!(call)),
    grpc: None,
    peers: &[INVENTORY],
    state: |context| context.peer(INVENTORY).map(InventoryClient::new),
};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments[..] {
        ["argon2id", threads, seconds] => argon2id(threads, seconds),
        ["tokens", folder] => tokens(Path::new(folder)),
        _ => return chassis::main(&SERVICE),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench-identity: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Hashes with the parameters of `users`, each thread in memory of its own that it keeps.
fn argon2id(threads: &str, seconds: &str) -> anyhow::Result<()> {
    let (threads, seconds): (usize, u64) = (threads.parse()?, seconds.parse()?);
    let began = Instant::now();
    let until = began + Duration::from_secs(seconds);
    let threads: Vec<_> = (0..threads).map(|_| thread::spawn(move || hash_until(until))).collect();
    let mut hashes = 0;
    for thread in threads {
        hashes += thread.join().map_err(|_| anyhow!("a thread panicked"))??;
    }
    println!("{}", json!({ "hashes": hashes, "seconds": began.elapsed().as_secs_f64() }));
    Ok(())
}

fn hash_until(until: Instant) -> anyhow::Result<u64> {
    let params = Params::new(19 * 1024, 2, 1, Some(32))?;
    let (mut memory, mut hash) = (vec![Block::new(); params.block_count()], [0; 32]);
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut count: u64 = 0;
    while Instant::now() < until {
        let salt = u128::from(count).to_be_bytes();
        argon2.hash_password_into_with_memory(b"a tall heron waits", &salt, &mut hash, &mut memory)?;
        count += 1;
    }
    Ok(count)
}

/// Writes `keys.json`, `inventory` (the token of this service for it), and `user`.
fn tokens(folder: &Path) -> anyhow::Result<()> {
    let key = SigningKey::generate()?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let times = |issuer: &str| json!({ "iss": issuer, "iat": now.as_secs(), "exp": (now + LIFETIME).as_secs() });
    let mut service = times("services");
    service["sub"] = SERVICE.name.into();
    service["aud"] = json!([INVENTORY]);
    let mut user = times("users");
    user["sub"] = "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f5e".into();
    user["aud"] = identity::DEFAULT_AUDIENCE.into();
    user["client_id"] = "hedgerow".into();
    user["sid"] = "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f5f".into();
    user["scope"] = "reservations:write".into();
    user["roles"] = json!(["user"]);
    for (file, content) in [
        ("keys.json", key_set([key.jwk()]).to_string()),
        (INVENTORY, key.sign(&service, "JWT")?),
        ("user", key.sign(&user, ACCESS_TOKEN)?),
    ] {
        fs::write(folder.join(file), content).with_context(|| format!("cannot write {file}"))?;
    }
    Ok(())
}

/// Read the stock of a product many times
#[utoipa::path(get, path = "/calls", responses((status = OK, description = "All calls succeeded.")))]
async fn call(State(client): State<Option<InventoryClient<Channel>>>) -> Result<&'static str, StatusCode> {
    let mut client = client.ok_or(StatusCode::NOT_FOUND)?;
    for _ in 0..CALLS {
        let request = BatchGetStockRequest { product_ids: vec!["100000".to_owned()] };
        client.batch_get_stock(read(request, DEADLINE)).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    }
    Ok("")
}
