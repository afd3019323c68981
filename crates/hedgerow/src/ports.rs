//! Which port each service gets, and whether every address is free before anything is started.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use anyhow::{Context, anyhow, bail};

use crate::manifest::{MAX_LOCAL_PORT, Manifest};
use crate::service::{Service, variable};

/// The first ports of the ranges; a service adds its number to each.
const HTTP: u16 = 8080;
const ADMIN: u16 = 9090;
const GRPC: u16 = 50050;

/// Gives each service its default addresses. A service without a number of its own gets the lowest free one, in the
/// order of `manifests`.
pub fn assign(manifests: Vec<Manifest>) -> anyhow::Result<Vec<Service>> {
    let mut owners: BTreeMap<u16, String> = BTreeMap::new();
    for manifest in &manifests {
        owners.extend(manifest.local_port.map(|number| (number, manifest.name.clone())));
    }
    for manifest in manifests.iter().filter(|manifest| manifest.local_port.is_none()) {
        let free = (1..=MAX_LOCAL_PORT).find(|number| !owners.contains_key(number));
        owners.insert(free.context("there are too many services for the range of ports")?, manifest.name.clone());
    }
    let numbers: BTreeMap<String, u16> = owners.into_iter().map(|(number, name)| (name, number)).collect();

    let service = |manifest: Manifest| {
        let number = numbers.get(&manifest.name).copied().unwrap_or_default();
        let local = |base| SocketAddr::from((Ipv4Addr::LOCALHOST, base + number));
        let grpc = manifest.spec.ports.grpc.map(|_| local(GRPC));
        Service { manifest, http: local(HTTP), grpc, admin: local(ADMIN) }
    };
    Ok(manifests.into_iter().map(service).collect())
}

/// Fails with the first address that is not free, and says how to change it.
pub fn check(services: &[Service]) -> anyhow::Result<()> {
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
                bail!(refused(format!("{owner} uses it too")));
            }
            listeners.push((TcpListener::bind(address).map_err(|error| refused(error.to_string()))?, name));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::GATEWAY;
    use crate::service::tests::manifest;

    #[test]
    fn services_without_a_number_get_the_lowest_free_one() {
        let manifests = vec![
            manifest("a", &[], None, ""),
            manifest("b", &[], Some(1), "ports: {grpc: 50051}"),
            manifest("c", &[], None, ""),
            manifest(GATEWAY, &[], Some(0), ""),
        ];
        let addresses: Vec<_> = assign(manifests)
            .unwrap()
            .iter()
            .map(|service| service.addresses().map(|(_, address)| address.to_string()).collect::<Vec<_>>().join(" "))
            .collect();
        let expected = [
            "127.0.0.1:8082 127.0.0.1:9092",
            "127.0.0.1:8081 127.0.0.1:50051 127.0.0.1:9091",
            "127.0.0.1:8083 127.0.0.1:9093",
            "127.0.0.1:8080 127.0.0.1:9090",
        ];
        assert_eq!(addresses, expected);
    }
}
