//! Tests of the store.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::cache::{self, Policy};

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777)
}

/// Fresh for a minute from now on.
fn lifetime() -> Lifetime {
    let policy = Policy::new(Some(Duration::from_secs(60)));
    let none = HeaderMap::new();
    let asked = cache::admit(&policy, &Method::GET, &none, false, false).unwrap();
    cache::keep(&policy, &asked, StatusCode::OK, &none, now(), now()).unwrap()
}

fn language(language: &'static str) -> HeaderMap {
    let value = HeaderValue::from_static(language);
    HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, value)])
}

fn kept(path: &str, body: &str) -> Kept {
    Kept {
        head: ResponseHeader::build(200, None).unwrap(),
        body: Bytes::copy_from_slice(body.as_bytes()),
        lifetime: lifetime(),
        selection: Selection::default(),
        name: Arc::new(Name {
            route: "r".to_owned(),
            host: "a.test".to_owned(),
            path: path.to_owned(),
        }),
        tags: Vec::new(),
    }
}

fn varied(by: &[HeaderName], request: &HeaderMap, body: &str) -> Kept {
    Kept {
        selection: Selection::of(by, request),
        ..kept("/a", body)
    }
}

fn tagged(path: &str, tag: &str) -> Kept {
    Kept {
        tags: vec![tag.to_owned()],
        ..kept(path, "body")
    }
}

fn store() -> Store {
    Store::new(1 << 20, 1 << 16)
}

fn keep(store: &Store, key: &[u8], kept: Kept) -> Arc<Entry> {
    store.keep(key, store.generation(), kept).unwrap()
}

fn body(store: &Store, key: &[u8], request: &HeaderMap) -> Option<String> {
    let entry = store.find(key, request).entry?;
    Some(String::from_utf8(entry.body.to_vec()).unwrap())
}

#[test]
fn what_was_kept_is_found_again_under_its_key() {
    let (store, none) = (store(), HeaderMap::new());
    keep(&store, b"k", kept("/a", "hello"));
    assert_eq!(body(&store, b"k", &none).as_deref(), Some("hello"));
    let found = store.find(b"k", &none);
    assert!(found.stale_since.is_none() && found.variant.is_none());
    assert_eq!(body(&store, b"other", &none), None);
    assert_eq!((store.entries(), store.evictions()), (1, 0));
    assert!(store.bytes() > 5 && store.bytes() <= store.memory());
}

#[test]
fn variants_are_told_apart_and_others_are_told_of() {
    let store = store();
    let by = [http::header::ACCEPT_LANGUAGE];
    let [de, fr, it] = ["de", "fr", "it"].map(language);
    keep(&store, b"k", varied(&by, &de, "hallo"));
    keep(&store, b"k", varied(&by, &fr, "salut"));
    assert_eq!(body(&store, b"k", &de).as_deref(), Some("hallo"));
    assert_eq!(body(&store, b"k", &fr).as_deref(), Some("salut"));
    let found = store.find(b"k", &it);
    assert!(found.entry.is_none() && found.variant.is_some());
    assert_eq!(store.entries(), 1);
}

#[test]
fn the_newest_of_equal_variants_replaces_and_evicts_nobody() {
    let store = store();
    let by = [http::header::ACCEPT_LANGUAGE];
    let [de, fr] = ["de", "fr"].map(language);
    keep(&store, b"k", varied(&by, &fr, "salut"));
    for text in ["one", "two", "three"] {
        keep(&store, b"k", varied(&by, &de, text));
    }
    assert_eq!(body(&store, b"k", &de).as_deref(), Some("three"));
    assert_eq!(body(&store, b"k", &fr).as_deref(), Some("salut"));
    assert_eq!(store.evictions(), 0, "a replacement is no eviction");
    let affected = store.purge(&Target::All, Purge::Hard, now());
    assert_eq!(affected, 2, "what was replaced is not counted");
}

#[test]
fn the_newest_of_several_that_fit_is_found() {
    let store = store();
    let de = language("de");
    keep(
        &store,
        b"k",
        varied(&[http::header::ACCEPT_LANGUAGE], &de, "old"),
    );
    keep(&store, b"k", varied(&[], &de, "new"));
    assert_eq!(body(&store, b"k", &de).as_deref(), Some("new"));
}

