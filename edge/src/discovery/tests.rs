//! The bookkeeping, with a look-up that finds what the test says, and a clock that the test moves.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::AbortHandle;
use tokio::time::{advance, sleep};

use super::*;
use crate::config::Peer;

const SECOND: Duration = Duration::from_secs(1);

/// Finds what it is told to find, and notes when it was asked for what.
#[derive(Default)]
struct Fake {
    known: Mutex<HashMap<String, Found>>,
    slow: Mutex<HashMap<String, Duration>>,
    asked: Mutex<Vec<(Duration, String)>>,
    began: Mutex<Option<Instant>>,
}

impl Fake {
    fn set(&self, name: &str, ttl: u64, addresses: &[&str]) {
        let peer = |address: &&str| (address.parse().unwrap(), 7);
        let found = Found {
            peers: addresses.iter().map(peer).collect(),
            ttl: Duration::from_secs(ttl),
            left_out: 0,
        };
        self.known.lock().insert(name.to_owned(), found);
    }

    fn fail(&self, name: &str) {
        self.known.lock().remove(name);
    }

    /// When it was asked for the name, counted from the first question of all.
    fn asked(&self, name: &str) -> Vec<Duration> {
        let asked = self.asked.lock();
        let of_name = asked.iter().filter(|(_, asked)| asked == name);
        of_name.map(|(moment, _)| *moment).collect()
    }
}

impl LookUp for Fake {
    async fn look_up(&self, name: &str, _: Resolve) -> Result<Found, String> {
        let began = *self.began.lock().get_or_insert_with(Instant::now);
        self.asked.lock().push((began.elapsed(), name.to_owned()));
        let slow = self.slow.lock().get(name).copied();
        if let Some(slow) = slow {
            sleep(slow).await;
        }
        assert_ne!(name, "panics:80");
        let found = self.known.lock().get(name).cloned();
        found.ok_or_else(|| "as told".to_owned())
    }

    fn ttl(&self) -> RangeInclusive<Duration> {
        SECOND..=30 * SECOND
    }

    fn timeout(&self) -> Duration {
        2 * SECOND
    }
}

fn peers(names: &[(&str, u32)]) -> Vec<Peer> {
    let peer = |(name, weight): &(&str, u32)| Peer {
        name: (*name).to_owned(),
        weight: *weight,
    };
    names.iter().map(peer).collect()
}

fn names(list: &[(&str, u32)]) -> Names {
    Names::new("users", &peers(list), Resolve::Dns, None)
}

fn set(list: &[(&str, u32)]) -> Peers {
    let peer = |(address, weight): &(&str, u32)| (address.parse().unwrap(), *weight);
    list.iter().map(peer).collect()
}

/// Follows, and tells of each change.
struct Followed {
    changes: UnboundedReceiver<Peers>,
    failures: UnboundedReceiver<String>,
    task: AbortHandle,
}

impl Followed {
    async fn change(&mut self) -> Peers {
        let change = timeout(1_000 * SECOND, self.changes.recv()).await;
        change.expect("no change").unwrap()
    }

    async fn failure(&mut self) -> String {
        let failure = timeout(1_000 * SECOND, self.failures.recv()).await;
        failure.expect("no failure").unwrap()
    }
}

fn following(fake: &Arc<Fake>, names: &Names) -> Followed {
    let (change, changes) = unbounded_channel();
    let (failure, failures) = unbounded_channel();
    let failed = move |name: &str| failure.send(name.to_owned()).unwrap();
    let changed = move |peers| change.send(peers).unwrap();
    let task = tokio::spawn(follow(fake.clone(), names.clone(), failed, changed));
    Followed {
        changes,
        failures,
        task: task.abort_handle(),
    }
}

