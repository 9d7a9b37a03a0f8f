//! Who is asked how often, by each of the methods.

use super::*;
use crate::client::{Client, Trust};
use http::HeaderMap;
use proptest::prelude::*;
use std::cell::RefCell;

fn peers(weights: &[u32]) -> Vec<(SocketAddr, u32)> {
    let address = |at: u16| {
        let [high, low] = at.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 80))
    };
    let numbered = (0..).zip(weights);
    numbered
        .map(|(at, weight)| (address(at), *weight))
        .collect()
}

fn every() -> [Balance; 4] {
    [
        Balance::RoundRobin,
        Balance::LeastConnections,
        Balance::RandomTwo,
        Balance::Hash(HashBy::Client),
    ]
}

const IDLE: Option<Seen> = Some(Seen {
    open: 0,
    share: 100,
});

/// How often each is chosen of `times`.
fn chosen(
    balancer: &Balancer,
    peers: usize,
    times: u32,
    seen: impl Fn(usize) -> Option<Seen>,
) -> Vec<u32> {
    let mut counts = vec![0; peers];
    for time in 0..times {
        counts[balancer.choose(Some(&time.to_be_bytes()), &seen).unwrap()] += 1;
    }
    counts
}

fn assert_near(counts: &[u32], expected: &[u32], percent: u32) {
    for (count, expected) in counts.iter().zip(expected) {
        assert!(
            count.abs_diff(*expected) * 100 <= expected * percent,
            "{counts:?}"
        );
    }
}

#[test]
fn turns_are_exact_and_mixed() {
    let balancer = Balancer::new(&Balance::RoundRobin, &peers(&[5, 1, 1]));
    let turns: Vec<_> = (0..14)
        .map(|_| balancer.choose(None, |_| IDLE).unwrap())
        .collect();
    assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    for weight in [0, 1, 1_000, u32::MAX] {
        let balancer = Balancer::new(&Balance::RoundRobin, &peers(&[weight; 3]));
        assert_eq!(chosen(&balancer, 3, 300, |_| IDLE), [100; 3]);
    }
}

#[test]
fn idle_peers_are_chosen_by_weight() {
    for balance in every() {
        let balancer = Balancer::new(&balance, &peers(&[5, 1, 1]));
        let counts = chosen(&balancer, 3, 35_000, |_| IDLE);
        assert_near(&counts, &[25_000, 5_000, 5_000], 6);
    }
}

#[test]
fn busy_peers_hold_open_requests_by_weight() {
    for balance in [Balance::LeastConnections, Balance::RandomTwo] {
        let balancer = Balancer::new(&balance, &peers(&[5, 1, 1]));
        let open = RefCell::new(vec![0_u32; 3]);
        let see = |at: usize| {
            Some(Seen {
                open: open.borrow()[at] as usize,
                share: 100,
            })
        };
        for _ in 0..700 {
            let at = balancer.choose(None, see).unwrap();
            open.borrow_mut()[at] += 1;
        }
        // Of two that are drawn one may be better and still not the best.
        assert_near(&open.borrow(), &[500, 100, 100], 25);
    }
}

#[test]
fn the_one_with_the_least_to_do_is_asked() {
    let balancer = Balancer::new(&Balance::LeastConnections, &peers(&[1, 4, 1]));
    let with = |open: [usize; 3], share: u8| {
        balancer.choose(None, |at| {
            Some(Seen {
                open: open[at],
                share: if at == 1 { share } else { 100 },
            })
        })
    };
    assert_eq!(with([2, 7, 2], 100), Some(1));
    assert_eq!(with([2, 9, 3], 100), Some(0));
    assert_eq!(with([2, 3, 3], 10), Some(0), "its weight counts a tenth");
    assert_eq!(with([usize::MAX; 3], 100), Some(1));
}

#[test]
fn a_dead_peers_turns_go_to_all_others() {
    for balance in every() {
        for weights in [[1; 5], [1, 1, 1, 1, 1].map(|w| w * 7)] {
            let balancer = Balancer::new(&balance, &peers(&weights));
            let counts = chosen(&balancer, 5, 40_000, |at| IDLE.filter(|_| at != 2));
            assert_eq!(counts[2], 0);
            assert_near(
                &[counts[0], counts[1], counts[3], counts[4]],
                &[10_000; 4],
                10,
            );
        }
    }
    let uneven = Balancer::new(&Balance::RoundRobin, &peers(&[2, 1, 9, 1, 1]));
    let counts = chosen(&uneven, 5, 500, |at| IDLE.filter(|_| at != 2));
    assert_eq!(counts, [200, 100, 0, 100, 100]);
}

#[test]
fn a_peer_that_begins_slowly_gets_its_share() {
    for balance in every() {
        for weights in [[1, 1, 1, 1], [3, 3, 3, 1]] {
            let balancer = Balancer::new(&balance, &peers(&weights));
            let see = |at: usize| {
                Some(Seen {
                    open: 0,
                    share: if at == 0 { 50 } else { 100 },
                })
            };
            let counts = chosen(&balancer, 4, 40_000, see);
            assert_near(&[counts[0] * 2], &[counts[1]], 10);
        }
        let balancer = Balancer::new(&balance, &peers(&[1; 4]));
        let counts = chosen(&balancer, 4, 40_000, |_| Some(Seen { open: 0, share: 10 }));
        assert_near(&counts, &[10_000; 4], 10);
    }
}

