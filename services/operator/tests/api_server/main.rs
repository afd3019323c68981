//! What only a real API server can tell: it needs a cluster, that of the current context, which may be a throwaway one.
//! `make test-cluster` runs it.

mod children;
mod kind;
mod namespace;
