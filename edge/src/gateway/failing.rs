//! What becomes of a request that fails: answered, or cut.

use std::sync::atomic::Ordering;

use pingora::proxy::Session;
use pingora::{Error, ErrorSource, ErrorType};

use super::upload::TOO_LARGE;
use super::{Context, Gateway, Held};
use crate::deadline::Expired;
use crate::refusal::Refusal;
use crate::upstream;

impl Gateway {
    /// What failed, as a refusal: the deadline first, for it ends things by making them fail.
    pub(super) fn refusal(&self, error: &Error, context: &Context) -> Refusal {
        if let Some(refusal) = &context.exchange.refusal {
            return refusal.clone();
        }
        if context.deadline().expired().is_some() {
            return late(context);
        }
        if context.connection.stalled.load(Ordering::Relaxed) {
            return Refusal::ClientStalled;
        }
        if *error.esource() == ErrorSource::Downstream
            && let Some(refusal) = context.connection.fault()
        {
            return refusal;
        }
        match error.esource() {
            ErrorSource::Upstream => upstream::refusal(error),
            ErrorSource::Downstream if *error.etype() == ErrorType::ReadTimedout => {
                Refusal::RequestTimeout
            }
            ErrorSource::Downstream => match error.etype() {
                ErrorType::WriteTimedout => Refusal::ClientStalled,
                &TOO_LARGE => Refusal::BodyTooLarge,
                ErrorType::ReadError
                | ErrorType::WriteError
                | ErrorType::ConnectionClosed
                // A stream that was reset.
                | ErrorType::H2Error => Refusal::ClientClosed,
                _ => Refusal::BadRequest,
            },
            ErrorSource::Internal | ErrorSource::Unset => Refusal::Internal,
        }
    }

    /// Answers, unless a head was sent or nobody is there; the status is for Pingora.
    pub(super) async fn answer_failure(
        &self,
        session: &mut Session,
        error: &Error,
        context: &mut Context,
    ) -> u16 {
        let refusal = self.refusal(error, context);
        tracing::debug!(id = context.exchange.id, reason = refusal.reason(), %error, "exchange_failed");
        context.exchange.upstream_done();
        let head_sent = session
            .response_written()
            .is_some_and(|head| !head.status.is_informational());
        let error_code = refusal.status().as_u16();
        // Whoever is not there is told nothing, and a body that is cut off must not look complete.
        let gone = [Refusal::ClientClosed, Refusal::ClientStalled].contains(&refusal);
        if head_sent || gone {
            if !head_sent {
                context.exchange.status = error_code;
            }
            context.exchange.refusal = Some(refusal);
            return error_code;
        }
        session.set_keepalive(None);
        if let Err(error) = context.refuse(session, refusal).await {
            tracing::debug!(id = context.exchange.id, %error, "answer_not_sent");
        }
        error_code
    }
}

/// Who was too slow, now that the time is over.
pub(super) fn late(context: &Held) -> Refusal {
    match context.deadline().expired() {
        Some(Expired::Body) => Refusal::RequestTimeout,
        // Once an answer has begun, nobody waits for the body alone.
        _ if !context.exchange.body_arrived && context.exchange.status == 0 => {
            Refusal::RequestTimeout
        }
        _ => Refusal::ResponseTimeout,
    }
}
