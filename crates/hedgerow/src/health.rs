//! Checks whether a service is ready.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long one response may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests `/readyz` once.
///
/// # Errors
/// Returns the reason if the service is not ready.
pub async fn ready(admin: SocketAddr) -> Result<(), String> {
    let response = timeout(RESPONSE_TIMEOUT, status_line(admin)).await;
    let response = response.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
    match response {
        Ok(line) if line.split(' ').nth(1) == Some("200") => Ok(()),
        Ok(line) => Err(format!("/readyz returns {line:?}")),
        Err(error) => Err(format!("no response from /readyz: {error}")),
    }
}

async fn status_line(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut response = Vec::new();
    stream.take(4096).read_to_end(&mut response).await?;
    let response = String::from_utf8_lossy(&response);
    Ok(response.lines().next().unwrap_or_default().to_owned())
}
