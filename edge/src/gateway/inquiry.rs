//! What a request asks of the cache, and what is decided about it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, StatusCode};

use crate::cache::{self, Asked, Despite, Fwd, Lifetime, Reuse, Selection, Told, Why};
use crate::flight::{Head, Outcome};
use crate::refusal::Refusal;
use crate::store::{Entry, Found};

/// What a request asks of the cache.
pub(super) struct Inquiry {
    pub(super) asked: Asked,
    pub(super) key: Arc<[u8]>,
    pub(super) found: Found,
    /// The variant that it is for, where the fields that tell variants apart are known.
    pub(super) expected: Option<Selection>,
    pub(super) now: SystemTime,
    /// It has waited for a fetch that came to nothing.
    pub(super) waited: bool,
}

/// What is to be done for a request.
pub(super) enum Step {
    /// Hand this out.
    Serve(Arc<Entry>, Told),
    /// Hand this out, stale, and fetch it anew meanwhile.
    Refresh(Arc<Entry>, Told),
    /// Ask an upstream first.
    Ask {
        why: Fwd,
        /// What it may confirm.
        kept: Option<Arc<Entry>>,
        /// When that is handed out all the same.
        despite: Despite,
    },
}

/// What becomes of a request for which an upstream was asked.
pub(super) enum Verdict {
    /// What is kept holds; is it kept any longer?
    Confirmed(Arc<Entry>, bool),
    /// What is kept stands in for the upstream.
    Stale(Arc<Entry>),
    /// What arrives is for this request.
    Stream(Arc<Head>),
    Refuse(Refusal),
    Again,
}

impl Inquiry {
    fn reuse(&self, entry: &Entry) -> Reuse {
        cache::reuse(&self.asked, &self.lifetime(entry), self.now)
    }

    /// How long the entry lives; not past a purge that has made it stale.
    fn lifetime<'a>(&self, entry: &'a Entry) -> Cow<'a, Lifetime> {
        let mut lifetime = Cow::Borrowed(&entry.lifetime);
        if let Some(since) = self.found.stale_since {
            lifetime.to_mut().expire(since);
        }
        lifetime
    }

    pub(super) fn told_hit(&self, entry: &Entry, detail: Option<&'static str>) -> Told {
        Told {
            hit: true,
            ttl: Some(self.lifetime(entry).left(self.now)),
            detail,
            ..Told::default()
        }
    }

    /// What is to be done, by what is kept.
    pub(super) fn step(&self) -> Step {
        let nothing = |why| Step::Ask {
            why,
            kept: None,
            despite: Despite::Nothing,
        };
        let Some(entry) = &self.found.entry else {
            return nothing(match self.found.variant {
                Some(_) => Fwd::VaryMiss,
                None => Fwd::UriMiss,
            });
        };
        match self.reuse(entry) {
            Reuse::Fresh | Reuse::Stale => Step::Serve(entry.clone(), self.told_hit(entry, None)),
            Reuse::WhileRevalidate => {
                let told = self.told_hit(entry, Some("stale_while_revalidate"));
                Step::Refresh(entry.clone(), told)
            }
            Reuse::Validate { why, despite } => Step::Ask {
                why: match why {
                    Why::Stale => Fwd::Stale,
                    Why::Request => Fwd::Request,
                },
                kept: Some(entry.clone()),
                despite,
            },
            Reuse::No => nothing(Fwd::UriMiss),
        }
    }

    /// What becomes of the request, by what a fetch came to; no outcome: it took too long.
    pub(super) fn verdict(
        &mut self,
        request: &HeaderMap,
        outcome: Option<Outcome>,
        led: bool,
        kept: Option<&Arc<Entry>>,
        despite: Despite,
    ) -> Verdict {
        let in_silence = kept.filter(|_| despite != Despite::Nothing);
        let on_error = kept.filter(|_| despite == Despite::Error);
        match outcome {
            // What was fetched for somebody else may be another variant.
            Some(Outcome::Holds(entry, kept))
                if led || (kept && self.may_share(&entry.lifetime, &entry.selection, request)) =>
            {
                Verdict::Confirmed(entry, kept)
            }
            Some(Outcome::Answer(head)) => match on_error {
                Some(entry) if is_failure(head.head.status) => Verdict::Stale(entry.clone()),
                _ if led || self.fits(&head, request) => Verdict::Stream(head),
                _ => {
                    self.expect(&head, request);
                    Verdict::Again
                }
            },
            Some(Outcome::Failed(refusal)) => match in_silence {
                Some(entry) => Verdict::Stale(entry.clone()),
                None if led || self.waited => Verdict::Refuse(refusal),
                None => {
                    self.waited = true;
                    Verdict::Again
                }
            },
            None if let Some(entry) = in_silence => Verdict::Stale(entry.clone()),
            Some(Outcome::Holds(..)) | None => Verdict::Again,
        }
    }

    /// May what is kept answer, without asking anybody?
    pub(super) fn may_answer(&self) -> bool {
        let entry = self.found.entry.as_ref();
        entry.is_some_and(|entry| !matches!(self.reuse(entry), Reuse::Validate { .. } | Reuse::No))
    }

    /// Is nothing kept that would be for this client?
    pub(super) fn has_nothing(&self) -> bool {
        let entry = self.found.entry.as_ref();
        entry.is_none_or(|entry| matches!(self.reuse(entry), Reuse::No))
    }

    /// Is this answer, fetched for somebody else, for this request, too?
    fn fits(&self, head: &Head, request: &HeaderMap) -> bool {
        let kept = head.kept.as_ref();
        kept.is_ok_and(|(lifetime, selection)| self.may_share(lifetime, selection, request))
    }

    /// What may not be reused as it is, is for the one alone who has asked for it (RFC 9111 4).
    fn may_share(&self, lifetime: &Lifetime, selection: &Selection, request: &HeaderMap) -> bool {
        let now = SystemTime::now();
        selection.matches(request) && cache::reuse(&self.asked, lifetime, now) == Reuse::Fresh
    }

    /// Learns from another variant which fields tell them apart: from now on it waits for none
    /// but its own.
    fn expect(&mut self, head: &Head, request: &HeaderMap) {
        if let Ok((_, selection)) = &head.kept {
            self.expected = Some(selection.again(request));
        }
    }

    /// May others have the same answer at the same moment?
    pub(super) fn is_for_all(&self) -> bool {
        let own = self.asked.credentials && !self.asked.apart;
        !own && !self.asked.no_store && !self.asked.no_cache && self.asked.max_age.is_none()
    }
}

/// Answers that a kept one may stand in for (RFC 5861 4).
fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}
