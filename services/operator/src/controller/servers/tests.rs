//! Many objects at one server.

use futures_util::{StreamExt, future, stream};
use tokio::net::TcpListener;

use super::{super::queue::Action, *};

/// A server that accepts connections and says nothing.
async fn silent() -> (TcpListener, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let server = Server::new(&format!("postgres://admin:x@127.0.0.1:{port}/postgres"), None).expect("a server");
    (listener, server)
}

/// The access to a server that responds.
fn healthy(limit: usize, queue: &Queue) -> Arc<Access> {
    let access = Arc::new(Access::new(limit, queue.clone()));
    access.state.send_modify(|state| state.health = Health::Good);
    access
}

#[tokio::test]
async fn a_silent_server_is_tried_once_for_all_objects() {
    let (listener, server) = silent().await;
    let access = Arc::new(Access::new(4, Queue::default()));
    let begin = Instant::now();
    let waits = (0..100).map(|_| access.enter(&server, "orders"));
    let refused = future::join_all(waits).await;
    assert!(refused.iter().all(|refused| matches!(refused, Err(Refusal::Waiting(_)))), "nothing is known yet");
    assert!(begin.elapsed() < Duration::from_secs(2), "they wait together: {:?}", begin.elapsed());
    let begin = Instant::now();
    assert!(access.enter(&server, "orders").await.is_err());
    assert!(begin.elapsed() < PATIENCE / 2, "who comes later does not wait again: {:?}", begin.elapsed());

    let mut state = access.state.subscribe();
    let tried = state.wait_for(|state| state.probing.is_none());
    drop(time::timeout(Duration::from_secs(20), tried).await.expect("the login times out").expect("a state"));
    let begin = Instant::now();
    let refusal = access.enter(&server, "orders").await.err().expect("a refusal");
    assert!(begin.elapsed() < PATIENCE, "the failure is remembered: {:?}", begin.elapsed());
    let Refusal::Failing(result) = refusal else { panic!("{refusal:?}") };
    assert!(result.text().1.ends_with("no response within 5 s"), "{result:?}");

    let mut connections = 0;
    while time::timeout(Duration::from_millis(50), listener.accept()).await.is_ok() {
        connections += 1;
    }
    assert_eq!(connections, 1);
}

#[tokio::test]
async fn an_object_that_finds_no_permit_is_queued_once_there_is_one() {
    let (_listener, server) = silent().await;
    let queue = Queue::default();
    let access = healthy(1, &queue);
    let permit = access.enter(&server, "users").await.expect("a permit");
    for _ in 0..2 {
        let entered = future::poll_immediate(access.enter(&server, "orders")).await;
        let refusal = entered.expect("it does not wait").err().expect("a refusal");
        assert!(matches!(&refusal, Refusal::Waiting(result) if result.text().0 == BUSY), "{refusal:?}");
    }
    assert_eq!(queue.waiting().0, 0);
    drop(permit);
    let turn = time::timeout(PATIENCE, queue.next()).await.expect("it is due");
    assert_eq!(turn.object(), "orders");
    assert_eq!(queue.waiting().0, 0, "it waited once");
    let permit = access.enter(&server, "orders").await.expect("a permit");
    drop(permit);
    assert_eq!(queue.waiting().0, 0, "it waits no longer");
}

#[tokio::test]
async fn a_last_try_waits_for_its_permit() {
    let (_listener, server) = silent().await;
    let access = healthy(1, &Queue::default());
    let permit = access.enter(&server, "users").await.expect("a permit");
    let mut waits = std::pin::pin!(access.wait(&server));
    assert!(future::poll_immediate(&mut waits).await.is_none());
    drop(permit);
    assert!(time::timeout(PATIENCE, waits).await.expect("there is a permit").is_ok());
}

/// Objects that become due again as soon as they had the server.
#[tokio::test(start_paused = true)]
async fn no_object_starves_at_a_busy_server() {
    let server = Server::new("postgres://admin:x@localhost/postgres", None).expect("a server");
    let queue = Queue::default();
    let access = healthy(1, &queue);
    let names: Vec<String> = (0..20).map(|number| format!("object-{number}")).collect();
    for name in &names {
        queue.add(name);
    }
    let counts = Mutex::new(HashMap::<String, u32>::new());
    let (uses, access, server) = (&counts, &access, &server);
    let turns = stream::unfold((), |()| async { Some((queue.next().await, ())) });
    let reconciled = turns.for_each_concurrent(4, |turn| async move {
        let entered = access.enter(server, turn.object()).await;
        match entered {
            Ok(permit) => {
                time::sleep(Duration::from_millis(10)).await;
                *uses.lock().expect("no panic").entry(turn.object().to_owned()).or_default() += 1;
                drop(permit);
                turn.end(Action::requeue(Duration::from_millis(1)));
            }
            Err(_) => turn.end(Action::requeue(Duration::from_secs(1))),
        }
    });
    // Enough for 500 uses of the server.
    assert!(time::timeout(Duration::from_secs(5), reconciled).await.is_err());
    let counts = counts.into_inner().expect("no panic");
    assert!(names.iter().all(|name| counts.get(name).is_some_and(|times| *times >= 10)), "{counts:?}");
    assert!(counts.values().sum::<u32>() > 400, "the server is in use all the time: {counts:?}");
}

#[test]
fn two_servers_leave_turns_to_the_others() {
    assert!(Servers::new(8, Queue::default()).limit * 2 < 8);
    assert_eq!(Servers::new(1, Queue::default()).limit, 1);
}

#[test]
fn a_service_cannot_make_its_server_count_as_failing() {
    let access = healthy(1, &Queue::default());
    let is_good = || matches!(access.state.borrow().health, Health::Good);
    let is_bad = || matches!(access.state.borrow().health, Health::Bad { .. });
    let text = || "lock timeout".to_owned();
    access.interrupted(&Error::NotOwned(text()));
    assert!(is_good());
    for error in [Error::Sql { action: text(), reason: text() }, Error::Unreachable { server: text(), reason: text() }]
    {
        access.state.send_modify(|state| state.health = Health::Good);
        access.interrupted(&error);
        assert!(!is_good() && !is_bad(), "the next reconcile finds out: {error}");
    }
    access.interrupted(&Error::Unresponsive { server: text(), reason: text() });
    assert!(is_bad(), "the admin reads only what no service can lock");
}

#[test]
fn a_server_is_the_content_of_its_secret() {
    let secret = |url: &str| BTreeMap::from([("url".to_owned(), ByteString(url.as_bytes().to_vec()))]);
    let servers = Servers::new(8, Queue::default());
    let first = servers.access(&secret("postgres://a:b@one"));
    assert!(Arc::ptr_eq(&first, &servers.access(&secret("postgres://a:b@one"))), "whatever the Secret's name");
    assert!(!Arc::ptr_eq(&first, &servers.access(&secret("postgres://a:c@one"))), "the password was corrected");
}
