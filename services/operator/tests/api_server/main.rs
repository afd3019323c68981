//! Tests against a real API server, that of the current kube context. `make test-cluster` runs them.

mod children;
mod kind;
mod namespace;