#[test]
fn a_peer_that_goes_takes_only_its_own_keys_along() {
    let mut ten = peers(&[3; 10]);
    ten[4].1 = 5;
    let before = Balancer::new(&Balance::Hash(HashBy::Client), &ten);
    for gone in 0..10 {
        let mut nine = ten.clone();
        let name = nine.remove(gone).0;
        nine.reverse();
        let after = Balancer::new(&Balance::Hash(HashBy::Client), &nine);
        let mut moved = 0;
        for key in 0..10_000_u32 {
            let key = key.to_string();
            let was = ten[before.choose(Some(key.as_bytes()), |_| IDLE).unwrap()].0;
            let is = nine[after.choose(Some(key.as_bytes()), |_| IDLE).unwrap()].0;
            let skipped = before.choose(Some(key.as_bytes()), |at| IDLE.filter(|_| at != gone));
            assert_eq!(is, ten[skipped.unwrap()].0, "unwell is as good as gone");
            assert!(
                was == is || was == name,
                "{key} moved between two that stay"
            );
            moved += u32::from(was != is);
        }
        assert!(moved <= if gone == 4 { 1_800 } else { 1_500 }, "{moved}");
    }
}

#[test]
fn a_key_stays_where_it_is_from_version_to_version() {
    let weighted = peers(&[1, 2, 3, 4, 5]);
    let balancer = Balancer::new(&Balance::Hash(HashBy::Client), &weighted);
    let places = [
        "",
        "a",
        "b",
        "alice",
        "bob",
        "203.0.113.9",
        "a key of many words",
    ]
    .map(|key| balancer.choose(Some(key.as_bytes()), |_| IDLE).unwrap());
    assert_eq!(places, GOLDEN);
}

/// What the first version said. To change it moves every user's keys.
const GOLDEN: [usize; 7] = [2, 4, 1, 2, 2, 0, 1];

#[test]
fn no_peer_is_nobody() {
    for balance in every() {
        let balancer = Balancer::new(&balance, &[]);
        assert_eq!(balancer.choose(Some(b"key"), |_| IDLE), None);
        assert_eq!(balancer.choose(None, |_| IDLE), None);
    }
}

#[test]
fn a_request_is_hashed_by_what_it_says() {
    let client = |text: &str| -> Client {
        Trust::default().identify(text.parse().unwrap(), &HeaderMap::new())
    };
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("x-user", "alice"),
        ("x-many", "a"),
        ("x-many", "b"),
        ("x-none", ""),
        (
            "cookie",
            "session2=no; Session=no;session=\"a=b\" ; session=later",
        ),
        ("cookie", "other=1"),
        ("cookie", "empty=; bare"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    let read = |by: &HashBy| key(by, &client("192.0.2.1"), &headers);
    let header = |name: &'static str| read(&HashBy::Header(HeaderName::from_static(name)));
    let cookie = |name: &str| read(&HashBy::Cookie(name.to_owned()));
    assert_eq!(header("x-user").unwrap(), b"alice");
    assert_eq!(header("x-many").unwrap(), b"a, b");
    assert_eq!((header("x-none"), header("x-other")), (None, None));
    assert_eq!(cookie("session").unwrap(), b"\"a=b\"");
    assert_eq!(cookie("other").unwrap(), b"1");
    assert_eq!(
        (cookie("empty"), cookie("bare"), cookie("none")),
        (None, None, None)
    );
    let by_client = |text| key(&HashBy::Client, &client(text), &headers);
    assert_eq!(
        by_client("2001:db8::1"),
        by_client("2001:db8::2"),
        "one network"
    );
    assert_ne!(by_client("192.0.2.1"), by_client("192.0.2.2"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn someone_is_asked_if_anyone_may_be_and_nobody_who_may_not(
        peers_seen in prop::collection::vec((0_u32..=1_000, prop::option::of((0_usize..9, 0_u8..=100))), 1..1_000),
        few in any::<bool>(),
        key in any::<Option<[u8; 5]>>(),
    ) {
        let length = if few { peers_seen.len().min(3) } else { peers_seen.len() };
        let peers_seen = &peers_seen[..length];
        let weights: Vec<_> = peers_seen.iter().map(|(weight, _)| *weight).collect();
        let see = |at: usize| peers_seen[at].1.map(|(open, share)| Seen { open, share });
        for balance in every() {
            let balancer = Balancer::new(&balance, &peers(&weights));
            for _ in 0..5 {
                let place = balancer.choose(key.as_ref().map(|key| &key[..]), see);
                prop_assert_eq!(place.is_some(), (0..length).any(|at| see(at).is_some()));
                prop_assert!(place.is_none_or(|at| see(at).is_some()));
            }
            let last = |at: usize| IDLE.filter(|_| at == length - 1);
            prop_assert_eq!(balancer.choose(Some(b"key"), last), Some(length - 1));
        }
    }

    #[test]
    fn a_cycle_of_turns_is_exact(weights in prop::collection::vec(1_u32..20, 1..20)) {
        let balancer = Balancer::new(&Balance::RoundRobin, &peers(&weights));
        for _ in 0..2 {
            let counts = chosen(&balancer, weights.len(), weights.iter().sum(), |_| IDLE);
            prop_assert_eq!(&counts, &weights);
        }
    }
}
