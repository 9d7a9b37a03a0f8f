//! May a kept answer be handed out to this client now (RFC 9111 4)?

use std::time::SystemTime;

use super::lifetime::Lifetime;
use super::request::Asked;

/// What to do with a kept answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is fresh: hand it out.
    Fresh,
    /// It is stale and the client takes it so (`max-stale`): hand it out.
    Stale,
    /// It is stale: hand it out, and ask the upstream meanwhile (RFC 5861 3).
    WhileRevalidate,
    /// Ask the upstream first.
    Validate {
        /// Whose wish that is.
        why: Why,
        /// When what is kept may be handed out all the same.
        despite: Despite,
    },
    /// Not for this client: as if nothing were kept.
    No,
}

/// What may befall the upstream so that a stale answer stands in for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Despite {
    /// Nothing.
    Nothing,
    /// No answer at all (RFC 9111 4.2.4).
    Silence,
    /// No answer, or an answer that says so (RFC 5861 4).
    Error,
}

impl Despite {
    fn of(lifetime: &Lifetime, now: SystemTime) -> Self {
        if lifetime.stands_in(now) {
            Self::Error
        } else if lifetime.may_be_stale && lifetime.stale_for(now) < lifetime.stale_if_unreachable {
            Self::Silence
        } else {
            Self::Nothing
        }
    }
}

/// Why the upstream is asked although something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It is stale, or must be asked for each time.
    Stale,
    /// The client wants it.
    Request,
}

/// Decides for this client and this moment.
pub fn reuse(asked: &Asked, lifetime: &Lifetime, now: SystemTime) -> Reuse {
    // A shared cache has no answers for one client alone (RFC 9111 3.5).
    if asked.credentials && !asked.apart && !lifetime.shared {
        return Reuse::No;
    }
    let stale = lifetime.stale_for(now);
    let despite = Despite::of(lifetime, now);
    if refused(asked, lifetime, now) {
        let why = Why::Request;
        return Reuse::Validate { why, despite };
    }
    let fresh = lifetime.is_fresh(now) && !lifetime.validate_always;
    let stale_allowed = lifetime.may_be_stale && !lifetime.validate_always;
    if fresh {
        Reuse::Fresh
    } else if stale_allowed && wants_stale(asked) && stale < lifetime.stale_while_revalidate {
        Reuse::WhileRevalidate
    } else if stale_allowed && asked.max_stale.is_some_and(|most| stale <= most) {
        Reuse::Stale
    } else {
        let why = Why::Stale;
        Reuse::Validate { why, despite }
    }
}

/// Does the client refuse what is kept, fresh or not (5.2.1)?
fn refused(asked: &Asked, lifetime: &Lifetime, now: SystemTime) -> bool {
    let age = lifetime.age(now);
    let left = lifetime.fresh_for.saturating_sub(age);
    asked.no_cache
        // `max-age=0` is a reload, however young the answer is.
        || asked.max_age.is_some_and(|most| age > most || most.is_zero())
        || asked.min_fresh.is_some_and(|least| left < least)
}

