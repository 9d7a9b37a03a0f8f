//! A request that the cache may answer: from what is kept, from what somebody else is fetching
//! just now, or by a fetch of its own.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderName, HeaderValue, Method, StatusCode, Version, header};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::proxy::Session;
use pingora::{Error, ErrorType, Result};

use super::conversing::gone;
use super::inquiry::{Inquiry, Step, Verdict};
use super::request::{self, forwarded, host_and_port};
use super::serving::{serve, stream};
use super::{Context, Gateway, Held, in_time, is_over};
use crate::cache::{self, Asking, Despite, Fwd, KeyPart, Told};
use crate::exchange::{CacheState, Upstream};
use crate::fetch::{Fetch, Fetcher};
use crate::flight::{Boarder, Boarding, Flight, News, Outcome, Reader};
use crate::forward;
use crate::refusal::Refusal;
use crate::store::{Entry, Name, Purge, Target};

/// What came of trying to answer.
enum Attempt {
    Answered,
    /// Another's fetch took too long, failed, or brought what is not for this client.
    Again,
    /// The cache has no part in it.
    Straight,
}

/// Without a time for its answer, a request waits so long for another's fetch.
const PATIENCE: Duration = Duration::from_secs(5);

impl Gateway {
    /// Answers from the cache, or through it; `false`: the request passes it by.
    pub(super) async fn answer_cached(
        &self,
        session: &mut Session,
        context: &mut Context,
    ) -> Result<bool> {
        let Some(inquiry) = self.inquire(session, context) else {
            return Ok(false);
        };
        match inquiry.step() {
            Step::Serve(entry, told) => serve(session, context, &entry, told).await.map(|()| true),
            // Boxed: a hit need not carry what a fetch needs.
            _ => Box::pin(self.answer_by_fetch(session, context, inquiry)).await,
        }
    }

    /// What the cache has for this request; `None`: it has no part in it.
    fn inquire(&self, session: &mut Session, context: &mut Held) -> Option<Inquiry> {
        let bodiless = context.exchange.body_arrived;
        let rule = context.plan.rule(&context.exchange)?;
        let policy = rule.cache.as_ref()?;
        let request = session.req_header();
        let identity = context.exchange.identity.as_ref();
        // The peer is told of a certificate: its answer may be for that one alone.
        let known = identity.is_some() || context.connection.certificate.is_some();
        let (method, headers) = (&request.method, &request.headers);
        let admitted = cache::admit(policy, method, headers, !bodiless, known);
        let asked = match admitted {
            Ok(asked) if request.raw_path_is_utf8() => asked,
            refused => {
                let reason = refused.err().unwrap_or(cache::Reason::Target);
                context.exchange.cache = CacheState::Bypass;
                context.exchange.cache_reason = Some(reason.as_str());
                return None;
            }
        };
        let forwarded = forwarded(&request.headers, context);
        let certificate = context.connection.certificate.as_ref();
        let certificate = certificate.and_then(|certificate| certificate.hash.as_deref());
        let asking = Asking {
            route: rule.kept_under,
            scheme: forwarded.proto.unwrap_or(context.exchange.scheme),
            host: host_and_port(request).unwrap_or_default(),
            told: forwarded.host.map(HeaderValue::as_bytes),
            path: request.uri.path(),
            query: request.uri.query(),
            headers: &request.headers,
            identity,
            certificate,
        };
        let key = Arc::from(cache::key(policy, asked.apart, &asking));
        let found = self.fetcher.store.find(&key, &request.headers);
        let inquiry = Inquiry {
            asked,
            key,
            found,
            expected: None,
            now: SystemTime::now(),
            waited: false,
        };
        match self.straight(request, &inquiry) {
            None => Some(inquiry),
            Some(reason) => {
                context.exchange.cache = CacheState::Bypass;
                context.exchange.cache_reason = Some(reason);
                None
            }
        }
    }

