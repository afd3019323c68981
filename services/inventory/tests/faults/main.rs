//! The service as a process, through the accidents of its life and of its database's.

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