#[test]
fn no_more_than_32_variants_are_kept() {
    let store = store();
    let languages: Vec<HeaderMap> = (0..40)
        .map(|number| {
            let value = HeaderValue::from_str(&format!("l{number}")).unwrap();
            HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, value)])
        })
        .collect();
    for language in &languages {
        keep(
            &store,
            b"k",
            varied(&[http::header::ACCEPT_LANGUAGE], language, ""),
        );
    }
    let there = |language: &&HeaderMap| store.find(b"k", language).entry.is_some();
    assert_eq!(languages[..8].iter().filter(there).count(), 0);
    assert_eq!(languages[8..].iter().filter(there).count(), MOST_VARIANTS);
}

/// A resource heavier than its shard was thrown out whole, the newest variant with it.
#[test]
fn large_variants_go_one_by_one_and_the_newest_stays() {
    let store = Store::new(1 << 20, 1 << 16);
    let large = "x".repeat(1 << 16);
    for number in 0..40 {
        let value = HeaderValue::from_str(&format!("l{number}")).unwrap();
        let request = HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, value)]);
        keep(
            &store,
            b"k",
            varied(&[http::header::ACCEPT_LANGUAGE], &request, &large),
        );
        assert!(store.find(b"k", &request).entry.is_some(), "{number}");
        assert!(store.bytes() <= store.memory(), "{number}");
    }
}

#[test]
fn what_makes_room_is_counted() {
    let store = Store::new(1 << 17, 1 << 12);
    let body = "x".repeat(1_000);
    for number in 0..500_usize {
        keep(&store, &number.to_be_bytes(), kept("/a", &body));
    }
    assert!(store.evictions() > 0);
    assert_eq!(store.entries() as u64 + store.evictions(), 500);
    let held = store.purge(&Target::All, Purge::Hard, now());
    assert_eq!(
        held,
        store.entries() as u64,
        "what was evicted is not counted"
    );
}

#[test]
fn a_freshened_answer_takes_the_place_of_its_old_self() {
    let (store, none) = (store(), HeaderMap::new());
    let old = keep(&store, b"k", kept("/a", "hello"));
    old.hit();
    let mut head = old.head.clone();
    head.insert_header("x-new", "1").unwrap();
    let new = old
        .freshened(store.generation(), head, lifetime(), old.selection.clone())
        .unwrap();
    store.freshen(b"k", &old, new);
    let found = store.find(b"k", &none).entry.unwrap();
    assert!(found.head.headers.contains_key("x-new"));
    assert_eq!(
        (found.body.as_ref(), found.hits.load(Ordering::Relaxed)),
        (&b"hello"[..], 1)
    );
}

#[test]
fn what_was_evicted_or_replaced_is_not_freshened() {
    let (store, none) = (store(), HeaderMap::new());
    let old = keep(&store, b"k", kept("/a", "old"));
    let renewed = || {
        old.freshened(
            store.generation(),
            old.head.clone(),
            lifetime(),
            old.selection.clone(),
        )
    };
    store.resources.remove(&Sought(b"k"));
    store.freshen(b"k", &old, renewed().unwrap());
    assert_eq!((body(&store, b"k", &none), store.entries()), (None, 0));
    keep(&store, b"k", kept("/a", "new"));
    store.freshen(b"k", &old, renewed().unwrap());
    assert_eq!(body(&store, b"k", &none).as_deref(), Some("new"));
}

#[test]
fn one_variant_is_forgotten_and_the_others_stay() {
    let store = store();
    let by = [http::header::ACCEPT_LANGUAGE];
    let [de, fr] = ["de", "fr"].map(language);
    let german = keep(&store, b"k", varied(&by, &de, "hallo"));
    let french = keep(&store, b"k", varied(&by, &fr, "salut"));
    store.forget(b"k", &german);
    assert_eq!(body(&store, b"k", &de), None);
    assert_eq!(body(&store, b"k", &fr).as_deref(), Some("salut"));
    store.forget(b"k", &german);
    store.forget(b"k", &french);
    assert_eq!((store.entries(), store.evictions()), (0, 0));
    drop((german, french));
    assert_eq!(store.purge(&Target::All, Purge::Hard, now()), 0);
}

