//! What is kept and for how long, by the sections of RFC 9111.

use proptest::prelude::*;

use super::super::PrivateBy;
use super::super::tests::{headers, now};
use super::*;

const DATED: (&str, &str) = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn hourly() -> Policy {
    Policy::new(Some(secs(3_600)))
}

fn kept(policy: &Policy, status: u16, fields: &[(&str, &str)]) -> Result<Lifetime, Reason> {
    let status = StatusCode::from_u16(status).unwrap();
    keep(
        policy,
        &Asked::default(),
        status,
        &headers(fields),
        now(),
        now(),
    )
}

/// For how long an answer of 200 is fresh.
fn time(policy: &Policy, fields: &[(&str, &str)]) -> Result<u64, Reason> {
    kept(policy, 200, fields).map(|lifetime| lifetime.fresh_for.as_secs())
}

fn told(control: &str) -> Result<u64, Reason> {
    time(&hourly(), &[("cache-control", control)])
}

#[test]
fn the_upstream_speaks_first_then_the_route() {
    let no = Err(Reason::NoTime);
    for (section, control, expected) in [
        ("4.2.1", "", Ok(3_600)),
        ("4.2.1", "public, must-revalidate, immutable", Ok(3_600)),
        ("4.2.1", "max-age=60", Ok(60)),
        ("4.2.1", "max-age=86400", Ok(86_400)),
        ("4.2.1", "max-age=60, s-maxage=30", Ok(30)),
        ("4.2.1", "max-age=0, s-maxage=30", Ok(30)),
        ("4.2.1", "max-age=60, max-age=20", Ok(20)),
        ("4.2.1", "max-age=abc", no),
        ("4.2.1", "max-age=60.0", no),
        ("4.2.1", "max-age='60'", no),
        ("4.2.1", "max-age", no),
        ("1.2.2", "max-age=-60", no),
        ("1.2.2", "max-age=99999999999999999999", Ok(1 << 31)),
        ("1.2.2", "max-age=0060", Ok(60)),
        ("5.2", "MAX-AGE=\"60\"", Ok(60)),
        ("5.2", "x=\"max-age=5\", max-age=60", Ok(60)),
        ("5.2.2.1", "max-age=0", no),
    ] {
        assert_eq!(told(control), expected, "{section}: {control}");
    }
}

#[test]
fn expires_counts_from_date() {
    let later = "Sun, 06 Nov 1994 08:50:37 GMT";
    for (section, fields, expected) in [
        ("5.3", &[DATED, ("expires", later)][..], Ok(60)),
        ("5.3", &[("expires", later)], Ok(60)),
        ("5.3", &[("date", "foo"), ("expires", later)], Ok(60)),
        (
            "5.3",
            &[("date", later), ("expires", DATED.1)],
            Err(Reason::NoTime),
        ),
        ("5.3", &[("expires", "0")], Err(Reason::NoTime)),
        (
            "5.3",
            &[("expires", "0"), ("cache-control", "max-age=5")],
            Ok(5),
        ),
        (
            "5.3",
            &[("expires", "Sun, 21 Nov 2286 04:46:39 GMT")],
            Ok(1 << 31),
        ),
        (
            "RFC 9213 2.2",
            &[("expires", "0"), ("cdn-cache-control", "max-age=5")],
            Ok(5),
        ),
        (
            "RFC 9213 2.2",
            &[("expires", "0"), ("cdn-cache-control", "x")],
            Ok(3_600),
        ),
    ] {
        assert_eq!(time(&hourly(), fields), expected, "{section}: {fields:?}");
    }
}

