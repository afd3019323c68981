//! The service as a process, through the accidents of its life and of its database's.

mod drain;
mod drain_load;
mod outage;
mod readiness;
mod service;
mod survival;
