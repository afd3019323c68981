//! The `hedgerow` program as a user runs it: real processes, a real Postgres, stand-ins for the services.

mod accidents;
mod addresses;
mod databases;
mod gateway;
mod sandbox;
mod throwaway;
mod users;
