//! Asks an upstream for an answer on behalf of the cache. A fetch belongs to nobody who waits for
//! it: whoever goes away leaves the others what they came for.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use pingora::ErrorSource;
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use tokio::time::{timeout, timeout_at};

use crate::cache::{self, Asked, Lifetime, Policy, Reason, Selection};
use crate::conversation::{Conversation, Event};
use crate::exchange::Upstream;
use crate::flight::{Flight, Flights, Head, Outcome};
use crate::forward::content_length;
use crate::metrics::Metrics;
use crate::plan::{Plan, Rule};
use crate::refusal::Refusal;
use crate::retry::{Failed, Sent};
use crate::store::{Entry, Kept, Name, Room, Store};
use crate::upstream::{self, Attempt, Verdict};

/// What every fetch needs.
pub(crate) struct Fetcher {
    pub(crate) store: &'static Store,
    pub(crate) flights: Flights,
    pub(crate) connector: Connector,
    pub(crate) metrics: Arc<Metrics>,
}

/// One fetch.
pub(crate) struct Fetch {
    pub(crate) plan: Arc<Plan>,
    /// The place of its route among the routes.
    pub(crate) route: usize,
    pub(crate) flight: Arc<Flight>,
    pub(crate) key: Arc<[u8]>,
    pub(crate) name: Arc<Name>,
    /// The request as the peer gets it.
    pub(crate) request: Box<RequestHeader>,
    /// The key by which it belongs to a peer.
    pub(crate) belongs: Option<Vec<u8>>,
    /// The fields of the request as the client sent them: what tells variants apart.
    pub(crate) fields: HeaderMap,
    pub(crate) asked: Asked,
    /// What is kept, to be confirmed.
    pub(crate) validating: Option<Arc<Entry>>,
}

/// What a part of a body costs beside its own bytes.
const CHUNK: usize = 128;
/// A connection from the pool may have been closed meanwhile: so often another one is taken.
const MOST_STALE_CONNECTIONS: usize = 3;

/// An answer whose body is still to come.
struct Arriving {
    attempt: Attempt,
    conversation: Conversation,
    head: ResponseHeader,
    asked_at: SystemTime,
}

/// What is on its way into the store.
struct Filling {
    lifetime: Lifetime,
    selection: Selection,
    room: Room,
    chunks: Vec<Bytes>,
    bytes: u64,
    most: u64,
}

impl Fetcher {
    /// Fetches, whoever waits for it or goes away.
    pub(crate) fn start(self: Arc<Self>, fetch: Fetch) {
        tokio::spawn(async move { self.run(fetch).await });
    }

    /// Fetches, within the route's time for an answer.
    async fn run(&self, fetch: Fetch) {
        let ending = Ending {
            fetcher: self,
            key: fetch.key.clone(),
            flight: fetch.flight.clone(),
        };
        let born = fetch.flight.born;
        let Some(rule) = fetch.plan.rules.get(fetch.route) else {
            return;
        };
        let by = rule.timeout.response.map(|within| Instant::now() + within);
        let fetching = self.fetch(&fetch, rule, born, by);
        let end = within(by, fetching).await;
        let end = end.unwrap_or(Err(Refusal::ResponseTimeout));
        let result = end.as_ref().copied().unwrap_or("failed");
        self.metrics.fetched(&rule.name, result);
        let end = end.map(drop);
        ending.with(end);
    }

