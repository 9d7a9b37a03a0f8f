//! Whatever a peer and a client write: nothing panics, a "no" anywhere is a no, and what is told
//! of time, parts and paths stays within bounds.

#![no_main]

use std::time::{Duration, SystemTime};

use edge::cache::{self, Asked, Fwd, Part, Policy, PrivateBy, Reuse, Selection, Told};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;

const FIELDS: [HeaderName; 24] = [
    header::ACCEPT,
    header::ACCEPT_LANGUAGE,
    header::AGE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::CONTENT_LOCATION,
    header::COOKIE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::LAST_MODIFIED,
    header::LOCATION,
    header::PRAGMA,
    header::RANGE,
    header::VARY,
    HeaderName::from_static("cache-tag"),
    HeaderName::from_static("cdn-cache-control"),
    HeaderName::from_static("foo"),
    HeaderName::from_static("surrogate-key"),
];

/// Each line is a field: its first byte chooses the name, the rest is the value.
fn fields(lines: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in lines.split(|&b| b == b'\n') {
        if let Some((choice, value)) = line.split_first()
            && let Some(name) = FIELDS.get(usize::from(*choice) % FIELDS.len())
            && let Ok(value) = HeaderValue::from_bytes(value)
        {
            fields.append(name, value);
        }
    }
    fields
}

// The first byte chooses the policy, the next two the status; a zero byte stands between the
// request's fields and the answer's.
fuzz_target!(|bytes: &[u8]| {
    let [choice, high, low, rest @ ..] = bytes else {
        return;
    };
    let mut parts = rest.splitn(2, |&b| b == 0);
    let [request, answer] = [(); 2].map(|()| fields(parts.next().unwrap_or_default()));
    let status = StatusCode::from_u16(u16::from_be_bytes([*high, *low])).unwrap_or_default();
    let policy = policy(*choice);
    if let Ok(asked) = cache::admit(&policy, &Method::GET, &request, false, false) {
        keep_and_reuse(&policy, &asked, status, &answer);
    }
    select(&policy, &request, &answer);
    condition(&request, &answer);
    forget(&answer);
});

fn policy(choice: u8) -> Policy {
    let on = |bit: u8| choice & (1 << bit) != 0;
    let time = |bit| on(bit).then_some(Duration::from_secs(3_600));
    let mut policy = Policy::new(time(0));
    policy.overrides = on(1);
    policy.ttl_min = time(2);
    policy.heuristic = on(3).then_some(100);
    policy.stale_while_revalidate = time(4);
    policy.stale_if_error = time(5);
    if on(6) {
        policy.private_by = PrivateBy::Identity;
        policy.ignore_query = vec!["utm_*".to_owned()];
    }
    policy
}

fn keep_and_reuse(policy: &Policy, asked: &Asked, status: StatusCode, answer: &HeaderMap) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
    let longest = Duration::from_secs(1 << 31);
    let keep = |answer: &HeaderMap| cache::keep(policy, asked, status, answer, now, now);
    for (name, value) in [
        (header::CACHE_CONTROL, "private"),
        (header::CACHE_CONTROL, "x, No-Store"),
        (header::SET_COOKIE, "a=b"),
        (header::VARY, "*"),
    ] {
        let mut answer = answer.clone();
        // A field that speaks to edge alone, or one who understands, may hear nothing of it.
        let heard = name != header::CACHE_CONTROL
            || (!answer.contains_key("cdn-cache-control")
                && !cache::directives(&answer, &name).any(|one| one.is("must-understand")));
        answer.append(name, HeaderValue::from_static(value));
        assert!(!heard || keep(&answer).is_err(), "{value}");
    }
    let Ok(mut lifetime) = keep(answer) else {
        return;
    };
    assert!(lifetime.fresh_for <= longest && lifetime.initial_age <= longest);
    for later in [0, 1, 60, 1 << 40] {
        let then = now + Duration::from_secs(later);
        let reuse = cache::reuse(asked, &lifetime, then);
        assert!(reuse != Reuse::Fresh || lifetime.is_fresh(then));
        assert!(asked.apart || lifetime.shared || !asked.credentials || reuse == Reuse::No);
        let ttl = Some(lifetime.left(then));
        let fwd = Some(Fwd::Stale);
        assert!(
            Told {
                fwd,
                ttl,
                ..Told::default()
            }
            .to_string()
            .is_ascii()
        );
    }
    lifetime.expire(now);
    assert!(!lifetime.is_fresh(now));
}

fn select(policy: &Policy, request: &HeaderMap, answer: &HeaderMap) {
    if let Ok(names) = cache::names(policy, answer) {
        assert!(names.len() <= cache::MOST_VARY);
        assert!(Selection::of(&names, request).matches(request));
    }
    // Two sets of fields select each other, or neither does.
    let there = Selection::of(&FIELDS, request).matches(answer);
    assert_eq!(there, Selection::of(&FIELDS, answer).matches(request));
    let asking = |headers| cache::Asking {
        route: 0,
        scheme: "http",
        host: "a",
        told: None,
        path: "/",
        query: Some("utm_a&b"),
        headers,
        identity: None,
        certificate: None,
    };
    // A key without an identity knows no fields.
    let key = |headers| cache::key(policy, false, &asking(headers));
    assert_eq!(key(request), key(answer));
}

fn condition(request: &HeaderMap, answer: &HeaderMap) {
    if let Part::Bytes(bytes) = cache::part(request, answer, 10) {
        assert!(bytes.start() <= bytes.end() && *bytes.end() < 10);
    }
    let conditions: HeaderMap = cache::conditions(answer).into_iter().collect();
    assert_eq!(conditions.is_empty(), !cache::has_validator(answer));
    // Who asks with the date that is kept has what is kept; who asks without, has nothing.
    let by_tag = conditions.contains_key(header::IF_NONE_MATCH);
    assert!(by_tag || cache::not_modified(&conditions, answer) != conditions.is_empty());
    assert!(!cache::not_modified(&HeaderMap::new(), answer));
    let _ = cache::not_modified(request, answer);
    assert!(cache::is_answered_by(answer, &HeaderMap::new()));
    assert!(cache::same(answer, &HeaderMap::new()));
    let updates = cache::updates(answer);
    assert!(!updates.contains(&header::SET_COOKIE) && !updates.contains(&header::CONTENT_LENGTH));
}

fn forget(answer: &HeaderMap) {
    for target in cache::targets("http", "a", "/b/c?d", answer) {
        assert!(target.starts_with('/'), "{target}");
    }
    let tags = cache::tags(answer);
    assert!(tags.len() <= cache::MOST_TAGS);
    assert!(
        tags.iter()
            .all(|tag| (1..=cache::LONGEST_TAG).contains(&tag.len()))
    );
}
