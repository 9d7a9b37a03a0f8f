//! Who asks: proven, counted, and told to those behind.

use std::sync::Arc;

use http::HeaderMap;
use pingora::http::RequestHeader;
use pingora::proxy::Session;

use super::{Gateway, Held};
use crate::authenticator::{Proven, Shown};
use crate::credentials::Place;
use crate::identity::Certificate;
use crate::limit;
use crate::refusal::Refusal;
use crate::{forward, websocket};

impl Gateway {
    /// Takes away what only edge may say of a client, however a peer may read its name.
    pub(super) fn disown(session: &mut Session, context: &Held) {
        let told = &context.plan.told;
        let request = session.req_header_mut();
        let names = request.headers.keys();
        let disowned = names.filter(|name| {
            forward::is_alias(name) || told.iter().any(|own| forward::reads_as(name, own))
        });
        let disowned: Vec<_> = disowned.cloned().collect();
        for name in disowned {
            request.remove_header(&name);
        }
    }

    /// Finds out who asks, if the route wants to know. From here on the request no longer holds
    /// what proved it, unless the peer is to have that; and it says who it is.
    pub(super) async fn authenticate(
        &self,
        session: &mut Session,
        context: &mut Held,
    ) -> Result<(), Refusal> {
        let now = context
            .exchange
            .began
            .saturating_duration_since(self.started);
        let plan = context.plan.clone();
        let rule = plan.rule(&context.exchange).ok_or(Refusal::Internal)?;
        let Some((authenticator, wanted)) = &rule.auth else {
            return Ok(());
        };
        context.exchange.challenge = authenticator.challenge();
        let request = session.req_header();
        let shown = Shown {
            headers: &request.headers,
            query: request.uri.query(),
            websocket: websocket::asks(request.version, &request.headers),
            certificate: certificate(context, &request.headers),
            client: context.exchange.client,
            route: &rule.name,
            now,
        };
        let proven = authenticator.prove(&shown, wanted, &rule.limits.by).await?;
        let Proven {
            identity,
            places,
            own_limit,
        } = proven;
        if let Some((quota, bucket)) = &own_limit {
            let taken = bucket.take(quota, now);
            taken.map_err(|retry_after| Refusal::ClientLimit {
                status: rule.limits.status.per_client,
                retry_after,
            })?;
        }
        if rule.limits.by.needs_identity() {
            let counted = identity.counted.as_ref().unwrap_or(&identity.name);
            let taken = match own_limit {
                Some(_) => rule.limits.take_shared(now),
                None => rule
                    .limits
                    .take_proven(limit::key_of(counted.as_bytes()), now),
            };
            if taken? == limit::Decision::Allowed {
                rule.figures.limit_allowed();
            }
        }
        for place in &places {
            take_out(session.req_header_mut(), place)?;
        }
        let request = session.req_header_mut();
        for (name, value) in &identity.fields {
            let told = request.append_header(name.clone(), value.clone());
            told.map_err(|_| Refusal::Internal)?;
        }
        // A client could have what edge says taken out again, or what it was shown, as if that
        // belonged to the connection.
        if forward::nominates(&request.headers) {
            let taken = forward::hop_by_hop(&request.headers);
            let shown = authenticator.settings.from.iter();
            let shown = shown.filter_map(Place::field);
            let mut said = identity.fields.iter().map(|(name, _)| name).chain(shown);
            if said.any(|name| taken.contains(name)) {
                return Err(Refusal::MessageForm);
            }
        }
        context.exchange.identity = Some(identity);
        Ok(())
    }
}

/// The certificate that the client has shown: to edge, or to a trusted proxy.
fn certificate(context: &Held, headers: &HeaderMap) -> Option<Arc<Certificate>> {
    let trusted = context
        .plan
        .config
        .server
        .trust
        .trusts(context.exchange.peer);
    let told = || Certificate::forwarded(headers).map(Arc::new);
    match trusted {
        true => told(),
        false => context.connection.certificate.clone(),
    }
}

/// The request without what stood at this place.
fn take_out(request: &mut RequestHeader, place: &Place) -> Result<(), Refusal> {
    match place.without(&request.headers) {
        Some((name, Some(value))) => {
            let kept = request.insert_header(name, value);
            kept.map_err(|_| Refusal::Internal)?;
        }
        Some((name, None)) => drop(request.remove_header(&name)),
        None => {}
    }
    if let Some(query) = place.without_query(request.uri.query()) {
        let path = request.uri.path();
        let target = match query.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{query}"),
        };
        let kept = request.set_raw_path(target.as_bytes());
        kept.map_err(|_| Refusal::Internal)?;
    }
    Ok(())
}