    /// Tells what came of it, in a word.
    async fn fetch(
        &self,
        fetch: &Fetch,
        rule: &Rule,
        born: u64,
        by: Option<Instant>,
    ) -> Result<&'static str, Refusal> {
        rule.upstream.budget.request(Instant::now());
        let mut spent = Upstream {
            began: Some(Instant::now()),
            ..Upstream::default()
        };
        let mut request = fetch.request.clone();
        let mut arriving = self.ask(fetch, rule, &request, &mut spent, by).await?;
        if let Some(entry) = &fetch.validating
            && arriving.head.status == StatusCode::NOT_MODIFIED
        {
            if cache::is_answered_by(&entry.head.headers, &arriving.head.headers) {
                let outcome = self.confirm(fetch, rule, entry, &arriving, born);
                fetch.flight.decide(outcome);
                self.connector_takes_back(arriving).await;
                return Ok("confirmed");
            }
            // It confirms something else (RFC 9111 4.3.4): asked again, for all of it.
            for (name, _) in cache::conditions(&entry.head.headers) {
                request.remove_header(&name);
            }
            self.connector_takes_back(arriving).await;
            spent.tried.clear();
            arriving = self.ask(fetch, rule, &request, &mut spent, by).await?;
        }
        self.take(fetch, rule, arriving, born).await
    }

    /// Asks the peers, one after the other, until one answers; interim answers are passed on.
    async fn ask(
        &self,
        fetch: &Fetch,
        rule: &Rule,
        request: &RequestHeader,
        spent: &mut Upstream,
        by: Option<Instant>,
    ) -> Result<Arriving, Refusal> {
        let upstream = &rule.upstream;
        let mut stale = 0;
        loop {
            let mut attempt = upstream
                .begin(&spent.tried, fetch.belongs.as_deref())
                .await?;
            spent.tried.push(attempt.peer.address);
            fetch.flight.spend(spent);
            let asked_at = SystemTime::now();
            let talking = self.talk(fetch, rule, request, &attempt);
            let try_by = rule.timeout.attempt.map(|time| Instant::now() + time);
            let heard = within(try_by.into_iter().chain(by).min(), talking).await;
            let heard = heard.unwrap_or_else(|| Err(Failure::late(by)));
            let failure = match heard {
                Ok((conversation, head)) => {
                    let status = head.status.as_u16();
                    attempt.answered(head.status);
                    let failed = Failed::Status(status);
                    if !is_unwanted(upstream, status) || !may_repeat(upstream, failed, spent) {
                        return Ok(Arriving {
                            attempt,
                            conversation,
                            head: *head,
                            asked_at,
                        });
                    }
                    continue;
                }
                Err(failure) => failure,
            };
            if failure.stale && stale < MOST_STALE_CONNECTIONS {
                // That says nothing against the peer.
                stale += 1;
                spent.tried.pop();
                continue;
            }
            if failure.refusal != Refusal::BadRequest {
                attempt.judge(Verdict::without_answer(&failure.refusal));
            }
            self.metrics.count_failure(&upstream.name, &failure.refusal);
            if !may_repeat(upstream, failure.failed, spent) {
                return Err(failure.refusal);
            }
        }
    }

    /// Asks one peer, up to the head of its answer.
    async fn talk(
        &self,
        fetch: &Fetch,
        rule: &Rule,
        request: &RequestHeader,
        attempt: &Attempt,
    ) -> Result<(Conversation, Box<ResponseHeader>), Failure> {
        let connecting = self.connector.get_http_session(&attempt.peer.http);
        let connected = timeout(rule.timeout.connect, connecting).await;
        let refused = |refusal| Failure::of(Failed::Connect, refusal);
        let (session, reused) = connected
            .map_err(|_| refused(Refusal::ConnectTimeout))?
            .map_err(|error| refused(upstream::refusal(&error)))?;
        let request = Box::new(request.clone());
        let secure = attempt.peer.http.is_tls();
        let heard = async {
            let mut conversation = Conversation::begin(session, request, secure, true).await?;
            loop {
                match conversation.hear().await? {
                    Event::Head(head) => return Ok((conversation, head)),
                    Event::Interim(head) if head.status != StatusCode::CONTINUE => {
                        fetch.flight.interim(*head);
                    }
                    _ => {}
                }
            }
        };
        heard.await.map_err(|mut error: Box<pingora::Error>| {
            if *error.esource() == ErrorSource::Downstream {
                // What cannot be said to a peer is not its fault.
                return Failure::of(Failed::Other, Refusal::BadRequest);
            }
            error.retry.decide_reuse(reused);
            Failure {
                stale: error.retry(),
                ..Failure::of(Failed::Closed, upstream::refusal(&error))
            }
        })
    }

    /// What is kept still holds: its head is freshened by the 304 (RFC 9111 4.3.4).
    fn confirm(
        &self,
        fetch: &Fetch,
        rule: &Rule,
        entry: &Arc<Entry>,
        arriving: &Arriving,
        born: u64,
    ) -> Outcome {
        let once = || Outcome::Holds(entry.clone(), false);
        let Some(policy) = &rule.cache else {
            return once();
        };
        let told = &arriving.head.headers;
        let mut head = entry.head.clone();
        // It is as old as this confirmation, not as what it confirms.
        head.remove_header(&header::AGE);
        let now = SystemTime::now();
        if !told.contains_key(header::DATE) {
            let _ = head.insert_header(header::DATE, httpdate::fmt_http_date(now));
        }
        for name in cache::updates(told) {
            head.remove_header(&name);
            for value in told.get_all(&name) {
                // What was a valid field stays one.
                let _ = head.append_header(name.clone(), value);
            }
        }
        let Ok(head) = kept_head(&head, entry.body.len()) else {
            return once();
        };
        let (status, asked_at) = (head.status, arriving.asked_at);
        let lifetime = cache::keep(policy, &fetch.asked, status, &head.headers, asked_at, now);
        let names = cache::names(policy, &head.headers);
        let (lifetime, names) = match (lifetime, names) {
            (Ok(lifetime), Ok(names)) => (lifetime, names),
            // Confirmed, but not to be kept any longer: it answers this once.
            (Err(reason), _) | (_, Err(reason)) => {
                self.outdated(fetch, reason);
                return once();
            }
        };
        let selection = Selection::of(&names, &fetch.fields);
        self.flights
            .learn(&fetch.key, lifetime.is_for_who_waits(now), Instant::now());
        match entry.freshened(born, head, lifetime, selection) {
            Some(new) => Outcome::Holds(self.store.freshen(&fetch.key, entry, new), true),
            None => once(),
        }
    }

    /// Hands the answer to all who wait, and keeps it if it may be.
    async fn take(
        &self,
        fetch: &Fetch,
        rule: &Rule,
        mut arriving: Arriving,
        born: u64,
    ) -> Result<&'static str, Refusal> {
        if arriving.head.status == StatusCode::NOT_MODIFIED {
            // Nobody asked on a condition.
            return Err(Refusal::UpstreamInvalid);
        }
        let filling = self.judge(fetch, rule, &arriving);
        let length = content_length(&arriving.head.headers);
        let kept = match &filling {
            Ok(filling) => Ok((filling.lifetime.clone(), filling.selection.clone())),
            Err(reason) => Err(*reason),
        };
        let head = Arc::new(Head {
            head: arriving.head.clone(),
            kept,
            length,
        });
        let shared = |filling: &Filling| filling.lifetime.is_for_who_waits(SystemTime::now());
        // What one client's words prevent says nothing of the next one's.
        if filling
            .as_ref()
            .err()
            .is_none_or(|reason| is_of_answer(*reason))
        {
            let shared = filling.as_ref().is_ok_and(shared);
            self.flights.learn(&fetch.key, shared, Instant::now());
        }
        if let Err(reason) = &filling
            && arriving.head.status.as_u16() < 500
        {
            self.outdated(fetch, *reason);
        }
        let mut filling = filling.ok();
        if let Some(empty) = filling.take_if(|_| length == Some(0)) {
            self.keep(fetch, &arriving.head, empty, born);
        }
        fetch.flight.decide(Outcome::Answer(head));
        let mut kept = false;
        while let Some(chunk) = self.read(&mut arriving).await? {
            // Pingora has copied it out of its buffer, which is larger.
            filling = filling.and_then(|room| self.fill(fetch, room, &chunk));
            // Kept before its last byte goes out: whoever asks again finds it.
            if let Some(whole) = filling.take_if(|filling| length == Some(filling.bytes)) {
                self.keep(fetch, &arriving.head, whole, born);
                kept = true;
            }
            if !fetch.flight.push(chunk).await {
                return Ok("abandoned");
            }
        }
        if let Some(filling) = filling {
            self.keep(fetch, &arriving.head, filling, born);
            kept = true;
        }
        self.connector_takes_back(arriving).await;
        Ok(if kept { "kept" } else { "not_kept" })
    }

    /// The next part of the body; `None` at its end. What follows it is not kept.
    async fn read(&self, arriving: &mut Arriving) -> Result<Option<Bytes>, Refusal> {
        loop {
            match arriving.conversation.hear().await {
                Ok(Event::Body(part)) => return Ok(Some(part)),
                Ok(Event::End) => return Ok(None),
                Ok(_) => {}
                Err(error) => {
                    arriving.attempt.judge(Verdict::Bad);
                    let refusal = upstream::refusal(&error);
                    let upstream = &arriving.attempt.upstream.name;
                    self.metrics.count_failure(upstream, &refusal);
                    return Err(refusal);
                }
            }
        }
    }

    /// Takes one more part in, unless the answer has become too large.
    fn fill(&self, fetch: &Fetch, mut filling: Filling, chunk: &Bytes) -> Option<Filling> {
        let fits = filling.add(chunk);
        if !fits {
            fetch.flight.let_go();
            self.flights.learn(&fetch.key, false, Instant::now());
        }
        fits.then_some(filling)
    }

    /// What is kept has been replaced by something that may not be (RFC 9111 4.3.3).
    fn outdated(&self, fetch: &Fetch, reason: Reason) {
        if let Some(entry) = fetch.validating.as_ref().filter(|_| is_of_answer(reason)) {
            self.store.forget(&fetch.key, entry);
        }
    }

    /// May the answer be kept, and is there room for it?
    fn judge(&self, fetch: &Fetch, rule: &Rule, arriving: &Arriving) -> Result<Filling, Reason> {
        let policy = rule.cache.as_ref().ok_or(Reason::Method)?;
        let headers = &arriving.head.headers;
        let (status, asked_at) = (arriving.head.status, arriving.asked_at);
        let now = SystemTime::now();
        let lifetime = cache::keep(policy, &fetch.asked, status, headers, asked_at, now)?;
        let kept = fetch.validating.as_ref();
        if status.is_server_error() && kept.is_some_and(|kept| kept.lifetime.stands_in(now)) {
            // What is kept stands in for such an answer.
            return Err(Reason::Status);
        }
        let names = cache::names(policy, headers)?;
        let most = most(policy, self.store);
        let length =
            Some(content_length(headers).unwrap_or_default()).filter(|length| *length <= most);
        let room = length.and_then(|length| self.store.room(length));
        Ok(Filling {
            lifetime,
            selection: Selection::of(&names, &fetch.fields),
            room: room.ok_or(Reason::TooLarge)?,
            chunks: Vec::new(),
            bytes: 0,
            most,
        })
    }

    fn keep(&self, fetch: &Fetch, head: &ResponseHeader, filling: Filling, born: u64) {
        let tags = cache::tags(&head.headers);
        let tags: Vec<String> = tags.into_iter().map(str::to_owned).collect();
        let body = whole(filling.chunks);
        let Ok(head) = kept_head(head, body.len()) else {
            return;
        };
        let kept = Kept {
            head,
            body,
            lifetime: filling.lifetime,
            selection: filling.selection,
            name: fetch.name.clone(),
            tags,
        };
        self.store.keep(&fetch.key, born, kept);
        // Whoever still reads it holds what it took.
        fetch.flight.hold(filling.room);
    }

    /// The connection may serve others. An answer without a body has been read to its end, too.
    async fn connector_takes_back(&self, mut arriving: Arriving) {
        if let Ok(Event::End) = arriving.conversation.hear().await {
            let http = &arriving.attempt.peer.http;
            arriving.conversation.end(&self.connector, http).await;
        }
    }
}

