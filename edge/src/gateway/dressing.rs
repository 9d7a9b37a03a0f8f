//! What a route changes of fields: towards the peer, and of whatever answer the client gets.

use pingora::Result;
use pingora::proxy::Session;

use super::request::{forwarded, site, value};
use super::{Context, Gateway, Held};
use crate::headers::Dressing;
use crate::refusal::Refusal;
use crate::{cors, limit, respond};

impl Gateway {
    /// Makes up what the answer is given, whatever it will say.
    pub(super) fn choose_dressing(session: &Session, context: &mut Held) {
        let plan = context.plan.clone();
        let Some(rule) = plan.rule(&context.exchange) else {
            return;
        };
        if rule.headers.is_empty() && rule.cors.is_none() {
            return;
        }
        let request = session.req_header();
        let mut dressing = Dressing::default();
        if let Some(policy) = &rule.cors {
            dressing.remove.extend(cors::OWN);
            dressing.set = policy.answer(&request.headers, site(request, context));
        }
        let value = |variable| value(variable, request, context);
        for rules in &rule.headers {
            dressing.put(&rules.response, value);
        }
        let security = rule.headers.iter().rev().find_map(|rules| rules.security);
        if security == Some(true) {
            let told = forwarded(&request.headers, context).proto;
            dressing.put_security(told.unwrap_or(context.exchange.scheme) == "https");
        }
        let varies = rule.cors.as_ref().is_some_and(cors::Policy::varies);
        context.exchange.varies_by_origin = varies;
        context.exchange.dressing = Some(Box::new(dressing));
    }

    /// Is it a preflight that edge itself answers? An `Err` if pages of this origin may not ask so.
    pub(super) fn is_own_preflight(session: &Session, context: &mut Held) -> Result<bool, Refusal> {
        let request = session.req_header();
        let policy = context.rule().and_then(|rule| rule.cors.as_ref());
        let Some(policy) =
            policy.filter(|_| limit::is_preflight(&request.method, &request.headers))
        else {
            return Ok(false);
        };
        let fields = policy.preflight(&request.headers, site(request, context))?;
        if let Some(dressing) = &mut context.exchange.dressing {
            dressing.set.retain(|(name, _)| !cors::OWN.contains(name));
            dressing.set.extend(fields);
        }
        Ok(true)
    }

    /// Answers a preflight: no peer hears of it.
    pub(super) async fn answer_preflight(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<()> {
        context.deadline().answer_now();
        context.connection.keep_date(None);
        respond::preflight(session, &mut context.exchange).await
    }
}
