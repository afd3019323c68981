//! The service as a process: start, stop, and failures of the process and of its database.

mod command_line;
mod drain;
mod drain_load;
mod grpc;
mod logs;
mod lost_commit;
mod lost_while_running;
mod metrics;
mod migrate;
mod outage;
mod overload;
mod oversold;
mod proxy;
mod readiness;
mod service;
mod survival;
mod traces;