#[test]
fn what_must_not_be_shared_is_not_kept() {
    for (section, field, reason) in [
        (
            "5.2.2.5",
            ("cache-control", "max-age=5, No-Store"),
            Reason::CacheControl,
        ),
        (
            "5.2.2.7",
            ("cache-control", "private"),
            Reason::CacheControl,
        ),
        (
            "5.2.2.7",
            ("cache-control", "private=\"x\""),
            Reason::CacheControl,
        ),
        (
            "RFC 9213",
            ("cdn-cache-control", "private"),
            Reason::CacheControl,
        ),
        ("7.3", ("set-cookie", "a=b"), Reason::SetCookie),
        ("4.1", ("vary", "accept, *"), Reason::Vary),
    ] {
        for overrides in [false, true] {
            let policy = Policy {
                overrides,
                ..hourly()
            };
            let public = ("cache-control", "public, max-age=60");
            assert_eq!(time(&policy, &[public, field]), Err(reason), "{section}");
        }
    }
    let targeted = [
        ("cache-control", "no-store"),
        ("cdn-cache-control", "max-age=9"),
    ];
    assert_eq!(time(&hourly(), &targeted), Ok(9), "RFC 9213 2.2");
}

#[test]
fn statuses_are_kept_as_they_are_understood() {
    for (section, status, control, expected) in [
        ("3", 103, "max-age=60", Err(Reason::Status)),
        ("3", 206, "max-age=60", Err(Reason::Status)),
        ("3", 304, "max-age=60", Err(Reason::Status)),
        ("3", 404, "max-age=60", Ok(60)),
        ("3", 599, "max-age=60", Ok(60)),
        ("4.2.2", 404, "", Err(Reason::NoTime)),
        ("4.2.2", 301, "", Ok(3_600)),
        (
            "5.2.2.3",
            599,
            "max-age=60, must-understand",
            Err(Reason::Status),
        ),
        (
            "5.2.2.3",
            599,
            "max-age=60, no-store, must-understand",
            Err(Reason::Status),
        ),
        (
            "5.2.2.3",
            200,
            "max-age=60, no-store, must-understand",
            Ok(60),
        ),
        (
            "5.2.2.3",
            200,
            "max-age=60, private, must-understand",
            Err(Reason::CacheControl),
        ),
    ] {
        let kept = kept(&hourly(), status, &[("cache-control", control)]);
        let time = kept.map(|lifetime| lifetime.fresh_for.as_secs());
        assert_eq!(time, expected, "{section}: {status} {control}");
    }
}

#[test]
fn an_error_has_the_time_the_route_gives_it() {
    let negative = vec![(StatusCode::NOT_FOUND, secs(5)), (StatusCode::OK, secs(7))];
    let policy = Policy {
        negative,
        ..hourly()
    };
    let time = |status, control| kept(&policy, status, &[("cache-control", control)]);
    assert_eq!(time(404, "").unwrap().fresh_for, secs(5));
    assert_eq!(time(200, "").unwrap().fresh_for, secs(7));
    assert_eq!(time(404, "max-age=60").unwrap().fresh_for, secs(60));
    assert_eq!(time(500, ""), Err(Reason::NoTime));
}

#[test]
fn the_routes_time_holds_where_it_overrides() {
    let policy = Policy {
        overrides: true,
        ..hourly()
    };
    for control in ["max-age=5", "s-maxage=0", "no-cache", "max-age=x"] {
        let lifetime = kept(&policy, 200, &[("cache-control", control)]).unwrap();
        assert_eq!(lifetime.fresh_for, secs(3_600), "{control}");
        assert!(
            !lifetime.validate_always && lifetime.may_be_stale,
            "{control}"
        );
    }
    assert_eq!(time(&policy, &[("expires", "0")]), Ok(3_600));
    let other = kept(&policy, 404, &[("cache-control", "max-age=5")]).unwrap();
    assert_eq!(
        other.fresh_for,
        secs(5),
        "a status the route says nothing about"
    );
}

#[test]
fn the_routes_least_raises_what_the_upstream_says() {
    let policy = Policy {
        ttl_min: Some(secs(30)),
        ..hourly()
    };
    for (control, expected) in [
        ("max-age=5", Ok(30)),
        ("max-age=0", Ok(30)),
        ("max-age=60", Ok(60)),
        ("no-cache, max-age=60", Err(Reason::NoTime)),
        ("no-store", Err(Reason::CacheControl)),
    ] {
        assert_eq!(
            time(&policy, &[("cache-control", control)]),
            expected,
            "{control}"
        );
    }
}