    /// What can be neither answered from the store nor kept there takes the straight way; the
    /// reason, if it is so.
    fn straight(&self, request: &RequestHeader, inquiry: &Inquiry) -> Option<&'static str> {
        let no_store = inquiry.asked.no_store;
        // The whole would be fetched, for little of it to be used.
        let little = request.method != Method::GET
            || CONDITIONS
                .iter()
                .any(|name| request.headers.contains_key(name));
        if !(no_store || little) || inquiry.asked.only_if_cached || inquiry.may_answer() {
            return None;
        }
        if no_store {
            return Some(cache::Reason::NoStore.as_str());
        }
        let alone = || self.fetcher.flights.is_alone(&inquiry.key, Instant::now());
        let own = inquiry.asked.credentials && !inquiry.asked.apart;
        (inquiry.has_nothing() && (own || alone())).then_some("not_kept_before")
    }

    /// Stale, not there, or not for this client: an upstream must be asked, now or meanwhile.
    async fn answer_by_fetch(
        &self,
        session: &mut Session,
        context: &mut Context,
        mut inquiry: Inquiry,
    ) -> Result<bool> {
        loop {
            match self.attempt(session, context, &mut inquiry).await? {
                Attempt::Answered => return Ok(true),
                Attempt::Straight => return Ok(false),
                Attempt::Again => {}
            }
            let headers = &session.req_header().headers;
            inquiry.found = self.fetcher.store.find(&inquiry.key, headers);
            inquiry.now = SystemTime::now();
        }
    }

    /// Tries to answer.
    async fn attempt(
        &self,
        session: &mut Session,
        context: &mut Context,
        inquiry: &mut Inquiry,
    ) -> Result<Attempt> {
        let (why, kept, despite) = match inquiry.step() {
            Step::Serve(entry, told) => {
                return serve(session, context, &entry, told)
                    .await
                    .map(|()| Attempt::Answered);
            }
            Step::Refresh(entry, told) => {
                self.refresh(session, context, inquiry, &entry)?;
                return serve(session, context, &entry, told)
                    .await
                    .map(|()| Attempt::Answered);
            }
            Step::Ask { why, kept, despite } => (why, kept, despite),
        };
        context.exchange.cache = match kept {
            Some(_) => CacheState::Expired,
            None => CacheState::Miss,
        };
        if inquiry.asked.only_if_cached {
            let refusal = Refusal::NotCached;
            return context
                .refuse(session, refusal)
                .await
                .map(|()| Attempt::Answered);
        }
        let boarded = self.board(session, context, inquiry, kept.clone())?;
        let Some((mut reader, led)) = boarded else {
            return Ok(Attempt::Again);
        };
        let outcome = self
            .wait(session, context, &mut reader, inquiry, led, despite)
            .await?;
        if led {
            context.exchange.upstream = reader.upstream();
        }
        let told = Told {
            fwd: Some(why),
            collapsed: !led,
            ..Told::default()
        };
        let headers = &session.req_header().headers;
        match inquiry.verdict(headers, outcome, led, kept.as_ref(), despite) {
            Verdict::Confirmed(entry, stored) => {
                let told = Told {
                    fwd_status: Some(StatusCode::NOT_MODIFIED.as_u16()),
                    stored,
                    ttl: Some(entry.lifetime.left(SystemTime::now())),
                    ..told
                };
                serve(session, context, &entry, told).await?;
            }
            Verdict::Stale(entry) => {
                drop(reader);
                // The time for the upstream's answer may be over: this one has its own.
                context.deadline().answer_now();
                let told = inquiry.told_hit(&entry, Some("stale_if_error"));
                serve(session, context, &entry, told).await?;
            }
            Verdict::Stream(head) if head.kept.is_err() && has_range(session) => {
                // The peer can give the part alone.
                context.exchange.cache = CacheState::Bypass;
                context.exchange.cache_reason = head.kept.as_ref().err().map(|why| why.as_str());
                context.exchange.upstream = Upstream::default();
                return Ok(Attempt::Straight);
            }
            Verdict::Stream(head) => stream(session, context, reader, &head, told).await?,
            Verdict::Refuse(refusal) => context.refuse(session, refusal).await?,
            Verdict::Again if is_over(context) => {
                context.refuse(session, Refusal::ResponseTimeout).await?;
            }
            Verdict::Again => return Ok(Attempt::Again),
        }
        Ok(Attempt::Answered)
    }

    /// Takes part in a fetch, or begins one, and tells whether it did; `None`: what it looked for
    /// has come meanwhile.
    fn board(
        &self,
        session: &Session,
        context: &Held,
        inquiry: &Inquiry,
        kept: Option<Arc<Entry>>,
    ) -> Result<Option<(Reader, bool)>> {
        let name = name(session, context);
        let alone = || self.fetcher.flights.is_alone(&inquiry.key, Instant::now());
        let boarding = if inquiry.is_for_all() && !alone() {
            self.find_flight(session, context, inquiry, &name)
        } else {
            let born = self.fetcher.store.generation();
            let (flight, reader) = Flight::begin(Instant::now(), born, None);
            Boarding::Lead(flight, reader)
        };
        match boarding {
            Boarding::Kept => Ok(None),
            Boarding::Join(reader) => Ok(Some((reader, false))),
            Boarding::Lead(flight, reader) => {
                self.launch(session, context, inquiry, kept, &flight, name)?;
                Ok(Some((reader, true)))
            }
        }
    }

    /// Fetches anew what is handed out stale, unless somebody does already. Whoever comes next
    /// finds what that brought.
    fn refresh(
        &self,
        session: &Session,
        context: &Held,
        inquiry: &Inquiry,
        entry: &Arc<Entry>,
    ) -> Result<()> {
        if inquiry.asked.no_store {
            // Nothing of what it brings could be kept.
            return Ok(());
        }
        let name = name(session, context);
        if let Boarding::Lead(flight, _) = self.find_flight(session, context, inquiry, &name) {
            let kept = Some(entry.clone());
            self.launch(session, context, inquiry, kept, &flight, name)?;
        }
        Ok(())
    }

    fn find_flight(
        &self,
        session: &Session,
        context: &Held,
        inquiry: &Inquiry,
        name: &Name,
    ) -> Boarding {
        let Fetcher { store, flights, .. } = &*self.fetcher;
        let known = inquiry.expected.as_ref().or(inquiry.found.variant.as_ref());
        let headers = &session.req_header().headers;
        let seen = inquiry.found.entry.as_ref();
        let kept = seen.map(|entry| &entry.selection);
        flights.board(&Boarder {
            key: &inquiry.key,
            request: headers,
            expected: known.or(kept).filter(|selection| !selection.is_empty()),
            now: Instant::now(),
            patience: patience(context),
            born: store.generation(),
            passed: &|born| store.may_be_purged(born, name),
            kept: &|| {
                let found = store.find(&inquiry.key, headers).entry;
                found.is_some_and(|found| !seen.is_some_and(|seen| Arc::ptr_eq(seen, &found)))
            },
        })
    }

    /// Begins a fetch.
    fn launch(
        &self,
        session: &Session,
        context: &Held,
        inquiry: &Inquiry,
        kept: Option<Arc<Entry>>,
        flight: &Arc<Flight>,
        name: Arc<Name>,
    ) -> Result<()> {
        let key = &inquiry.key;
        let fetch = fetch_of(session, context, inquiry, kept, flight.clone(), name);
        let fetch = fetch.inspect_err(|_| self.fetcher.flights.remove(key, flight))?;
        self.fetcher.clone().start(fetch);
        Ok(())
    }

    /// Waits for the outcome of a fetch; `None`: it took too long. Interim answers are passed on.
    async fn wait(
        &self,
        session: &mut Session,
        context: &Context,
        reader: &mut Reader,
        inquiry: &Inquiry,
        led: bool,
        despite: Despite,
    ) -> Result<Option<Outcome>> {
        let left = context.deadline().left();
        let other = despite != Despite::Nothing || (!led && !inquiry.waited);
        let patience = other.then(|| patience(context));
        let most = left.into_iter().chain(patience).min();
        let by = most.map(|most| Instant::now() + most);
        loop {
            let left = by.map(|by| by.saturating_duration_since(Instant::now()));
            let news = tokio::select! {
                biased;
                news = in_time(left, reader.news()) => news,
                error = gone(session, true) => return Err(error.into_down()),
            };
            match news {
                Some(News::Outcome(outcome)) => return Ok(Some(outcome)),
                // It may set a cookie, and nobody knows yet for whom the answer is.
                Some(News::Interim(head))
                    if led && session.req_header().version == Version::HTTP_11 =>
                {
                    let head = Box::new((*head).clone());
                    let Some(written) =
                        in_time(left, session.write_response_header(head, false)).await
                    else {
                        let late = "the client takes nothing";
                        return Err(Error::explain(ErrorType::WriteTimedout, late).into_down());
                    };
                    written.map_err(Error::into_down)?;
                }
                Some(News::Interim(_)) => {}
                None => return Ok(None),
            }
        }
    }
}

