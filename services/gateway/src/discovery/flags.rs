//! Services that flags name: their routes stay, and their names are looked up again and again.

use std::{net::SocketAddr, str::FromStr, time::Duration};

use futures_util::future::join_all;
use http::uri::Authority;
use tokio::{net, time};

use super::{Publisher, path::normalized};
use crate::services::Service;

/// Time between two looks for the addresses of a name, and how long one may take.
const LOOK_UP_INTERVAL: Duration = Duration::from_secs(5);
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// What one flag, or the variable, names.
#[derive(Debug, Clone)]
pub(super) struct Routes(pub(super) Vec<Route>);

/// A service.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Route {
    name: String,
    paths: Vec<String>,
    http: Vec<Authority>,
    grpc: Vec<Authority>,
}

/// A host and the addresses it had last.
struct Host {
    authority: Authority,
    addresses: Vec<SocketAddr>,
}

impl FromStr for Routes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_whitespace().map(str::parse).collect::<Result<_, _>>().map(Self)
    }
}

impl FromStr for Route {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORM: &str = "NAME:/PATH,/PATH=http://HOST:PORT,grpc://HOST:PORT";
        let parts = text.split_once('=').and_then(|(claim, hosts)| Some((claim.split_once(':')?, hosts)));
        let ((name, paths), hosts) = parts.ok_or_else(|| format!("{text:?} does not have the form {FORM}"))?;
        if !is_name(name) {
            return Err(format!("{name:?} is no name of a service: small letters, digits and hyphens"));
        }
        let path = |path: &str| normalized(path).ok_or_else(|| format!("{path:?} is no path such as /orders"));
        let mut route = Self {
            name: name.to_owned(),
            paths: paths.split(',').map(path).collect::<Result<_, _>>()?,
            http: Vec::new(),
            grpc: Vec::new(),
        };
        for url in hosts.split(',') {
            let (list, host) = match url.split_once("://") {
                Some(("http", host)) => (&mut route.http, host),
                Some(("grpc", host)) => (&mut route.grpc, host),
                _ => return Err(format!("{url:?} is no URL such as http://HOST:PORT or grpc://HOST:PORT")),
            };
            list.push(authority(host).ok_or_else(|| format!("{url:?} is not a host and a port only"))?);
        }
        if route.http.is_empty() {
            return Err(format!("{name} has no http://HOST:PORT"));
        }
        Ok(route)
    }
}

/// As Kubernetes names a service.
fn is_name(name: &str) -> bool {
    let within = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.bytes().all(within)
}

fn authority(host: &str) -> Option<Authority> {
    let authority: Authority = host.strip_suffix('/').unwrap_or(host).parse().ok()?;
    let whole = !authority.host().is_empty() && authority.port_u16().is_some_and(|port| port > 0);
    (whole && !host.contains('@')).then_some(authority)
}

/// Tells of these services.
///
/// # Errors
/// Where two have one name or one path.
pub(super) fn start(mut routes: Vec<Route>, publisher: Publisher) -> anyhow::Result<()> {
    routes.sort_by(|one, other| one.name.cmp(&other.name));
    disjoint(&routes).map_err(anyhow::Error::msg)?;
    let hosts = |list: Vec<Authority>| -> Vec<Host> {
        list.into_iter().map(|authority| Host { authority, addresses: Vec::new() }).collect()
    };
    let mut services: Vec<_> = routes
        .into_iter()
        .map(|route| {
            let service = Service { name: route.name, paths: route.paths, http: Vec::new(), grpc: None };
            (service, hosts(route.http), hosts(route.grpc))
        })
        .collect();
    tokio::spawn(async move {
        loop {
            join_all(services.iter_mut().flat_map(|(_, http, grpc)| http.iter_mut().chain(grpc)).map(Host::look_up))
                .await;
            publisher.publish(services.iter().map(|(service, http, grpc)| with(service, http, grpc)).collect());
            time::sleep(LOOK_UP_INTERVAL).await;
        }
    });
    Ok(())
}