/// Who names the greatest age wants nothing stale, unless he says how stale (5.2.1.1); who wants
/// it fresh for a while, neither.
fn wants_stale(asked: &Asked) -> bool {
    (asked.max_age.is_none() || asked.max_stale.is_some()) && asked.min_fresh.is_none()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::tests::{lifetime, now};
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn validate(why: Why, on_error: bool) -> Reuse {
        let despite = match on_error {
            true => Despite::Error,
            false => Despite::Nothing,
        };
        Reuse::Validate { why, despite }
    }

    /// An answer fresh for 60 s, then 10 s while edge asks again, then 100 s in case of errors.
    fn windowed() -> Lifetime {
        Lifetime {
            stale_while_revalidate: secs(10),
            stale_if_error: secs(100),
            ..lifetime(60)
        }
    }

    #[test]
    fn an_answer_is_fresh_then_stale_then_gone() {
        let asked = Asked::default();
        for (age, expected) in [
            (0, Reuse::Fresh),
            (59, Reuse::Fresh),
            (60, Reuse::WhileRevalidate),
            (69, Reuse::WhileRevalidate),
            (70, validate(Why::Stale, true)),
            (159, validate(Why::Stale, true)),
            (160, validate(Why::Stale, false)),
        ] {
            assert_eq!(
                reuse(&asked, &windowed(), now() + secs(age)),
                expected,
                "{age}"
            );
        }
        let plain = reuse(&asked, &lifetime(60), now() + secs(60));
        assert_eq!(plain, validate(Why::Stale, false), "RFC 9111 4.2.4");
    }

    /// RFC 9111 4.2.4.
    #[test]
    fn an_upstream_that_is_silent_is_not_one_that_errs() {
        let silent = Lifetime {
            stale_if_unreachable: secs(1_000),
            ..windowed()
        };
        for (age, despite) in [
            (70, Despite::Error),
            (160, Despite::Silence),
            (1_060, Despite::Nothing),
        ] {
            let why = Why::Stale;
            let told = reuse(&Asked::default(), &silent, now() + secs(age));
            assert_eq!(told, Reuse::Validate { why, despite }, "{age}");
        }
        let strict = Lifetime {
            may_be_stale: false,
            ..silent
        };
        let told = reuse(&Asked::default(), &strict, now() + secs(70));
        assert_eq!(told, validate(Why::Stale, false));
    }

    /// RFC 9111 5.2.1.
    #[test]
    fn the_clients_words_count() {
        let request = validate(Why::Request, false);
        let stale = validate(Why::Stale, false);
        let none = Asked::default();
        let max_age = |secs| Asked {
            max_age: Some(Duration::from_secs(secs)),
            ..none.clone()
        };
        let min_fresh = |secs| Asked {
            min_fresh: Some(Duration::from_secs(secs)),
            ..none.clone()
        };
        let max_stale = |most| Asked {
            max_stale: Some(most),
            ..none.clone()
        };
        for (section, asked, age, expected) in [
            (
                "5.2.1.4",
                Asked {
                    no_cache: true,
                    ..none.clone()
                },
                1,
                request,
            ),
            (
                "5.2.1.5",
                Asked {
                    no_store: true,
                    ..none.clone()
                },
                1,
                Reuse::Fresh,
            ),
            ("5.2.1.1", max_age(5), 5, Reuse::Fresh),
            ("5.2.1.1", max_age(5), 6, request),
            ("5.2.1.1", max_age(0), 0, request),
            ("5.2.1.3", min_fresh(20), 40, Reuse::Fresh),
            ("5.2.1.3", min_fresh(20), 41, request),
            ("5.2.1.2", max_stale(secs(5)), 65, Reuse::Stale),
            ("5.2.1.2", max_stale(secs(5)), 66, stale),
            ("5.2.1.2", max_stale(Duration::MAX), 9_999_999, Reuse::Stale),
        ] {
            let told = reuse(&asked, &lifetime(60), now() + secs(age));
            assert_eq!(told, expected, "{section}: {asked:?} at {age}");
        }
        let aged = reuse(&max_age(80), &windowed(), now() + secs(65));
        assert_eq!(aged, validate(Why::Stale, true), "5.2.1.1");
    }

    /// RFC 9111 4.2.4 and 5.2.2.4.
    #[test]
    fn what_must_not_be_stale_is_asked_for() {
        let strict = Lifetime {
            may_be_stale: false,
            ..windowed()
        };
        let any = Asked {
            max_stale: Some(Duration::MAX),
            ..Asked::default()
        };
        assert_eq!(
            reuse(&any, &strict, now() + secs(61)),
            validate(Why::Stale, false)
        );
        let always = Lifetime {
            validate_always: true,
            may_be_stale: false,
            ..windowed()
        };
        assert_eq!(reuse(&any, &always, now()), validate(Why::Stale, false));
    }

    /// RFC 9111 3.5.
    #[test]
    fn who_shows_credentials_gets_what_is_for_all_or_his_own() {
        let with = Asked {
            credentials: true,
            ..Asked::default()
        };
        let apart = Asked {
            apart: true,
            ..with.clone()
        };
        let shared = Lifetime {
            shared: true,
            ..lifetime(60)
        };
        assert_eq!(reuse(&with, &lifetime(60), now()), Reuse::No);
        assert_eq!(reuse(&with, &shared, now()), Reuse::Fresh);
        assert_eq!(reuse(&apart, &lifetime(60), now()), Reuse::Fresh);
    }
}