fn patience(context: &Held) -> Duration {
    let timeout = context.rule().and_then(|rule| rule.timeout.response);
    timeout.map_or(PATIENCE, |timeout| timeout / 2)
}

fn has_range(session: &Session) -> bool {
    session.req_header().headers.contains_key(header::RANGE)
}

/// What an answer to this request will answer, for purges and for people.
fn name(session: &Session, context: &Held) -> Arc<Name> {
    let request = session.req_header();
    let rule = context.rule();
    let policy = rule.and_then(|rule| rule.cache.as_ref());
    // Where not all of the query counts, all queries of a path are purged together.
    let counts = |policy: &cache::Policy| {
        policy.key.contains(&KeyPart::Query) && policy.ignore_query.is_empty()
    };
    let path = match policy.is_none_or(counts) {
        true => request
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str()),
        false => request.uri.path(),
    };
    let host = host_and_port(request).unwrap_or_default();
    Arc::new(Name {
        route: rule.map(|rule| rule.name.clone()).unwrap_or_default(),
        host: host.to_ascii_lowercase(),
        path: path.to_owned(),
    })
}

fn fetch_of(
    session: &Session,
    context: &Held,
    inquiry: &Inquiry,
    kept: Option<Arc<Entry>>,
    flight: Arc<Flight>,
    name: Arc<Name>,
) -> Result<Fetch> {
    let request = session.req_header();
    Ok(Fetch {
        plan: context.plan.clone(),
        route: context.exchange.route.unwrap_or_default(),
        flight,
        key: inquiry.key.clone(),
        name,
        request: asking(request, context, kept.as_deref())?,
        belongs: context.rule().and_then(|rule| {
            let client = &context.exchange.client;
            rule.upstream.key(client, &request.headers)
        }),
        fields: request.headers.clone(),
        asked: inquiry.asked.clone(),
        validating: kept,
    })
}

