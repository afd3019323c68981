//! The context of a request: its id, its trace, and what the log says about its failure.

mod context;
mod log;
mod trace;

pub use context::{REQUEST_ID, RequestContext, TRACEPARENT, request_id};
pub use log::{LogLimit, chain, should_log_refusal, unavailability_log_due};
pub use trace::{
    CALL_TARGET, REQUEST_TARGET, inject, method_label, record_status, relay_span, server_span, set_parent, shown_path,
};
