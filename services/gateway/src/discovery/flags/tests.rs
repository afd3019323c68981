use proptest::prelude::*;

use super::{super::publisher, *};

fn parse(text: &str) -> Result<Vec<RouteFlag>, String> {
    text.parse::<RouteFlags>().map(|routes| routes.0)
}

#[test]
fn one_value_holds_one_or_several_routes() {
    let routes = parse("users:/users/=http://127.0.0.1:8081 \n inventory:/inventory,/reservations=http://a:1,http://[::1]:2/,grpc://b:3,idempotency-keys:/reservations/")
        .expect("routes");
    assert_eq!(routes[0].paths, ["/users"]);
    assert_eq!((routes[0].name.as_str(), routes[1].name.as_str()), ("users", "inventory"));
    assert_eq!(routes[1].paths, ["/inventory", "/reservations"]);
    assert_eq!((routes[1].http.len(), routes[1].grpc.len()), (2, 1));
    assert_eq!(
        (&*routes[0].idempotency_keys, &*routes[1].idempotency_keys),
        (&[][..], &["/reservations".to_owned()][..])
    );
    assert_eq!(parse("").expect("no routes"), []);
}

#[test]
fn errors_say_what_is_wrong_with_a_route() {
    let long = format!("{}:/users=http://a:1", "a".repeat(64));
    assert!(parse(&long[1..]).is_ok());
    for (text, expected) in [
        (long.as_str(), "invalid service name"),
        ("users-:/users=http://a:1", "invalid service name"),
        ("users:/users=http://a:0", "invalid URL"),
        ("users", "is not a route"),
        ("/users=http://a:1", "is not a route"),
        ("Users:/users=http://a:1", "invalid service name"),
        (":/users=http://a:1", "invalid service name"),
        ("users:users=http://a:1", "invalid path"),
        ("users:=http://a:1", "invalid path"),
        ("users:/users=", "invalid URL"),
        ("users:/users=a:1", "invalid URL"),
        ("users:/users=https://a:1", "invalid URL"),
        ("users:/users=http://a", "invalid URL"),
        ("users:/users=http://a:1/b", "invalid URL"),
        ("users:/users=http://x@a:1", "invalid URL"),
        ("users:/users=grpc://a:1", "has no http://"),
        ("users:/users=http://a:1,idempotency-keys:users", "invalid path"),
        ("users:/users=idempotency-keys:/users", "has no http://"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(expected) && !error.contains('\n'), "{text}: {error}");
    }
}

#[tokio::test]
async fn routes_must_not_share_a_name_or_a_path() {
    for (text, expected) in [
        ("a:/x=http://a:1 a:/y=http://b:1", "named a"),
        ("b:/x=http://a:1 a:/y,/x/=http://b:1", "a and b both claim /x"),
    ] {
        let (publisher, _discovery) = publisher::channel();
        let error = start(parse(text).expect("routes"), AuthFlag::default(), publisher).expect_err(text);
        assert!(error.to_string().contains(expected), "{error}");
    }
}

#[tokio::test]
async fn addresses_of_all_hosts_are_merged_and_failed_lookups_skipped() {
    let (publisher, discovery) = publisher::channel();
    let text = "b:/b=http://127.0.0.2:2,http://127.0.0.1:1,http://127.0.0.1:1,grpc://127.0.0.1:3 a:/a=http://no-such-host.invalid:1";
    start(parse(text).expect("routes"), AuthFlag::default(), publisher).expect("disjoint routes");
    let mut services = discovery.services.clone();
    let services = services.wait_for(|services| !services.is_empty()).await.expect("an open channel").clone();
    let names: Vec<_> = services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!((services[0].http.len(), &services[0].grpc), (0, &None));
    let addresses: Vec<_> = services[1].http.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["127.0.0.1:1", "127.0.0.2:2"]);
    assert_eq!(services[1].grpc, Some(vec!["127.0.0.1:3".parse().expect("an address")]));
    discovery.complete.clone().wait_for(|complete| *complete).await.expect("an open channel");
    assert!(discovery.ready().is_ok() && discovery.live().is_ok());
}

