//! What the gateway does to requests and answers besides passing them on: who the client is, which headers cross it,
//! limits, CORS, compression.

mod body;
mod client;
mod compression;
mod cors;
mod limit;
mod names;
mod security;
mod upstream;

use std::net::SocketAddr;

use http::{HeaderMap, Method, Response, request::Parts};
use http_body::Body as HttpBody;

pub(crate) use body::Body;
pub(crate) use client::{Client, Scheme};
pub(crate) use limit::Quota;
pub(crate) use upstream::is_upgrade;

/// How the gateway treats requests and answers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PolicyArgs {
    /// How many proxies stand in front, each of which appends to X-Forwarded-For the address that it was called from.
    /// With 0 nothing that comes from outside is believed. More than there are lets clients choose their address
    #[arg(long, env, value_name = "N", default_value_t = 0)]
    pub(crate) trusted_hops: u8,
    #[command(flatten)]
    names: names::NamesArgs,
    #[command(flatten)]
    limit: limit::LimitArgs,
    #[command(flatten)]
    cors: cors::CorsArgs,
    #[command(flatten)]
    security: security::SecurityArgs,
    #[command(flatten)]
    compression: compression::CompressionArgs,
}

/// All of it, ready to be used; made once.
pub(crate) struct Policy {
    trusted_hops: usize,
    names: names::Names,
    limiter: Option<limit::Limiter>,
    cors: Option<cors::Cors>,
    security: security::Security,
    compression: compression::Compression,
}

/// The few facts of a request that its answer depends on.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    is_head: bool,
    scheme: Scheme,
    cors: cors::Asked,
    compression: compression::Asked,
}

impl Policy {
    /// # Errors
    /// Where arguments contradict each other.
    pub(crate) fn new(args: &PolicyArgs) -> anyhow::Result<Self> {
        Ok(Self {
            trusted_hops: args.trusted_hops.into(),
            names: names::Names::new(&args.names),
            limiter: limit::Limiter::new(&args.limit),
            cors: cors::Cors::new(&args.cors)?,
            security: security::Security::new(&args.security)?,
            compression: compression::Compression::new(&args.compression),
        })
    }

    /// Who sent a request, by its connection and, where there are trusted hops, its headers.
    pub(crate) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> Client {
        Client::new(self.trusted_hops, peer, headers)
    }

    /// Notes what [`Self::to_client`] needs to know of a request; before [`Self::to_upstream`] changes it.
    pub(crate) fn see(&self, parts: &Parts, client: &Client) -> Seen {
        Seen {
            is_head: parts.method == Method::HEAD,
            scheme: client.scheme,
            cors: self.cors.as_ref().map(|cors| cors.see(&parts.headers)).unwrap_or_default(),
            compression: self.compression.see(&parts.headers),
        }
    }

    /// The answer to a preflight (CORS), which no service gets to see.
    pub(crate) fn preflight(&self, parts: &Parts) -> Option<Response<()>> {
        self.cors.as_ref()?.preflight(parts)
    }

    /// Counts a request against its client's quota of a route; `None` where there is no limit.
    pub(crate) fn limit(&self, service: &str, route: &str, client: &Client) -> Option<Quota> {
        Some(self.limiter.as_ref()?.take(service, route, client.address))
    }

    /// Makes a request's head one to send on: without what belongs to the client's connection or is only believed from
    /// a gateway, and with what tells of the client.
    pub(crate) fn to_upstream(&self, parts: &mut Parts, client: &Client) {
        upstream::prepare(parts, client, &self.names);
        compression::to_upstream(&mut parts.headers);
    }

    /// Makes an answer, a service's or the gateway's own, one to give to the client.
    pub(crate) fn to_client<B>(&self, seen: &Seen, response: Response<B>) -> Response<Body<B>>
    where
        B: HttpBody<Data = bytes::Bytes>,
    {
        let (mut parts, body) = response.into_parts();
        names::strip_answer(parts.status, &mut parts.headers);
        self.security.apply(seen.scheme, &mut parts.headers);
        if let Some(cors) = &self.cors {
            cors.apply(&seen.cors, &mut parts.headers);
        }
        let body = self.compression.apply(seen.is_head, &seen.compression, &mut parts, body);
        Response::from_parts(parts, body)
    }
}
