//! What the gateway does to requests and answers besides passing them on: headers, limits, CORS, compression.