/// Waits until all that can happen at this moment has happened.
async fn settle() {
    sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_name_grows_from_one_address_to_five_and_shrinks_to_two() {
    let fake = Arc::new(Fake::default());
    fake.set("a:80", 5, &["10.0.0.1:80"]);
    let names = names(&[("a:80", 3)]);
    let found = first(&fake, &names, |_| {}).await;
    assert_eq!(found, set(&[("10.0.0.1:80", 3)]));
    let mut followed = following(&fake, &names);
    let five: Vec<_> = (1..=5).map(|n| format!("10.0.0.{n}:80")).collect();
    let five: Vec<_> = five.iter().map(String::as_str).collect();
    for addresses in [&five[..], &five[1..3]] {
        fake.set("a:80", 5, addresses);
        let expected: Vec<_> = addresses.iter().map(|address| (*address, 3)).collect();
        assert_eq!(followed.change().await, set(&expected));
    }
    // The same again is no news.
    sleep(60 * SECOND).await;
    assert!(followed.changes.try_recv().is_err());
    assert!(followed.failures.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn each_name_is_looked_up_again_after_its_own_time_and_at_most_a_tenth_later() {
    let fake = Arc::new(Fake::default());
    fake.set("a:80", 2, &["10.0.0.1:80"]);
    fake.set("b:80", 20, &["10.0.0.2:80"]);
    let names = names(&[("a:80", 1), ("b:80", 1)]);
    first(&fake, &names, |_| {}).await;
    let _followed = following(&fake, &names);
    sleep(100 * SECOND).await;
    for (name, ttl) in [("a:80", 2.0), ("b:80", 20.0)] {
        let asked = fake.asked(name);
        assert!(asked.len() > 3, "{asked:?}");
        for pair in asked.windows(2) {
            let gap = (pair[1] - pair[0]).as_secs_f64() / ttl;
            assert!((1.0..1.11).contains(&gap), "{name}: {asked:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_fails_keeps_the_last_addresses() {
    let fake = Arc::new(Fake::default());
    fake.set("a:80", 1, &["10.0.0.1:80"]);
    fake.set("b:80", 1, &["10.0.0.2:80"]);
    let names = names(&[("a:80", 1), ("b:80", 1)]);
    first(&fake, &names, |_| {}).await;
    let mut followed = following(&fake, &names);
    fake.fail("a:80");
    assert_eq!(followed.failure().await, "a:80");
    fake.set("b:80", 1, &["10.0.0.3:80"]);
    let expected = set(&[("10.0.0.1:80", 1), ("10.0.0.3:80", 1)]);
    assert_eq!(followed.change().await, expected);
    fake.set("a:80", 1, &["10.0.0.4:80"]);
    let expected = set(&[("10.0.0.3:80", 1), ("10.0.0.4:80", 1)]);
    assert_eq!(followed.change().await, expected);
}

#[tokio::test(start_paused = true)]
async fn after_failures_it_is_tried_less_and_less_often() {
    let fake = Arc::new(Fake::default());
    let names = names(&[("a:80", 1)]);
    assert_eq!(first(&fake, &names, |_| {}).await, []);
    let _followed = following(&fake, &names);
    sleep(200 * SECOND).await;
    let asked = fake.asked("a:80");
    let gaps = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_secs());
    let gaps: Vec<_> = gaps.take(6).collect();
    assert_eq!(gaps[0], 1);
    assert!(gaps.is_sorted() && (30..=33).contains(&gaps[5]), "{gaps:?}");
}

#[test]
fn a_failure_is_told_at_its_beginning_each_minute_and_at_its_end() {
    let names = names(&[("a:80", 1)]);
    let (ttl, began) = (SECOND..=30 * SECOND, Instant::now());
    let note = |second: u32, found: Result<Found, String>| {
        let noted = names.note(0, found, &ttl, 1.0, began + second * SECOND);
        noted.unwrap().event
    };
    let failed = || Err("why".to_owned());
    let found = |left_out| {
        Ok(Found {
            peers: set(&[("10.0.0.1:80", 1)]),
            ttl: SECOND,
            left_out,
        })
    };
    let told = Some(Event::Failed("why".to_owned()));
    assert_eq!(note(0, found(0)), None);
    assert_eq!(note(1, failed()), told);
    assert_eq!(note(31, failed()), None);
    assert_eq!(note(61, failed()), told);
    assert_eq!(note(62, failed()), None);
    assert_eq!(note(63, found(0)), Some(Event::Recovered));
    assert_eq!(note(64, failed()), told);
    assert_eq!(note(65, found(3)), Some(Event::Recovered));
    assert_eq!(note(66, found(0)), None);
    assert_eq!(note(67, found(3)), Some(Event::LeftOut(3)));
    assert_eq!(note(68, found(4)), None);
}

#[tokio::test(start_paused = true)]
async fn fixed_addresses_always_belong_and_the_larger_weight_counts() {
    let fake = Arc::new(Fake::default());
    let names = names(&[("10.0.0.1:80", 2), ("a:80", 3), ("[::1]:80", 1)]);
    let fixed = set(&[("10.0.0.1:80", 2), ("[::1]:80", 1)]);
    assert_eq!(names.peers(), fixed);
    assert_eq!(first(&fake, &names, |_| {}).await, fixed);
    let mut followed = following(&fake, &names);
    fake.set("a:80", 1, &["10.0.0.1:80", "10.0.0.2:80"]);
    let expected = set(&[("10.0.0.1:80", 3), ("10.0.0.2:80", 3), ("[::1]:80", 1)]);
    assert_eq!(followed.change().await, expected);
    fake.set("a:80", 1, &["10.0.0.3:80"]);
    let expected = set(&[("10.0.0.1:80", 2), ("10.0.0.3:80", 3), ("[::1]:80", 1)]);
    assert_eq!(followed.change().await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_services_targets_keep_the_weights_of_their_records() {
    let fake = Arc::new(Fake::default());
    fake.set("_http._tcp.web", 1, &["10.0.0.1:80"]);
    let peers = peers(&[("_http._tcp.web", 3)]);
    let names = Names::new("web", &peers, Resolve::Srv, None);
    let found = first(&fake, &names, |_| {}).await;
    assert_eq!(found, set(&[("10.0.0.1:80", 7)]));
}

#[test]
fn no_more_than_a_thousand_peers_are_taken_and_fixed_ones_first() {
    let many: Vec<_> = (0..1_000).map(|n| format!("10.0.0.1:{}", n + 1)).collect();
    let names = names(&[("a:80", 1), ("99.0.0.1:80", 1)]);
    let found = Found {
        peers: set(&many
            .iter()
            .map(|peer| (peer.as_str(), 1))
            .collect::<Vec<_>>()),
        ttl: SECOND,
        left_out: 0,
    };
    names.note(0, Ok(found), &(SECOND..=SECOND), 1.0, Instant::now());
    let peers = names.peers();
    assert_eq!(peers.len(), 1_000);
    assert_eq!(peers.last(), set(&[("99.0.0.1:80", 1)]).first());
}

#[tokio::test(start_paused = true)]
async fn the_first_look_ups_run_at_once_and_a_slow_one_holds_nobody_up_for_long() {
    let fake = Arc::new(Fake::default());
    let list: Vec<_> = (0..200).map(|n| (format!("n{n}:80"), 1)).collect();
    let list: Vec<_> = list
        .iter()
        .map(|(name, weight)| (name.as_str(), *weight))
        .collect();
    for (n, (name, _)) in list.iter().enumerate() {
        fake.set(name, 5, &[&format!("10.0.0.{n}:80")]);
        fake.slow.lock().insert((*name).to_owned(), SECOND / 2);
    }
    fake.slow.lock().insert("n3:80".to_owned(), 100 * SECOND);
    let names = names(&list);
    let began = Instant::now();
    let found = first(&fake, &names, |_| {}).await;
    assert_eq!(found.len(), 199);
    assert!(began.elapsed() < 3 * SECOND);
    // Whoever follows looks up what is missing.
    fake.slow.lock().clear();
    let mut followed = following(&fake, &names);
    settle().await;
    assert_eq!(followed.change().await.len(), 200);
}

#[tokio::test(start_paused = true)]
async fn a_following_that_ended_is_taken_up_where_it_was() {
    let fake = Arc::new(Fake::default());
    fake.set("a:80", 20, &["10.0.0.1:80"]);
    fake.set("b:80", 20, &["10.0.0.2:80"]);
    let before = names(&[("a:80", 1), ("b:80", 1)]);
    first(&fake, &before, |_| {}).await;
    let followed = following(&fake, &before);
    settle().await;
    followed.task.abort();
    // Another configuration: other weights, one name gone, one new.
    let list = peers(&[("a:80", 9), ("c:80", 1)]);
    let after = Names::new("users", &list, Resolve::Dns, Some(&before));
    assert_eq!(after.peers(), set(&[("10.0.0.1:80", 9)]));
    fake.fail("a:80");
    fake.set("c:80", 20, &["10.0.0.3:80"]);
    let found = first(&fake, &after, |_| {}).await;
    assert_eq!(found, set(&[("10.0.0.1:80", 9), ("10.0.0.3:80", 1)]));
    assert_eq!(fake.asked("a:80").len(), 1, "its time has not come");
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_was_dropped_is_begun_again() {
    let fake = Arc::new(Fake::default());
    fake.set("a:80", 5, &["10.0.0.1:80"]);
    fake.slow.lock().insert("a:80".to_owned(), SECOND);
    let names = names(&[("a:80", 1)]);
    let followed = following(&fake, &names);
    advance(SECOND / 10).await;
    settle().await;
    followed.task.abort();
    settle().await;
    let mut followed = following(&fake, &names);
    assert_eq!(followed.change().await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_look_up_that_panics_fails_and_is_tried_again() {
    let fake = Arc::new(Fake::default());
    let names = names(&[("panics:80", 1)]);
    let mut followed = following(&fake, &names);
    for _ in 0..3 {
        assert_eq!(followed.failure().await, "panics:80");
    }
}