/// RFC 9111 4.2.2.
#[test]
fn without_any_word_the_time_is_guessed() {
    let policy = Policy {
        heuristic: Some(10),
        ..Policy::new(None)
    };
    let changed = ("last-modified", "Sun, 06 Nov 1994 08:32:57 GMT");
    let long_ago = ("last-modified", "Tue, 06 Nov 1984 08:32:57 GMT");
    let ahead = ("last-modified", "Sun, 06 Nov 2044 08:32:57 GMT");
    assert_eq!(time(&policy, &[changed, DATED]), Ok(100));
    assert_eq!(time(&policy, &[changed]), Ok(100));
    assert_eq!(time(&policy, &[long_ago]), Ok(86_400));
    assert_eq!(time(&policy, &[ahead]), Err(Reason::NoTime));
    assert_eq!(time(&policy, &[DATED]), Err(Reason::NoTime));
    assert_eq!(time(&Policy::new(None), &[changed]), Err(Reason::NoTime));
    assert_eq!(kept(&policy, 599, &[changed]), Err(Reason::NoTime));
    let public = kept(&policy, 599, &[changed, ("cache-control", "public")]).unwrap();
    assert_eq!(public.fresh_for, secs(100), "5.2.2.9");
}

#[test]
fn an_answer_without_time_is_kept_if_it_can_be_asked_for_or_used() {
    let tag = ("etag", "\"a\"");
    for (control, other, expected) in [
        ("no-cache", tag, Ok(0)),
        ("no-cache=\"x\", max-age=60", tag, Ok(0)),
        ("max-age=0", tag, Ok(0)),
        ("max-age=0", ("last-modified", DATED.1), Ok(0)),
        ("max-age=0, stale-if-error=5", DATED, Ok(0)),
        (
            "max-age=0, stale-if-error=5, must-revalidate",
            DATED,
            Err(Reason::NoTime),
        ),
        ("no-cache", DATED, Err(Reason::NoTime)),
        ("public", tag, Err(Reason::NoTime)),
    ] {
        let fields = [("cache-control", control), other];
        assert_eq!(time(&Policy::new(None), &fields), expected, "{control}");
    }
}

/// RFC 9111 5.2.2.2, 5.2.2.8, 5.2.2.10, 4.2.4; RFC 5861.
#[test]
fn stale_windows_are_the_upstreams_then_the_routes_unless_forbidden() {
    let policy = Policy {
        stale_while_revalidate: Some(secs(3)),
        stale_if_error: Some(secs(4)),
        ..hourly()
    };
    for (control, windows, may_be_stale, always) in [
        ("max-age=9", (3, 4), true, false),
        ("stale-while-revalidate=5", (5, 4), true, false),
        ("stale-if-error=6", (3, 6), true, false),
        ("stale-if-error=0", (3, 0), true, false),
        ("must-revalidate", (0, 0), false, false),
        ("proxy-revalidate, stale-if-error=6", (0, 0), false, false),
        ("s-maxage=9, stale-while-revalidate=5", (0, 0), false, false),
    ] {
        let lifetime = kept(&policy, 200, &[("cache-control", control)]).unwrap();
        let found = (lifetime.stale_while_revalidate, lifetime.stale_if_error);
        assert_eq!(found, (secs(windows.0), secs(windows.1)), "{control}");
        assert_eq!(lifetime.may_be_stale, may_be_stale, "{control}");
        assert_eq!(lifetime.validate_always, always, "{control}");
    }
    let no_cache = [("cache-control", "no-cache"), ("etag", "\"a\"")];
    let lifetime = kept(&policy, 200, &no_cache).unwrap();
    assert!(lifetime.validate_always && !lifetime.may_be_stale);
    assert_eq!(lifetime.stale_if_error, Duration::ZERO);
}

