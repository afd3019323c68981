//! Whether every address is free, before anything is started on it.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::bail;
use tokio::time::{Instant, sleep};

use crate::cli::variable;
use crate::service::Service;

/// Fails with the first address that is not free within `patience`, and what changes it.
pub async fn check(services: &[Service], patience: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + patience;
    // Held until all are seen, so that one address given twice is noticed too.
    let mut held = Vec::new();
    for service in services {
        for (address, flag) in service.addresses() {
            held.push(listen(address, deadline).await.or_else(|error| {
                let (name, variable) = (service.row.name, variable(&flag));
                bail!("{name} cannot listen on {address} ({error}): choose another address with --{flag} or {variable}")
            })?);
        }
    }
    Ok(())
}

async fn listen(address: SocketAddr, deadline: Instant) -> std::io::Result<TcpListener> {
    loop {
        match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
}