fn with(service: &Service, http: &[Host], grpc: &[Host]) -> Service {
    let all = |hosts: &[Host]| {
        let mut all: Vec<_> = hosts.iter().flat_map(|host| &host.addresses).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    Service { http: all(http), grpc: (!grpc.is_empty()).then(|| all(grpc)), ..service.clone() }
}

fn disjoint(routes: &[Route]) -> Result<(), String> {
    for (index, route) in routes.iter().enumerate() {
        for other in &routes[..index] {
            if route.name == other.name {
                return Err(format!("two routes are called {}", route.name));
            }
            if let Some(path) = route.paths.iter().find(|path| other.paths.contains(path)) {
                return Err(format!("{} and {} both claim {path}", other.name, route.name));
            }
        }
    }
    Ok(())
}

impl Host {
    /// Where the name has no address now, those known are kept: each tells by itself whether it is of use.
    async fn look_up(&mut self) {
        let found = time::timeout(LOOK_UP_TIMEOUT, net::lookup_host(self.authority.as_str())).await;
        match found.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())) {
            Ok(addresses) => self.addresses = addresses.collect(),
            Err(error) => tracing::warn!(host = %self.authority, %error, "the name has no address"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Discovery, *};

    fn parse(text: &str) -> Result<Vec<Route>, String> {
        text.parse::<Routes>().map(|routes| routes.0)
    }

    #[test]
    fn a_flag_names_one_service_and_the_variable_several() {
        let routes = parse("users:/users/=http://127.0.0.1:8081 \n inventory:/inventory,/reservations=http://a:1,http://[::1]:2/,grpc://b:3")
            .expect("routes");
        assert_eq!(routes[0].paths, ["/users"]);
        assert_eq!((routes[0].name.as_str(), routes[1].name.as_str()), ("users", "inventory"));
        assert_eq!(routes[1].paths, ["/inventory", "/reservations"]);
        assert_eq!((routes[1].http.len(), routes[1].grpc.len()), (2, 1));
        assert_eq!(parse("").expect("nothing"), []);
    }

    #[test]
    fn what_is_wrong_with_a_route_is_said() {
        let long = format!("{}:/users=http://a:1", "a".repeat(64));
        assert!(parse(&long[1..]).is_ok());
        for (text, what) in [
            (long.as_str(), "no name"),
            ("users-:/users=http://a:1", "no name"),
            ("users:/users=http://a:0", "a host and a port only"),
            ("users", "the form"),
            ("/users=http://a:1", "the form"),
            ("Users:/users=http://a:1", "no name"),
            (":/users=http://a:1", "no name"),
            ("users:users=http://a:1", "no path"),
            ("users:=http://a:1", "no path"),
            ("users:/users=", "no URL"),
            ("users:/users=a:1", "no URL"),
            ("users:/users=https://a:1", "no URL"),
            ("users:/users=http://a", "a host and a port only"),
            ("users:/users=http://a:1/b", "a host and a port only"),
            ("users:/users=http://x@a:1", "a host and a port only"),
            ("users:/users=grpc://a:1", "has no http://"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(what) && !error.contains('\n'), "{text}: {error}");
        }
    }

    #[tokio::test]
    async fn two_flags_cannot_have_one_name_or_one_path() {
        for (text, what) in [
            ("a:/x=http://a:1 a:/y=http://b:1", "called a"),
            ("b:/x=http://a:1 a:/y,/x/=http://b:1", "a and b both claim /x"),
        ] {
            let (publisher, _discovery) = Discovery::new();
            let error = start(parse(text).expect("routes"), publisher).expect_err(text);
            assert!(error.to_string().contains(what), "{error}");
        }
    }

    #[tokio::test]
    async fn addresses_are_those_of_all_hosts_and_a_name_without_any_holds_nothing_up() {
        let (publisher, discovery) = Discovery::new();
        let text = "b:/b=http://127.0.0.2:2,http://127.0.0.1:1,http://127.0.0.1:1,grpc://127.0.0.1:3 a:/a=http://no-such-host.invalid:1";
        start(parse(text).expect("routes"), publisher).expect("they go together");
        let mut services = discovery.services.clone();
        let services = services.wait_for(|services| !services.is_empty()).await.expect("it goes on").clone();
        let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!((services[0].http.len(), &services[0].grpc), (0, &None));
        let addresses: Vec<_> = services[1].http.iter().map(ToString::to_string).collect();
        assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.2:2"]);
        assert_eq!(services[1].grpc, Some(vec!["127.0.0.1:3".parse().expect("an address")]));
        discovery.complete.clone().wait_for(|complete| *complete).await.expect("it goes on");
        assert!(discovery.ready().is_ok() && discovery.live().is_ok());
    }

    #[tokio::test]
    async fn a_name_that_has_no_address_any_more_keeps_those_it_had() {
        let addresses = vec!["127.0.0.1:1".parse().expect("an address")];
        let authority = Authority::from_static("no-such-host.invalid:1");
        let mut host = Host { authority, addresses: addresses.clone() };
        host.look_up().await;
        assert_eq!(host.addresses, addresses);
    }
}
