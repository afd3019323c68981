//! The service as a process, through the accidents of its life and of its database's.

mod command_line;
mod drain;
mod drain_load;
mod logs;
mod metrics;
mod migrate;
mod outage;
mod overload;
mod readiness;
mod service;
mod survival;
mod traces;
