//! What the gateway does to requests and responses while it forwards them: it identifies the client, filters headers,
//! enforces rate limits, responds to CORS preflights and compresses responses.

mod caller_headers;
mod client;
mod compression;
mod cors;
mod header_filter;
mod rate_limit;
mod request_head;
mod security;

use std::net::SocketAddr;

use api::Forward;
use http::{HeaderMap, Method, Response, request::Parts};
use http_body::Body as HttpBody;
use identity::Caller;

use crate::auth::{Denial, Grant};

pub(crate) use client::{Client, Scheme};
pub(crate) use compression::Body;
pub(crate) use rate_limit::Quota;
pub(crate) use request_head::is_upgrade;

/// How the gateway treats requests and responses.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PolicyArgs {
    /// Number of trusted proxies in front of the gateway, each of which appends the address of its peer to
    /// X-Forwarded-For. With 0, forwarding headers of requests are ignored. If the number is too high, clients can
    /// forge their address
    #[arg(long, env, value_name = "N", default_value_t = 0)]
    pub(crate) trusted_hops: u8,
    #[command(flatten)]
    headers: header_filter::HeaderFilterArgs,
    #[command(flatten)]
    limit: rate_limit::LimitArgs,
    #[command(flatten)]
    cors: cors::CorsArgs,
    #[command(flatten)]
    security: security::SecurityArgs,
    #[command(flatten)]
    compression: compression::CompressionArgs,
}

/// The configured policies.
pub(crate) struct Policy {
    trusted_hops: usize,
    header_filter: header_filter::HeaderFilter,
    limiter: Option<rate_limit::Limiter>,
    subject_limiter: Option<rate_limit::Limiter>,
    cors: Option<cors::Cors>,
    security: security::Security,
    compression: compression::Compression,
}

/// What a response depends on besides itself: facts about its request.
#[derive(Debug, Clone)]
pub(crate) struct ResponseContext {
    is_head: bool,
    scheme: Scheme,
    allowed_origin: cors::AllowedOrigin,
    accepted: compression::Accepted,
}

impl ResponseContext {
    /// Whether the response may be compressed with gzip.
    pub(crate) fn accepts_gzip(&self) -> bool {
        self.accepted.accepts_gzip()
    }
}

impl Policy {
    /// # Errors
    /// Returns an error if flags contradict each other.
    pub(crate) fn new(args: &PolicyArgs) -> anyhow::Result<Self> {
        Ok(Self {
            trusted_hops: args.trusted_hops.into(),
            header_filter: header_filter::HeaderFilter::new(&args.headers),
            limiter: rate_limit::Limiter::for_clients(&args.limit),
            subject_limiter: rate_limit::Limiter::for_subjects(&args.limit),
            cors: cors::Cors::new(&args.cors)?,
            security: security::Security::new(&args.security)?,
            compression: compression::Compression::new(&args.compression),
        })
    }

    /// Identifies the client by the peer of its connection and, behind trusted proxies, by forwarding headers.
    pub(crate) fn client(&self, peer: SocketAddr, headers: &HeaderMap) -> Client {
        Client::new(self.trusted_hops, peer, headers)
    }

    /// Collects what [`Self::to_client`] needs. Must be called before [`Self::to_upstream`] changes the request.
    pub(crate) fn response_context(&self, parts: &Parts, client: &Client) -> ResponseContext {
        ResponseContext {
            is_head: parts.method == Method::HEAD,
            scheme: client.scheme,
            allowed_origin: self.cors.as_ref().map(|cors| cors.allowed_origin(&parts.headers)).unwrap_or_default(),
            accepted: self.compression.accepted(&parts.headers),
        }
    }

    /// The response to a CORS preflight, which is not forwarded; `None` for other requests.
    pub(crate) fn preflight(&self, parts: &Parts) -> Option<Response<()>> {
        self.cors.as_ref()?.preflight(parts)
    }

    /// Counts a request against its client's quota for a route; `None` if there is no rate limit.
    pub(crate) fn limit(&self, service: &str, route: &str, client: &Client) -> Option<Quota> {
        Some(self.limiter.as_ref()?.take(service, route, client.address))
    }

    /// Counts a request against its caller's quota for a route; `None` if there is no such limit.
    pub(crate) fn limit_subject(&self, service: &str, route: &str, caller: &Caller) -> Option<Quota> {
        Some(self.subject_limiter.as_ref()?.take_subject(service, route, caller.issuer(), caller.subject()))
    }

    /// Prepares a request head for the upstream: removes headers of the client's connection and headers that only a
    /// gateway may set, and adds headers that describe the client and, if the service wants that, the caller.
    ///
    /// # Errors
    /// Returns an error if a header cannot hold who the caller is.
    pub(crate) fn to_upstream(&self, parts: &mut Parts, client: &Client, grant: &Grant) -> Result<(), Denial> {
        request_head::prepare(parts, client, &self.header_filter);
        compression::to_upstream(&mut parts.headers);
        if grant.fixes_method {
            header_filter::strip_method_overrides(&mut parts.headers);
        }
        if grant.forward == Forward::Headers {
            caller_headers::set(&mut parts.headers, grant.caller.as_deref())?;
        }
        Ok(())
    }

    /// Prepares a response for the client, whether it comes from a service or from the gateway itself.
    pub(crate) fn to_client<B>(&self, context: &ResponseContext, response: Response<B>) -> Response<Body<B>>
    where
        B: HttpBody<Data = bytes::Bytes>,
    {
        let (mut parts, body) = response.into_parts();
        header_filter::strip_response(parts.status, &mut parts.headers);
        self.security.apply(context.scheme, &mut parts.headers);
        if let Some(cors) = &self.cors {
            cors.apply(&context.allowed_origin, &mut parts.headers);
        }
        let body = self.compression.apply(context.is_head, &context.accepted, &mut parts, body);
        Response::from_parts(parts, body)
    }
}
