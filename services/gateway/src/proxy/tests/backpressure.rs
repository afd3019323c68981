//! Slow clients and slow services slow each other down, and the gateway buffers only a little.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{stub::read_head, *};

/// More than the buffers of the gateway and the kernel can hold of one stream; the kernel's grow to 32 MiB each.
const MAX_BUFFERED: usize = 100 * 1024 * 1024;

#[tokio::test]
async fn a_slow_client_slows_down_the_service() {
    let written = Arc::<AtomicUsize>::default();
    let stub = Stub::raw({
        let written = written.clone();
        move |mut stream, _| {
            let written = written.clone();
            async move {
                read_head(&mut stream).await;
                let length = 20 * MAX_BUFFERED;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(head.as_bytes()).await.expect("written");
                let piece = vec![b'x'; 64 * 1024];
                for _ in 0..length / piece.len() {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                    written.fetch_add(piece.len(), Ordering::SeqCst);
                }
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    let mut reader = TcpStream::connect(gateway.address).await.expect("a connection");
    reader.write_all(b"GET /test HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("sent");
    let buffered = settled(&written).await;
    assert!(buffered < MAX_BUFFERED, "{buffered} bytes are buffered");
    // Reading makes room for more.
    let mut taken = 0;
    let mut buffer = vec![0; 1024 * 1024];
    while taken < 2 * MAX_BUFFERED {
        taken += reader.read(&mut buffer).await.expect("more data");
    }
    assert!(written.load(Ordering::SeqCst) > buffered);
    let buffered = settled(&written).await.abs_diff(taken);
    assert!(buffered < MAX_BUFFERED, "{buffered} bytes are buffered");
}

/// Waits until a count stops growing.
async fn settled(count: &AtomicUsize) -> usize {
    loop {
        let before = count.load(Ordering::SeqCst);
        tokio::time::sleep(MOMENT * 2).await;
        if before > 0 && count.load(Ordering::SeqCst) == before {
            return before;
        }
    }
}

#[tokio::test]
async fn a_slow_service_slows_down_the_client() {
    let release = Arc::new(Notify::new());
    let stub = Stub::raw({
        let release = release.clone();
        move |mut stream, _| {
            let release = release.clone();
            async move {
                read_head(&mut stream).await;
                release.notified().await;
                while stream.read(&mut vec![0; 1024 * 1024]).await.is_ok_and(|length| length > 0) {}
            }
        }
    })
    .await;
    let gateway = TestGateway::with(&["--body-limit=1000000000"], &[&stub]);
    let mut client = TcpStream::connect(gateway.address).await.expect("a connection");
    client.write_all(b"POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: 900000000\r\n\r\n").await.expect("sent");
    let sent = Arc::<AtomicUsize>::default();
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            let piece = vec![b'x'; 64 * 1024];
            while client.write_all(&piece).await.is_ok() {
                sent.fetch_add(piece.len(), Ordering::SeqCst);
            }
        }
    });
    let buffered = settled(&sent).await;
    assert!(buffered < MAX_BUFFERED, "{buffered} bytes are buffered");
    release.notify_one();
    eventually("the upload continues", TIMEOUT, async || {
        (sent.load(Ordering::SeqCst) > 4 * MAX_BUFFERED).then_some(())
    })
    .await;
    sending.abort();
}

/// Its kernel still answers keep-alive probes.
#[tokio::test]
async fn a_service_may_stop_reading_for_a_while() {
    const LENGTH: usize = 900_000;
    let stub = Stub::raw(async |mut stream, _| {
        let Some(seen) = read_head(&mut stream).await else { return };
        let mut read = seen.split_once("\r\n\r\n").map_or(0, |(_, body)| body.len());
        // Longer than it takes to detect a host that is gone.
        tokio::time::sleep(Duration::from_millis(6500)).await;
        let mut buffer = vec![0; 64 * 1024];
        while read < LENGTH {
            match stream.read(&mut buffer).await {
                Ok(length @ 1..) => read += length,
                _ => return,
            }
        }
        stub::write_response(&mut stream, "everything").await;
    })
    .await;
    let gateway = TestGateway::with(&[], &[&stub]);
    assert_eq!(gateway.post("/test", &"x".repeat(LENGTH)).await.text(), "everything");
}

/// How many bytes the kernel holds of connections to a port.
fn unsent(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the connections");
    let of_line = |line: &str| {
        let mut fields = line.split_whitespace().skip(2);
        let (remote, queues) = (fields.next()?, fields.nth(1)?);
        let is_to_port = u16::from_str_radix(remote.rsplit(':').next()?, 16) == Ok(port);
        let sent = usize::from_str_radix(queues.split(':').next()?, 16).ok()?;
        is_to_port.then_some(sent)
    };
    table.lines().skip(1).filter_map(of_line).sum()
}

/// It counts as the memory of the pod.
#[tokio::test]
async fn the_kernel_keeps_little_for_a_service_that_does_not_read() {
    const LENGTH: usize = 16 * 1024 * 1024;
    let stub = Stub::raw(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let gateway = TestGateway::with(&["--body-limit=100000000"], &[&stub]);
    let mut client = TcpStream::connect(gateway.address).await.expect("a connection");
    let head = format!("POST /test HTTP/1.1\r\nhost: a\r\ncontent-length: {LENGTH}\r\n\r\n");
    client.write_all(head.as_bytes()).await.expect("sent");
    let upload = tokio::spawn(async move { client.write_all(&vec![b'x'; LENGTH]).await });
    let mut before = 0;
    let kept = eventually("no more is sent", TIMEOUT, async || {
        tokio::time::sleep(MOMENT * 2).await;
        let now = unsent(stub.address.port());
        (now > 0 && std::mem::replace(&mut before, now) == now).then_some(now)
    })
    .await;
    assert!(kept < 300 * 1024, "{kept} bytes");
    upload.abort();
}
