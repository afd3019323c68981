//! Sends each request to an endpoint of the service that its path belongs to, and the answer back.