/// What the future comes to, if it does so by then.
async fn within<F: Future>(by: Option<Instant>, future: F) -> Option<F::Output> {
    match by {
        Some(by) => timeout_at(by.into(), future).await.ok(),
        None => Some(future.await),
    }
}

/// Why a try failed.
struct Failure {
    failed: Failed,
    refusal: Refusal,
    /// The connection came from the pool and had been closed meanwhile.
    stale: bool,
}

impl Failure {
    /// The time for a try is over, or, by then, that for the whole answer.
    fn late(by: Option<Instant>) -> Self {
        match by.is_some_and(|by| by <= Instant::now()) {
            true => Self::of(Failed::Other, Refusal::ResponseTimeout),
            false => Self::of(Failed::Timeout, Refusal::TryTimeout),
        }
    }

    fn of(failed: Failed, refusal: Refusal) -> Self {
        Self {
            failed,
            refusal,
            stale: false,
        }
    }
}

fn is_unwanted(upstream: &upstream::Upstream, status: u16) -> bool {
    let retry = upstream.config.retry.as_ref();
    retry.is_some_and(|retry| retry.on.statuses.contains(&status))
}

/// A fetch is a GET without a body.
fn may_repeat(upstream: &upstream::Upstream, failed: Failed, spent: &Upstream) -> bool {
    let sent = Sent {
        idempotent: true,
        anything: failed != Failed::Connect,
        body_kept: true,
        answered: false,
    };
    upstream.may_repeat(failed, &sent, &spent.tried)
}

