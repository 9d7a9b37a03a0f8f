//! Whatever upstreams say and clients ask, nobody is handed what was meant for another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use tokio::time::sleep;

use crate::support::{Answer, Client, Upstream, caching, edge, fields, ms, ok, request, route_to};

/// Another one each time, told when a test fails.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::from(now.subsec_nanos())
}

const WORDS: [&str; 14] = [
    "",
    "max-age=60",
    "max-age=0",
    "no-cache",
    "no-store",
    "private",
    "private, max-age=60",
    "public, max-age=60",
    "s-maxage=60",
    "max-age=60, must-revalidate",
    "max-age=60, stale-while-revalidate=60",
    "max-age=1, stale-while-revalidate=60, stale-if-error=60",
    "public, no-cache",
    "public, max-age=1, stale-while-revalidate=60",
];
const VARY: [&str; 4] = ["", "Authorization", "Cookie", "Authorization, Cookie"];

/// Answers with the identity it sees, its own number, and fields by chance. With a condition it
/// says 304, or not, by chance too; now and then it fails.
async fn gossip(seed: u64) -> Upstream {
    let count = Arc::new(AtomicUsize::new(0));
    Upstream::serve(move |mut visit| {
        let count = count.clone();
        async move {
            while let Some(head) = visit.head().await {
                let number = count.fetch_add(1, Ordering::SeqCst) as u64;
                let mut random = Rng::with_seed(seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                let identity = identity(&head);
                let words = WORDS[random.usize(..WORDS.len())];
                let mut about = String::new();
                let mut say = |field: String| about.push_str(&(field + "\r\n"));
                if !words.is_empty() {
                    say(format!("Cache-Control: {words}"));
                }
                let vary = VARY[random.usize(..VARY.len())];
                if !vary.is_empty() {
                    say(format!("Vary: {vary}"));
                }
                if random.u8(..4) == 0 {
                    say(format!("Set-Cookie: who={}", own(&head)));
                }
                if random.u8(..3) == 0 {
                    say("Age: 5".to_owned());
                }
                if random.bool() {
                    // The tag tells whose it is, so that only the same can be confirmed.
                    say(format!("ETag: \"{identity}\""));
                }
                sleep(ms(random.u64(..8))).await;
                let asked = fields(&head, "if-none-match");
                let confirms = asked
                    .first()
                    .is_some_and(|tag| *tag == format!("\"{identity}\""));
                let answer = match random.u8(..10) {
                    0 => format!(
                        "HTTP/1.1 503 No\r\nContent-Length: {}\r\n\r\n{identity}",
                        identity.len()
                    ),
                    _ if confirms => format!("HTTP/1.1 304 Not Modified\r\n{about}\r\n"),
                    _ => ok(&about, &identity),
                };
                visit.write(answer).await;
            }
        }
    })
    .await
}

/// Who asks, as the upstream sees it.
fn identity(head: &str) -> String {
    let shown = |name| fields(head, name).join(",");
    let identity = format!("{}/{}", shown("authorization"), shown("cookie"));
    if identity == "/" {
        "nobody".to_owned()
    } else {
        identity
    }
}

/// The number of the request: only this one may be given its cookie.
fn own(head: &str) -> String {
    fields(head, "x-own").join(",")
}

const CLIENTS: [&[&str]; 5] = [
    &[],
    &["Authorization: ann"],
    &["Authorization: bob"],
    &["Cookie: ann"],
    &["Cookie: bob"],
];

/// Is this, in an answer, leave to share it (RFC 9111 3.5)?
fn is_shareable(answer: &Answer) -> bool {
    let words = answer.all("cache-control").join(",");
    ["public", "s-maxage", "must-revalidate"]
        .iter()
        .any(|word| words.contains(word))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_answer_for_one_reaches_another_unless_it_is_for_all() {
    let seed = seed();
    let upstream = gossip(seed).await;
    let edge = caching(&upstream).await;
    let mut random = Rng::with_seed(seed);
    let mut number = 0;
    let mut shared = 0;
    for round in 0..60 {
        let path = format!("/{}", round % 12);
        let mut asking = Vec::new();
        for _ in 0..random.usize(1..8) {
            number += 1;
            let (who, path, to) = (
                CLIENTS[random.usize(..CLIENTS.len())],
                path.clone(),
                edge.address(),
            );
            let wish =
                ["", "Cache-Control: no-cache", "Cache-Control: max-stale"][random.usize(..3)];
            asking.push(tokio::spawn(async move {
                let own = format!("X-Own: {number}.");
                let mut told = vec![own.as_str()];
                told.extend(who);
                told.extend((!wish.is_empty()).then_some(wish));
                let mut client = Client::connect(to).await;
                (
                    number,
                    request("GET /", who),
                    client.ask(&format!("GET {path}"), &told).await,
                )
            }));
        }
        for asking in asking {
            let (number, head, answer) = asking.await.unwrap();
            for cookie in answer.all("set-cookie") {
                assert_eq!(
                    cookie,
                    format!("who={number}."),
                    "seed {seed}: {}",
                    answer.head
                );
            }
            let (text, own) = (answer.text(), identity(&head));
            if text != own && answer.status == 200 {
                shared += 1;
                let anybodys = text == "nobody" && own == "nobody";
                assert!(
                    anybodys || is_shareable(&answer),
                    "seed {seed}: {own} reads what was said to {text}:\n{}",
                    answer.head
                );
            } else if text != own {
                assert!(answer.status >= 500, "seed {seed}");
                assert!(text.contains("problem"), "seed {seed}: {own} reads {text}");
            }
        }
    }
    assert!(
        shared > 0,
        "seed {seed}: nothing was shared, nothing was tried"
    );
}

/// Fields by which answers vary, and values for them: the upstream names those that it has used.
#[tokio::test(flavor = "multi_thread")]
async fn every_body_is_made_of_the_requests_own_fields() {
    const NAMES: [&str; 4] = ["X-A", "Accept-Language", "User-Agent", "Cookie"];
    const VALUES: [&str; 5] = ["", "de", "fr", "fr, de", "x;q=1"];
    let seed = seed();
    // `/n`: the answers vary by the names whose bits are set in n.
    let named = |path: &str| {
        let bits: usize = path[1..].parse().unwrap();
        (0..NAMES.len()).filter(move |bit| bits >> bit & 1 == 1)
    };
    let upstream = Upstream::serve(move |mut visit| async move {
        while let Some(head) = visit.head().await {
            let names: Vec<_> = named(head.split(' ').nth(1).unwrap()).collect();
            let body: Vec<_> = names
                .iter()
                .map(|&name| fields(&head, NAMES[name]).join("+"))
                .collect();
            let vary: Vec<_> = names
                .iter()
                .map(|&name| NAMES[name].to_ascii_lowercase())
                .collect();
            let (body, vary) = (body.join("|"), vary.join(", "));
            // Old at once: validated, too. The tag tells the body apart.
            let old = if body.len() % 2 == 0 {
                "Age: 99\r\n"
            } else {
                ""
            };
            let tag = body.replace(['"', ' '], "_");
            let about = format!(
                "Vary: {vary}\r\nCache-Control: public, max-age=60\r\n{old}ETag: \"{tag}\"\r\n"
            );
            sleep(ms(3)).await;
            let asked = fields(&head, "if-none-match").join(",");
            let answer = match asked == format!("\"{tag}\"") {
                true => format!("HTTP/1.1 304 Not Modified\r\n{about}\r\n"),
                false => ok(&about, &body),
            };
            visit.write(answer).await;
        }
    })
    .await;
    let edge = edge(&route_to(upstream.address, "cache = { ttl = \"off\" }")).await;
    let mut random = Rng::with_seed(seed);
    for _ in 0..40 {
        let path = format!("/{}", random.usize(1..1 << NAMES.len()));
        let asking: Vec<_> = (0..12)
            .map(|_| {
                let values: Vec<_> = NAMES
                    .iter()
                    .map(|_| VALUES[random.usize(..VALUES.len())])
                    .collect();
                let (path, to) = (path.clone(), edge.address());
                tokio::spawn(async move {
                    let told: Vec<_> = NAMES
                        .iter()
                        .zip(&values)
                        .filter(|(_, value)| !value.is_empty())
                        .map(|(name, value)| format!("{name}: {value}"))
                        .collect();
                    let told: Vec<_> = told.iter().map(String::as_str).collect();
                    let answer = Client::connect(to)
                        .await
                        .ask(&format!("GET {path}"), &told)
                        .await;
                    (path, values, answer)
                })
            })
            .collect();
        for asking in asking {
            let (path, values, answer) = asking.await.unwrap();
            let own: Vec<_> = named(&path).map(|name| values[name]).collect();
            // An order that means nothing may be another's.
            let plain = |text: &str| {
                let mut members: Vec<_> = text.split(", ").collect();
                members.sort_unstable();
                members.join(", ")
            };
            let text = answer.text();
            let read: Vec<_> = text.split('|').map(plain).collect();
            let own: Vec<_> = own.into_iter().map(plain).collect();
            assert_eq!(read, own, "seed {seed}, {path}: {}", answer.head);
        }
    }
}
