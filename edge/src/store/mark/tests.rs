//! Tests of the marks, by themselves and against a model that remembers everything.

use proptest::prelude::*;

use super::*;

fn name(host: &str, path: &str) -> Name {
    Name {
        route: "r".to_owned(),
        host: host.to_owned(),
        path: path.to_owned(),
    }
}

fn tags(tags: &[&str]) -> Vec<String> {
    tags.iter().map(|&tag| tag.to_owned()).collect()
}

fn tag(tag: &str) -> Target {
    Target::Tag(tag.to_owned())
}

fn url(host: Option<&str>, path: &str) -> Target {
    let (host, path) = (host.map(str::to_owned), path.to_owned());
    Target::Url { host, path }
}

fn prefix(host: Option<&str>, path: &str) -> Target {
    let (host, path) = (host.map(str::to_owned), path.to_owned());
    Target::Prefix { host, path }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn hold(marks: &Arc<Marks>, name: &Name, own: &[&str]) -> Held {
    Marks::hold(marks, marks.generation(), name, &tags(own)).unwrap()
}

#[test]
fn a_purge_hits_exactly_what_it_names() {
    let answers = [
        ("a.test", "/api/users?x=1", "users"),
        ("a.test", "/api/users", "users"),
        ("b.test", "/api/users/", "other"),
        ("a.test", "/api/usersx", "user"),
        ("a.test", "/api", ""),
        ("a.test", "/?api/users", ""),
    ];
    for (target, hit) in [
        (Target::All, vec![0, 1, 2, 3, 4, 5]),
        (tag("users"), vec![0, 1]),
        (tag("Users"), vec![]),
        (tag("/api"), vec![]),
        (url(None, "/api/users"), vec![1]),
        (url(None, "/api/users?x=1"), vec![0]),
        (url(Some("a.test"), "/api/users/"), vec![]),
        (url(Some("b.test"), "/api/users/"), vec![2]),
        (prefix(None, "/api/users"), vec![0, 1, 2]),
        (prefix(None, "/api/users/"), vec![0, 1, 2]),
        (prefix(Some("a.test"), "/api/users"), vec![0, 1]),
        (prefix(None, "/api"), vec![0, 1, 2, 3, 4]),
        (prefix(None, "/ap"), vec![]),
        (prefix(Some("a.test"), "/"), vec![0, 1, 3, 4, 5]),
        (prefix(None, ""), vec![0, 1, 2, 3, 4, 5]),
    ] {
        let marks = Arc::new(Marks::default());
        let held = answers.map(|(host, path, tag)| hold(&marks, &name(host, path), &[tag]));
        assert_eq!(
            marks.purge(&target, Purge::Hard, at(1)),
            hit.len() as u64,
            "{target:?}"
        );
        for (number, held) in held.iter().enumerate() {
            let gone = marks.standing(held) == Standing::Gone;
            assert_eq!(gone, hit.contains(&number), "{target:?} {number}");
        }
    }
}

#[test]
fn below_the_deepest_paths_are_purged_together() {
    let marks = Arc::new(Marks::default());
    let held = hold(&marks, &name("a.test", "/1/2/3/4/5/6/7/8/9"), &[]);
    let sibling = prefix(None, "/1/2/3/4/5/6/7/x");
    assert_eq!(
        marks.purge(&prefix(None, "/1/2/3/4/5/6/x"), Purge::Hard, at(1)),
        0
    );
    assert_eq!(marks.standing(&held), Standing::Good);
    assert_eq!(marks.purge(&sibling, Purge::Hard, at(1)), 1);
    assert_eq!(marks.standing(&held), Standing::Gone);
}

#[test]
fn a_soft_purge_makes_stale_since_then_and_a_hard_one_wins() {
    let marks = Arc::new(Marks::default());
    let held = hold(&marks, &name("a.test", "/a"), &["t"]);
    assert_eq!(marks.purge(&tag("t"), Purge::Soft, at(7)), 1);
    assert_eq!(marks.standing(&held), Standing::Stale(at(7)));
    let later = hold(&marks, &name("a.test", "/a"), &["t"]);
    assert_eq!(marks.standing(&later), Standing::Good);
    assert_eq!(marks.purge(&tag("t"), Purge::Hard, at(9)), 2);
    assert_eq!(marks.standing(&held), Standing::Gone);
}

#[test]
fn purging_twice_counts_once() {
    let marks = Arc::new(Marks::default());
    let held = hold(&marks, &name("a.test", "/a"), &["t"]);
    assert_eq!(marks.purge(&tag("t"), Purge::Hard, at(1)), 1);
    assert_eq!(marks.purge(&tag("t"), Purge::Hard, at(2)), 0);
    drop(held);
    assert_eq!(marks.purge(&Target::All, Purge::Hard, at(3)), 0);
}

#[test]
fn what_was_asked_for_before_a_purge_is_not_kept() {
    let marks = Arc::new(Marks::default());
    let (born, own) = (marks.generation(), tags(&["t"]));
    let keep = |name: &Name| Marks::hold(&marks, born, name, &own);
    for purge in [Purge::Hard, Purge::Soft] {
        marks.purge(&url(None, "/a"), purge, at(1));
    }
    assert!(keep(&name("a.test", "/a")).is_none());
    assert!(keep(&name("a.test", "/b")).is_some());
    marks.purge(&tag("t"), Purge::Hard, at(1));
    assert!(keep(&name("a.test", "/b")).is_none());
}

/// More purges than are remembered: nobody knows what they hit.
#[test]
fn what_was_asked_for_before_a_forgotten_purge_is_not_kept() {
    let marks = Arc::new(Marks::default());
    for number in 0..=MOST_RECENT {
        let keep = |born| Marks::hold(&marks, born, &name("a.test", "/a"), &[]);
        assert!(keep(0).is_some(), "{number}");
        marks.purge(&tag("other"), Purge::Hard, at(1));
    }
    let keep = |born| Marks::hold(&marks, born, &name("a.test", "/a"), &[]);
    assert!(keep(0).is_none());
    assert!(keep(1).is_some());
    assert_eq!(marks.known.lock().recent.len(), MOST_RECENT);
}

/// An upstream's 304 came after the purge, and brought back what was purged.
#[test]
fn what_is_gone_does_not_come_back_by_being_confirmed() {
    let marks = Arc::new(Marks::default());
    let held = hold(&marks, &name("a.test", "/a"), &["t"]);
    marks.purge(&tag("t"), Purge::Soft, at(1));
    let confirmed = held.renewed(marks.generation()).unwrap();
    assert_eq!(marks.standing(&confirmed), Standing::Good);
    marks.purge(&tag("t"), Purge::Hard, at(2));
    assert!(confirmed.renewed(marks.generation()).is_none());
    assert!(held.renewed(0).is_none());
}

#[test]
fn a_mark_vanishes_with_the_last_answer_on_it() {
    let marks = Arc::new(Marks::default());
    let one = hold(&marks, &name("a.test", "/a"), &["t", "t", "u"]);
    let other = hold(&marks, &name("a.test", "/a"), &["t"]);
    marks.purge(&tag("t"), Purge::Hard, at(1));
    let young = hold(&marks, &name("a.test", "/a"), &["t"]);
    drop((one, other));
    assert_eq!(marks.purge(&tag("t"), Purge::Soft, at(2)), 1);
    drop(young);
    assert!(marks.known.lock().marks.is_empty());
}

const HOSTS: [&str; 2] = ["a.test", "b.test"];
const PATHS: [&str; 6] = ["/", "/a", "/a?q", "/a/b", "/a/b/", "/ab"];
const TAGS: [&str; 3] = ["t", "u", "/a"];

#[derive(Debug, Clone)]
enum Step {
    /// Asked for so many purges ago.
    Keep(Arc<Name>, Vec<String>, usize),
    Purge(Target, Purge),
    /// The answer at this place, of those held.
    Drop(prop::sample::Index),
    Renew(prop::sample::Index, usize),
}

/// One held answer, and what the model knows of it.
struct Seen {
    held: Held,
    name: Arc<Name>,
    tags: Vec<String>,
    born: usize,
}

fn names(target: &Target, name: &Name, tags: &[String]) -> bool {
    let on = |host: &Option<String>| host.as_ref().is_none_or(|host| *host == name.host);
    let bare = name.path.split('?').next().unwrap().trim_end_matches('/');
    match target {
        Target::All => true,
        Target::Tag(tag) => tags.contains(tag),
        Target::Url { host, path } => on(host) && *path == name.path,
        Target::Prefix { host, path } => {
            let path = path.trim_end_matches('/');
            let rest = bare.strip_prefix(path);
            on(host) && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
    }
}

fn any_name() -> impl Strategy<Value = Arc<Name>> {
    let (hosts, paths) = (
        prop::sample::select(&HOSTS[..]),
        prop::sample::select(&PATHS[..]),
    );
    (hosts, paths).prop_map(|(host, path)| Arc::new(name(host, path)))
}

fn any_target() -> impl Strategy<Value = Target> {
    let host = prop::option::of(prop::sample::select(&HOSTS[..]));
    let path = prop::sample::select(&PATHS[..]);
    prop_oneof![
        1 => Just(Target::All),
        4 => prop::sample::select(&TAGS[..]).prop_map(tag),
        4 => (host.clone(), path.clone()).prop_map(|(host, path)| url(host, path)),
        4 => (host, path)
            .prop_filter("a query", |(_, path)| !path.contains('?'))
            .prop_map(|(host, path)| prefix(host, path)),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let own = prop::sample::subsequence(&TAGS[..], 0..=TAGS.len());
    let place = || any::<prop::sample::Index>();
    let purge = prop_oneof![Just(Purge::Hard), Just(Purge::Soft)];
    prop_oneof![
        4 => (any_name(), own, 0..3_usize).prop_map(|(name, own, ago)| Step::Keep(name, tags(&own), ago)),
        3 => (any_target(), purge).prop_map(|(target, purge)| Step::Purge(target, purge)),
        2 => place().prop_map(Step::Drop),
        1 => (place(), 0..3_usize).prop_map(|(place, ago)| Step::Renew(place, ago)),
    ]
}

proptest! {
    #[test]
    fn marks_are_as_a_model_that_remembers_everything(
        steps in prop::collection::vec(any_step(), 0..60)
    ) {
        let marks = Arc::new(Marks::default());
        let mut seen: Vec<Seen> = Vec::new();
        let mut purges: Vec<(Target, Purge)> = Vec::new();
        for step in steps {
            let hit = |born: usize, name: &Name, tags: &[String]| {
                purges[born..].iter().any(|(target, _)| names(target, name, tags))
            };
            match step {
                Step::Keep(name, tags, ago) => {
                    let born = purges.len().saturating_sub(ago);
                    let held = Marks::hold(&marks, born as u64, &name, &tags);
                    prop_assert_eq!(held.is_none(), hit(born, &name, &tags));
                    seen.extend(held.map(|held| Seen { held, name, tags, born }));
                }
                Step::Purge(target, purge) => {
                    // Where the same target was purged before, what it hit is counted out.
                    let counted = seen.iter().filter(|seen| {
                        let mut after = purges[seen.born..].iter();
                        let same = |other| marks.id(other) == marks.id(&target);
                        names(&target, &seen.name, &seen.tags)
                            && !after.any(|(other, purge)| *purge == Purge::Hard && same(other))
                    });
                    let counted = counted.count() as u64;
                    let now = at(purges.len() as u64);
                    prop_assert_eq!(marks.purge(&target, purge, now), counted);
                    purges.push((target, purge));
                }
                Step::Drop(place) if !seen.is_empty() => {
                    seen.swap_remove(place.index(seen.len()));
                }
                Step::Renew(place, ago) if !seen.is_empty() => {
                    let born = purges.len().saturating_sub(ago);
                    let Seen { held, name, tags, .. } = &seen[place.index(seen.len())];
                    let gone = marks.standing(held) == Standing::Gone;
                    let renewed = held.renewed(born as u64);
                    prop_assert_eq!(renewed.is_none(), gone || hit(born, name, tags));
                    let (name, tags) = (name.clone(), tags.clone());
                    seen.extend(renewed.map(|held| Seen { held, name, tags, born }));
                }
                Step::Drop(_) | Step::Renew(..) => {}
            }
            for Seen { held, name, tags, born } in &seen {
                let after = purges[*born..].iter();
                let hits = after.filter(|(target, _)| names(target, name, tags));
                let kinds: Vec<_> = hits.map(|(_, purge)| *purge).collect();
                let standing = marks.standing(held);
                let right = match standing {
                    Standing::Gone => kinds.contains(&Purge::Hard),
                    Standing::Stale(_) => !kinds.is_empty() && !kinds.contains(&Purge::Hard),
                    Standing::Good => kinds.is_empty(),
                };
                prop_assert!(right, "{:?} after {:?}", standing, kinds);
            }
        }
        drop(seen);
        prop_assert!(marks.known.lock().marks.is_empty());
    }
}