impl Filling {
    /// Takes one more part in; `false`: it has become too large.
    fn add(&mut self, chunk: &Bytes) -> bool {
        self.bytes += chunk.len() as u64;
        self.chunks.push(chunk.clone());
        let held = self.bytes + (self.chunks.len() * CHUNK) as u64;
        self.bytes <= self.most && self.room.grow_to(held.max(self.bytes))
    }
}

/// Is it the answer that is not kept, and not one client's request?
fn is_of_answer(reason: Reason) -> bool {
    !matches!(reason, Reason::Credentials | Reason::NoStore)
}

/// The largest body that a route keeps.
fn most(policy: &Policy, store: &Store) -> u64 {
    let own = policy.max_object.unwrap_or(u64::MAX);
    own.min(store.object())
}

/// The head as it is kept: framed by its length alone, without the letters' case, which would be
/// copied for every hit, and in memory of its own: what Pingora reads into is larger.
fn kept_head(head: &ResponseHeader, length: usize) -> pingora::Result<ResponseHeader> {
    let framing = [header::TRANSFER_ENCODING, header::TRAILER];
    let fields = head.headers.iter();
    let fields: Vec<_> = fields.filter(|(name, _)| !framing.contains(name)).collect();
    let values = fields.iter().map(|(_, value)| value.as_bytes());
    let mut text = Bytes::from(values.collect::<Vec<_>>().concat().into_boxed_slice());
    let mut own = ResponseHeader::build_no_case(head.status, Some(head.headers.len() + 1))?;
    for (name, value) in fields {
        let value = HeaderValue::from_maybe_shared(text.split_to(value.len()));
        if let Ok(value) = value {
            own.append_header(name, value)?;
        }
    }
    if head.status != StatusCode::NO_CONTENT {
        own.insert_header(header::CONTENT_LENGTH, length)?;
    }
    own.set_version(head.version);
    Ok(own)
}

/// One piece of all the parts, with no room to spare.
fn whole(mut chunks: Vec<Bytes>) -> Bytes {
    if chunks.len() <= 1 {
        return chunks.pop().unwrap_or_default();
    }
    let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
    for chunk in &chunks {
        whole.extend_from_slice(chunk);
    }
    whole.freeze()
}

/// However a fetch ends, nobody waits for it for ever.
struct Ending<'a> {
    fetcher: &'a Fetcher,
    key: Arc<[u8]>,
    flight: Arc<Flight>,
}

impl Ending<'_> {
    fn with(self, end: Result<(), Refusal>) {
        self.fetcher.flights.remove(&self.key, &self.flight);
        self.flight.end(end);
    }
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.fetcher.flights.remove(&self.key, &self.flight);
        self.flight.end(Err(Refusal::Internal));
    }
}
