//! Tunnels and streams end with the token that they were opened with.

use std::{future::pending, sync::atomic::AtomicBool};

use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::StreamBody;
use test_support::raw::Raw;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::{Notify, mpsc},
    time::timeout,
};

use super::{
    super::{
        grpc::{status, with_grpc},
        stub::{Body, read_head},
    },
    *,
};

/// Less than a token of [`short`] is accepted: a stream lasts at least that long.
const STREAM: &str = "--total-timeout=3s";

const SESSION: &str = "01890f5e-7e44-7c5c-8a43-5d9a4e0f6f51";

/// A token that is accepted for some more seconds: it has expired, but clocks may differ by 30 s.
fn short(issuer: &Issuer) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs();
    issuer.token(&json!({ "exp": now - 26 }))
}

/// Accepts every WebSocket, and echoes.
async fn echo() -> Stub {
    Stub::raw(async |mut stream, _| {
        if read_head(&mut stream).await.is_some() {
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            let _ = stream.write_all(head.as_bytes()).await;
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    })
    .await
}

async fn tunnel(gateway: &TestGateway, token: Option<&str>) -> TcpStream {
    let authorization = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let mut raw = Raw::connect(gateway.address).await.expect("a connection");
    let head = "GET /test HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n";
    raw.send(format!("{head}{authorization}\r\n")).await.expect("sent");
    let response = raw.response().await.expect("a response");
    assert_eq!(response.status, 101, "{}", response.head);
    let mut stream = raw.into_stream();
    assert_echo(&mut stream).await;
    stream
}

async fn assert_echo(stream: &mut TcpStream) {
    stream.write_all(b"ping").await.expect("sent");
    let mut echo = [0; 4];
    timeout(TIMEOUT, stream.read_exact(&mut echo)).await.expect("in time").expect("an echo");
    assert_eq!(&echo, b"ping");
}

async fn assert_closed(stream: &mut TcpStream) {
    let rest = timeout(TIMEOUT, stream.read_to_end(&mut Vec::new())).await.expect("the end in time");
    assert_eq!(rest.expect("no error"), 0);
}

#[tokio::test]
async fn a_tunnel_ends_with_its_token() {
    let (issuer, stub) = (Issuer::start().await, echo().await);
    let gateway = issuer.gateway(&[], &json!({ "mode": "optional" }), &stub);
    let mut anonymous = tunnel(&gateway, None).await;
    let mut expiring = tunnel(&gateway, Some(&short(&issuer))).await;
    let mut long = tunnel(&gateway, Some(&issuer.token(&json!({})))).await;
    assert_closed(&mut expiring).await;
    assert_echo(&mut anonymous).await;
    assert_echo(&mut long).await;
    let line = gateway.log(1).await.remove(0);
    assert_eq!(line["denial"], "the token is invalid: expired");
    assert_eq!((&line["status"], &line["subject"], &line["complete"]), (&json!(101), &json!("ada"), &json!(false)));
    assert_eq!(gateway.metric(r#"gateway_denials_total{outcome="invalid-token"}"#), 1);
}

#[tokio::test]
async fn a_tunnel_ends_with_its_session() {
    let (issuer, stub) = (Issuer::start().await, echo().await);
    let has_ended = Arc::<AtomicBool>::default();
    let ended = has_ended.clone();
    let list = Stub::responding(move |_| {
        let sessions = if ended.load(Ordering::SeqCst) { &[SESSION][..] } else { &[] };
        async move { Response::new(full_body(json!({ "sessions": sessions, "cursor": "" }).to_string())) }
    })
    .await;
    let url = format!("--auth-revoked-url=http://{}/auth/revoked", list.address);
    let gateway = issuer.gateway(&[&url], &json!({}), &stub);
    let mut ending = tunnel(&gateway, Some(&issuer.token(&json!({ "sid": SESSION })))).await;
    let mut other = tunnel(&gateway, Some(&issuer.token(&json!({})))).await;
    has_ended.store(true, Ordering::SeqCst);
    assert_closed(&mut ending).await;
    assert_echo(&mut other).await;
    assert_eq!(gateway.log(1).await[0]["denial"], "the token is invalid: revoked");
    assert_eq!(gateway.metric(r#"gateway_denials_total{outcome="revoked"}"#), 1);
}

#[tokio::test]
async fn an_event_stream_ends_with_its_token() {
    let issuer = Issuer::start().await;
    let stub = Stub::responding(async |_| {
        let first = stream::once(async { Ok(Frame::data(Bytes::from_static(b"data: 1\n\n"))) });
        let body: Body = BodyExt::boxed(StreamBody::new(first.chain(stream::pending())));
        Response::builder().header("content-type", "text/event-stream").body(body).expect("a response")
    })
    .await;
    let gateway = issuer.gateway(&[STREAM], &json!({}), &stub);
    let request = with_credentials(Method::GET, "/test", &[&format!("Bearer {}", short(&issuer))]);
    let response = http_1(gateway.address).await.send_request(request).await.expect("a response");
    let mut body = response.into_body();
    let first = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
    assert_eq!(first, "data: 1\n\n");
    let end = timeout(TIMEOUT, body.frame()).await.expect("in time");
    assert!(end.is_some_and(|frame| frame.is_err()), "a client can tell that the stream was cut off");
    assert_eq!(gateway.log(1).await[0]["denial"], "the token is invalid: expired");
}

/// A call whose request goes on until the sender is dropped.
fn open_call(token: &str) -> (mpsc::Sender<Bytes>, Request<Body>) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let frames = stream::poll_fn(move |cx| receiver.poll_recv(cx).map(|data| data.map(|data| Ok(Frame::data(data)))));
    let request = Request::post("http://shop.example/test.v1.Test/Echo")
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .header("authorization", format!("Bearer {token}"));
    (sender, request.body(BodyExt::boxed(StreamBody::new(frames))).expect("a request"))
}

fn grpc_gateway(issuer: &Issuer, stub: &Stub) -> TestGateway {
    TestGateway::of(&[&issuer.flag(), STREAM], with_grpc(&[stub.address], Some(vec![stub.address])))
}

#[tokio::test]
async fn a_grpc_stream_ends_with_its_token() {
    let (issuer, stub) = (Issuer::start().await, super::super::grpc::echo().await);
    let gateway = grpc_gateway(&issuer, &stub);
    let (sender, call) = open_call(&short(&issuer));
    sender.send("hello".into()).await.expect("sent");
    let response = http_2(gateway.address).await.send_request(call).await.expect("a response");
    let response = timeout(TIMEOUT, TestResponse::read(response)).await.expect("in time").expect("a complete response");
    assert_eq!((response.text(), status(&response)), ("hello", Some("UNAUTHENTICATED")), "{response:?}");
    let trailers = response.trailers.as_ref().expect("trailers");
    assert_eq!(trailers.get("grpc-message").expect("a message"), "the%20token%20is%20invalid:%20expired");
    gateway.metric_becomes(r#"gateway_upstream_requests_in_flight{service="test"}"#, 0).await;
}

#[tokio::test]
async fn a_grpc_call_without_a_response_ends_with_its_token() {
    let (issuer, ended) = (Issuer::start().await, Arc::new(Notify::new()));
    let notify = ended.clone();
    let stub = Stub::responding(move |request| {
        let notify = notify.clone();
        async move {
            let mut body = request.into_body();
            while let Some(Ok(_)) = body.frame().await {}
            notify.notify_one();
            pending().await
        }
    })
    .await;
    let gateway = grpc_gateway(&issuer, &stub);
    let (sender, call) = open_call(&short(&issuer));
    sender.send("hello".into()).await.expect("sent");
    let response = timeout(TIMEOUT, http_2(gateway.address).await.send_request(call)).await.expect("in time");
    let response = TestResponse::read(response.expect("a response")).await.expect("a complete response");
    assert_eq!(status(&response), Some("UNAUTHENTICATED"), "{response:?}");
    timeout(TIMEOUT, ended.notified()).await.expect("the service notices");
}

/// A client that reads nothing does not keep its stream open.
#[tokio::test]
async fn nothing_more_is_uploaded_with_an_ended_token() {
    let (issuer, ended) = (Issuer::start().await, Arc::new(Notify::new()));
    let notify = ended.clone();
    let stub = Stub::responding(move |request| {
        let notify = notify.clone();
        async move {
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(_)) = body.frame().await {}
                notify.notify_one();
            });
            // More than the client has a window for.
            let endless = stream::repeat_with(|| Ok(Frame::data(Bytes::from_static(&[0; 16 * 1024]))));
            let body: Body = BodyExt::boxed(StreamBody::new(endless));
            Response::builder().header("content-type", "application/grpc").body(body).expect("a response")
        }
    })
    .await;
    let gateway = grpc_gateway(&issuer, &stub);
    let (sender, call) = open_call(&short(&issuer));
    let mut client = http_2(gateway.address).await;
    let response = client.send_request(call).await.expect("a response");
    let noticed = ended.notified();
    tokio::pin!(noticed);
    let sending = async {
        while sender.send("more".into()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        pending::<()>().await;
    };
    tokio::select! {
        () = &mut noticed => {}
        () = sending => {}
        () = tokio::time::sleep(TIMEOUT) => panic!("the service still gets what is uploaded"),
    }
    drop(response);
}

/// A client that is refused may send the request again, so nothing is refused that may have taken effect already.
#[tokio::test]
async fn an_ordinary_call_is_not_cut_off() {
    let (issuer, stub) = (Issuer::start().await, super::super::grpc::echo().await);
    let gateway = TestGateway::of(&[&issuer.flag()], with_grpc(&[], Some(vec![stub.address])));
    let token = short(&issuer);
    let (sender, call) = open_call(&token);
    sender.send("hello".into()).await.expect("sent");
    let response = http_2(gateway.address).await.send_request(call).await.expect("a response");
    eventually("the token has expired", TIMEOUT, async || {
        (gateway.send_with(Method::GET, "/test", &token).await.status == 401).then_some(())
    })
    .await;
    sender.send(" again".into()).await.expect("sent");
    drop(sender);
    let response = timeout(TIMEOUT, TestResponse::read(response)).await.expect("in time").expect("a complete response");
    assert_eq!((response.text(), status(&response)), ("hello again", Some("OK")), "{response:?}");
}
