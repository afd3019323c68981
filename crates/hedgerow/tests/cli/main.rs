//! The `hedgerow` binary as a user runs it: real processes, a real Postgres, stand-ins for the services.

mod accounts;
mod addresses;
mod authentication;
mod databases;
mod ephemeral;
mod files;
mod gateway;
mod recovery;
mod sandbox;
mod terminal;