/// What asks for less than the whole.
const CONDITIONS: [HeaderName; 4] = [
    header::RANGE,
    header::IF_RANGE,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
];
/// What speaks of a body, which no request to the cache has.
const FRAMING: [HeaderName; 3] = [
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::EXPECT,
];

/// The request that a peer gets on behalf of the cache: a GET for the whole, on condition that
/// what is kept does not hold (RFC 9111 4.3.1).
fn asking(
    request: &RequestHeader,
    context: &Held,
    kept: Option<&Entry>,
) -> Result<Box<RequestHeader>> {
    let mut asking = Box::new(request.clone());
    for name in forward::hop_by_hop(&request.headers) {
        asking.remove_header(&name);
    }
    for name in CONDITIONS.iter().chain(&FRAMING) {
        asking.remove_header(name);
    }
    request::forward(&mut asking, context)?;
    asking.set_method(Method::GET);
    asking.set_version(Version::HTTP_11);
    let conditions = kept.map(|kept| cache::conditions(&kept.head.headers));
    for (name, value) in conditions.into_iter().flatten() {
        asking.insert_header(name, value)?;
    }
    Ok(asking)
}

impl Gateway {
    /// An unsafe method that succeeds takes out of service what is kept of its target, and of
    /// what the answer names as changed (RFC 9111 4.4).
    pub(super) fn invalidate(&self, session: &Session, context: &Held, answer: &ResponseHeader) {
        let request = session.req_header();
        if !context.plan.caches || !cache::invalidates(&request.method, answer.status) {
            return;
        }
        let host = host_and_port(request)
            .unwrap_or_default()
            .to_ascii_lowercase();
        let path = request
            .uri
            .path_and_query()
            .map_or("", |path| path.as_str());
        let forwarded = forwarded(&request.headers, context);
        let scheme = forwarded.proto.unwrap_or(context.exchange.scheme);
        for path in cache::targets(scheme, &host, path, &answer.headers) {
            let bare = path.split_once('?').map(|(path, _)| path.to_owned());
            for path in std::iter::once(path).chain(bare) {
                let host = Some(host.clone());
                let target = Target::Url { host, path };
                let store = self.fetcher.store;
                store.purge(&target, Purge::Hard, SystemTime::now());
            }
        }
    }
}

/// Notes what the cache did where it had no part, and says it as RFC 9211 does; `None` on a
/// route without a cache.
pub(super) fn passed_by(context: &Held) -> Option<String> {
    if context.exchange.cache != CacheState::Bypass {
        return None;
    }
    let reason = context.exchange.cache_reason;
    let fwd = match reason {
        Some("method") => Fwd::Method,
        Some("no_store") => Fwd::Request,
        _ => Fwd::Bypass,
    };
    let told = Told {
        fwd: Some(fwd),
        detail: reason,
        ..Told::default()
    };
    Some(told.to_string())
}
