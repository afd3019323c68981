//! Annotations that `hedgerow up` reads. The operator ignores them.

/// Fixes the ports of a service on a laptop, so that its addresses stay the same when services come and go.
///
/// The value is a number n from 0 to 999. The service then listens on 127.0.0.1: HTTP on port 8080 + n, the admin port
/// on 9090 + n and, if it has `ports.grpc`, gRPC on 50050 + n. The gateway has 0.
pub const LOCAL_PORT: &str = "hedgerow.dev/local-port";

/// The command that starts a service on a laptop, such as `python greeter.py`, run in the folder of the file.
///
/// If the service has a database, the command is also run with the argument `migrate`, as the image is in a cluster.
/// Without this annotation, the command is the binary of the object's name beside `hedgerow`.
pub const COMMAND: &str = "hedgerow.dev/command";

/// Requests to try first, one a line: `METHOD /path [JSON body]`, such as `POST /orders {"product": "product_123"}`.
///
/// `hedgerow up` prints them as curl commands, in order.
pub const TRY: &str = "hedgerow.dev/try";
