//! Checks that every address is free before anything is started.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{anyhow, bail};
use tokio::time::{Instant, sleep};

use crate::service::{Service, variable};

/// Fails with the first address that is not free within `timeout`, and says how to change it.
pub async fn check(services: &[Service], timeout: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + timeout;
    // Kept open until all are checked.
    let mut listeners = Vec::<(TcpListener, &str)>::new();
    for service in services {
        let name = service.name();
        for (purpose, address) in service.addresses() {
            let refused = |reason: String| {
                let flag = service.flag(purpose);
                let variable = variable(&flag);
                anyhow!(
                    "{name} cannot listen on {address} ({reason}): choose another address with --{flag} or {variable}"
                )
            };
            if let Some((_, owner)) = listeners.iter().find(|(open, _)| open.local_addr().is_ok_and(|it| it == address))
            {
                bail!(refused(format!("the address of {owner}")));
            }
            listeners.push((listen(address, deadline).await.map_err(|error| refused(error.to_string()))?, name));
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