#[tokio::test]
async fn a_failed_lookup_keeps_the_known_addresses() {
    let addresses = vec!["127.0.0.1:1".parse().expect("an address")];
    let authority = Authority::from_static("no-such-host.invalid:1");
    let mut host = Host { addresses: addresses.clone(), ..Host::new(authority) };
    host.look_up().await;
    assert_eq!(host.addresses, addresses);
    assert!(host.is_failing);
}

proptest! {
    #[test]
    fn valid_routes_are_parsed_as_written(
        name in "[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
        paths in proptest::collection::vec("(/[a-zA-Z0-9_~-]{1,8}){1,3}", 1..4),
        http in proptest::collection::vec(("[a-z][a-z0-9.-]{0,12}|\\[::1\\]|127\\.0\\.0\\.1", 1_u16..), 1..4),
        grpc in proptest::collection::vec(("[a-z][a-z0-9.-]{0,12}", 1_u16..), 0..3),
    ) {
        let authorities = |hosts: &[(String, u16)]| -> Vec<String> {
            hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect()
        };
        let urls = |scheme: &str, hosts: &[(String, u16)]| -> Vec<String> {
            authorities(hosts).iter().map(|authority| format!("{scheme}://{authority}")).collect()
        };
        let text = format!("{name}:{}={}", paths.join(","), [urls("http", &http), urls("grpc", &grpc)].concat().join(","));
        let routes = parse(&text).map_err(TestCaseError::fail)?;
        prop_assert_eq!(routes.len(), 1);
        prop_assert_eq!(&routes[0].name, &name);
        prop_assert_eq!(&routes[0].paths, &paths);
        let parsed = |list: &[Authority]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        prop_assert_eq!(parsed(&routes[0].http), authorities(&http));
        prop_assert_eq!(parsed(&routes[0].grpc), authorities(&grpc));
    }

    #[test]
    fn any_text_is_parsed_or_refused_with_one_line(text in ".{0,40}|[a-z:/=,@.0-9\\[\\] ]{0,60}|a:/a=(http|grpc)://.{0,30}") {
        match parse(&text) {
            Ok(routes) => for route in routes {
                prop_assert!(is_service_name(&route.name) && !route.paths.is_empty() && !route.http.is_empty());
                for path in &route.paths {
                    prop_assert_eq!(normalize(path), Some(path.clone()));
                }
                for authority in route.http.iter().chain(&route.grpc) {
                    prop_assert!(authority.port_u16().is_some_and(|port| port > 0), "{}", authority);
                    prop_assert!(!authority.as_str().contains(['@', '/']), "{}", authority);
                }
            },
            Err(error) => prop_assert!(!error.contains('\n'), "{}", error),
        }
    }
}

#[test]
fn rules_that_are_not_understood_are_a_usage_error() {
    let parse = |text: &str| text.parse::<AuthFlag>();
    let AuthFlag(access) = parse(r#"{"orders": {"mode": "none"}, "users": {}}"#).expect("rules");
    assert_eq!(access.keys().collect::<Vec<_>>(), ["orders", "users"]);
    for (text, expected) in [
        ("", "expected a JSON object"),
        ("[]", "expected a JSON object"),
        (r#"{"orders": 1}"#, "orders: invalid type"),
        (r#"{"orders": {"modes": "none"}}"#, "orders: unknown field `modes`"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.contains(expected), "{error}");
    }
}

#[tokio::test]
async fn rules_belong_to_a_service_with_a_route() {
    let routes = "orders:/orders=http://127.0.0.1:1 users:/users=http://127.0.0.1:1";
    let start = |auth: &str| {
        let (publisher, discovery) = publisher::channel();
        start(parse(routes).expect("routes"), auth.parse().expect("rules"), publisher).map(|()| discovery)
    };
    let error = start(r#"{"order": {}}"#).err().expect("an error");
    assert!(error.to_string().contains("names \"order\", which has no route"), "{error}");
    let discovery = start(r#"{"orders": {"mode": "required"}}"#).expect("started");
    let mut services = discovery.services.clone();
    let services = services.wait_for(|services| services.len() == 2).await.expect("services").clone();
    let modes =
        services.iter().map(|service| service.access.find(&http::Method::GET, "/").and_then(|found| found.mode));
    assert_eq!(modes.collect::<Vec<_>>(), [Some(api::AuthMode::Required), None]);
}
