//! Refuses to let others in while nobody has said whether requests need a token.

use std::env;

use identity::Mode;

use crate::cli::Up;
use crate::service::{Purpose, Service, variable};

/// The variable that says whether requests need a token. All services inherit it.
const AUTH: &str = "AUTH";

/// Returns why the services cannot be started like this, and what to do.
pub fn problem(up: &Up) -> Option<String> {
    let auth = env::var_os(AUTH).map(|value| value.to_string_lossy().into_owned());
    check(&up.services, up.auth, auth.as_deref())
}

/// `auth` is the mode in the environment.
fn check(services: &[Service], with_authority: bool, auth: Option<&str>) -> Option<String> {
    let mode = match auth.map(|text| <Mode as clap::ValueEnum>::from_str(text, false)) {
        None => None,
        Some(Ok(mode)) => Some(mode),
        Some(Err(_)) => return Some(format!("{AUTH} must be open or required, not {:?}", auth.unwrap_or_default())),
    };
    if with_authority {
        let contradiction = "--auth makes all requests need a token, but AUTH is open: leave out one of them";
        return (mode == Some(Mode::Open)).then(|| contradiction.to_owned());
    }
    if mode.is_some() {
        return None;
    }
    let (service, purpose) = services.iter().find_map(|service| Some((service, exposed(service)?)))?;
    let address = service.address(purpose)?;
    let flag = service.flag(purpose);
    Some(format!(
        "--{flag} ({}) is {address}, which others may reach, and requests need no token: add --auth, or set AUTH to \
         required (with AUTH_ISSUERS) or to open (to let everyone do everything)",
        variable(&flag)
    ))
}

/// The first address of a service that others may reach. Its admin address does not count: it has probes and metrics
/// only, which need no token in any mode, so neither remedy would close it.
fn exposed(service: &Service) -> Option<Purpose> {
    if service.manifest.spec.env.iter().any(|entry| entry.name == AUTH) {
        return None;
    }
    let addresses = service.addresses().filter(|(purpose, _)| *purpose != Purpose::Admin);
    addresses.filter(|(_, address)| !address.ip().to_canonical().is_loopback()).map(|(purpose, _)| purpose).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::assign;
    use crate::service::tests::manifest;

    fn with(purpose: Purpose, address: &str, spec: &str) -> Vec<Service> {
        let spec = format!("ports: {{grpc: 50051}}, {spec}");
        let mut services = assign(vec![manifest("a", &[], None, ""), manifest("my-stock", &[], None, &spec)]).unwrap();
        services[1].set_address(purpose, address.parse().unwrap());
        services
    }

    #[test]
    fn only_loopback_is_open_unless_that_is_said() {
        let said = |purpose, address| check(&with(purpose, address, ""), false, None);
        for address in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert_eq!(said(Purpose::Http, address), None, "{address}");
        }
        for address in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[2001:db8::1]:1", "[::ffff:192.0.2.1]:1"] {
            for (purpose, flag) in [
                (Purpose::Http, "--my-stock-addr (MY_STOCK_ADDR)"),
                (Purpose::Grpc, "--my-stock-grpc-addr (MY_STOCK_GRPC_ADDR)"),
            ] {
                let said = said(purpose, address).unwrap();
                assert!(said.starts_with(&format!("{flag} is {address}, which others may reach")), "{said}");
            }
            assert_eq!(said(Purpose::Admin, address), None);
        }
    }

    #[test]
    fn whoever_names_a_mode_gets_it() {
        let exposed = with(Purpose::Http, "0.0.0.0:1", "");
        assert_eq!(check(&exposed, true, None), None);
        assert_eq!(check(&exposed, true, Some("required")), None);
        assert_eq!(check(&exposed, false, Some("required")), None);
        assert_eq!(check(&exposed, false, Some("open")), None);
        assert_eq!(check(&with(Purpose::Http, "0.0.0.0:1", "env: [{name: AUTH, value: open}]"), false, None), None);
        assert!(check(&exposed, true, Some("open")).unwrap().starts_with("--auth makes all requests need a token"));
        for mode in ["", "off", "OPEN"] {
            let expected = format!("AUTH must be open or required, not {mode:?}");
            assert_eq!(check(&with(Purpose::Http, "127.0.0.1:1", ""), false, Some(mode)), Some(expected));
        }
    }
}