#[test]
fn a_hard_purge_takes_out_of_service_and_a_soft_one_makes_stale() {
    let (store, none) = (store(), HeaderMap::new());
    keep(&store, b"a", tagged("/a", "t"));
    keep(&store, b"b", tagged("/b", "u"));
    let target = |tag: &str| Target::Tag(tag.to_owned());
    assert_eq!(store.purge(&target("t"), Purge::Hard, now()), 1);
    assert_eq!(store.purge(&target("u"), Purge::Soft, now()), 1);
    assert_eq!(body(&store, b"a", &none), None);
    let soft = store.find(b"b", &none);
    assert_eq!(
        (soft.entry.is_some(), soft.stale_since),
        (true, Some(now()))
    );
    assert_eq!(store.purge(&target("t"), Purge::Hard, now()), 0);
}

#[test]
fn what_was_asked_for_before_its_purge_is_not_kept() {
    let (store, none) = (store(), HeaderMap::new());
    let born = store.generation();
    store.purge(&Target::Tag("t".to_owned()), Purge::Hard, now());
    assert!(store.keep(b"a", born, tagged("/a", "t")).is_none());
    assert!(store.keep(b"b", born, tagged("/b", "u")).is_some());
    assert_eq!(body(&store, b"a", &none), None);
    keep(&store, b"a", tagged("/a", "t"));
    assert_eq!(body(&store, b"a", &none).as_deref(), Some("body"));
}

#[test]
fn an_older_variant_answers_when_the_newer_one_is_purged() {
    let store = store();
    let de = language("de");
    let by = [http::header::ACCEPT_LANGUAGE];
    keep(&store, b"k", varied(&by, &de, "old"));
    let young = Kept {
        tags: vec!["t".to_owned()],
        ..varied(&[], &de, "new")
    };
    keep(&store, b"k", young);
    store.purge(&Target::Tag("t".to_owned()), Purge::Hard, now());
    assert_eq!(body(&store, b"k", &de).as_deref(), Some("old"));
}

#[test]
fn room_is_given_back_and_never_more_than_there_is() {
    let store: &'static Store = Box::leak(Box::new(Store::new(1 << 21, 1 << 18)));
    assert!(store.room((1 << 18) + 1).is_none());
    let mut room = store.room(1 << 17).unwrap();
    assert!(
        store.room(u64::MAX).is_none(),
        "larger than any, and no overflow"
    );
    assert!(room.grow_to(1 << 18) && room.grow_to(5));
    assert_eq!(store.arriving(), 1 << 18);
    let other = store.room(1 << 18).unwrap();
    assert!(store.room(1).is_none());
    drop((room, other));
    assert_eq!(store.arriving(), 0);
    assert!(store.room(1 << 18).is_some());
}

#[test]
fn the_most_asked_for_are_told_first_without_what_is_purged() {
    let store = store();
    for (number, path) in ["/a", "/b", "/c", "/d"].into_iter().enumerate() {
        let entry = keep(&store, path.as_bytes(), tagged(path, path));
        (0..number).for_each(|_| entry.hit());
    }
    store.purge(&Target::Tag("/d".to_owned()), Purge::Hard, now());
    store.purge(&Target::Tag("/b".to_owned()), Purge::Soft, now());
    let later = now() + Duration::from_secs(10);
    let top: Vec<_> = store.top(2, later).into_iter().collect();
    let told: Vec<_> = top
        .iter()
        .map(|top| (top.path.as_str(), top.hits))
        .collect();
    assert_eq!(told, [("/c", 2), ("/b", 1)]);
    assert_eq!((top[0].ttl, top[0].age), (50, 10));
    assert_eq!(top[1].ttl, -10, "stale since its purge");
    assert_eq!(store.top(100, later).len(), 3);
}

proptest! {
    #[test]
    fn the_store_never_outgrows_its_bound(
        answers in prop::collection::vec((0..40_u8, 0..3_u8, 0..9_000_usize), 1..200)
    ) {
        let store = Store::new(1 << 16, 1 << 13);
        let by = [http::header::ACCEPT_LANGUAGE];
        for (key, language, size) in answers {
            let value = HeaderValue::from(u16::from(language));
            let request = HeaderMap::from_iter([(http::header::ACCEPT_LANGUAGE, value)]);
            let answer = varied(&by, &request, &"x".repeat(size.min(1 << 13)));
            keep(&store, &[key], answer);
            prop_assert!(store.bytes() <= store.memory());
        }
        let held = store.resources.iter().map(|(_, resource)| resource.0.len());
        let held = held.sum::<usize>() as u64;
        prop_assert_eq!(store.purge(&Target::All, Purge::Hard, now()), held);
    }
}