/// RFC 9111 3.5.
#[test]
fn answers_to_credentials_are_kept_if_they_are_for_all_or_apart() {
    let with = Asked {
        credentials: true,
        ..Asked::default()
    };
    let apart = Asked {
        apart: true,
        ..with.clone()
    };
    let policy = Policy {
        private_by: PrivateBy::Identity,
        ..hourly()
    };
    for (control, shared) in [
        ("max-age=60", false),
        ("proxy-revalidate", false),
        ("public", true),
        ("s-maxage=60", true),
        ("must-revalidate", true),
    ] {
        let fields = headers(&[("cache-control", control)]);
        let kept = |asked| keep(&policy, asked, StatusCode::OK, &fields, now(), now());
        assert_eq!(kept(&with).is_ok(), shared, "{control}");
        assert_eq!(
            kept(&with).err(),
            (!shared).then_some(Reason::Credentials),
            "{control}"
        );
        assert_eq!(kept(&apart).unwrap().shared, shared, "{control}");
    }
}

/// RFC 9111 5.2.1.5.
#[test]
fn what_the_client_forbids_is_not_kept() {
    let asked = Asked {
        no_store: true,
        ..Asked::default()
    };
    let kept = keep(
        &hourly(),
        &asked,
        StatusCode::OK,
        &HeaderMap::new(),
        now(),
        now(),
    );
    assert_eq!(kept, Err(Reason::NoStore));
}

#[test]
fn the_age_it_came_with_counts() {
    let old = 1 << 31;
    for (section, fields, delay, expected) in [
        ("4.2.3", &[][..], 0, 0),
        ("4.2.3", &[], 3, 3),
        ("4.2.3", &[("age", "600")], 3, 603),
        (
            "4.2.3",
            &[("date", "Sun, 06 Nov 1994 07:49:37 GMT")],
            0,
            3_600,
        ),
        (
            "4.2.3",
            &[("date", "Sun, 06 Nov 1994 07:49:37 GMT"), ("age", "9")],
            0,
            3_600,
        ),
        ("4.2.3", &[("date", "Sun, 06 Nov 1994 08:49:00 GMT")], 0, 0),
        ("4.2.3", &[("date", "Sun, 06 Nov 2044 08:49:37 GMT")], 0, 0),
        ("5.1", &[("age", "abc")], 0, 0),
        ("5.1", &[("age", "-7200")], 0, 0),
        ("5.1", &[("age", "7200.0")], 0, 0),
        ("5.1", &[("age", "60, 7200")], 0, 60),
        ("5.1", &[("age", "7200;foo=bar")], 0, 0),
        ("5.1", &[("age", "0"), ("age", "7200")], 0, 0),
        ("1.2.2", &[("age", "99999999999999999999")], 9, old),
    ] {
        let (asked, asked_at) = (Asked::default(), now() - secs(delay));
        let answer = headers(fields);
        let kept = keep(&hourly(), &asked, StatusCode::OK, &answer, asked_at, now());
        assert_eq!(
            kept.unwrap().initial_age.as_secs(),
            expected,
            "{section}: {fields:?}"
        );
    }
}

proptest! {
    /// Whatever else an answer says, one no is a no.
    #[test]
    fn a_no_anywhere_is_a_no(before in "[a-z0-9=,\" -]{0,30}", no in "no-store|private|Private=\"x\"") {
        let fields = [("cache-control", before.as_str()), ("cache-control", no.as_str())];
        prop_assert_eq!(time(&hourly(), &fields), Err(Reason::CacheControl));
    }

    #[test]
    fn times_are_bounded(control in "(s-maxage|max-age|stale-if-error)=[0-9]{0,30}", age in "[0-9]{0,30}") {
        let fields = [("cache-control", control.as_str()), ("age", age.as_str())];
        if let Ok(lifetime) = kept(&hourly(), 200, &fields) {
            prop_assert!(lifetime.fresh_for <= field::LONGEST);
            prop_assert!(lifetime.initial_age <= field::LONGEST);
            prop_assert!(lifetime.stale_if_error <= field::LONGEST);
        }
    }
}
