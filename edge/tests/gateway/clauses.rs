//! The RFCs clause by clause: what a first request leaves behind for a second one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use httpdate::fmt_http_date;

use crate::support::{Client, Upstream, edge, fields, request, route_to};

/// What becomes of the second request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    /// Answered from what is kept, fresh.
    Hit,
    /// Answered from what is kept, stale.
    Stale,
    /// Asked of the upstream, for the whole.
    Fetched,
    /// Asked of the upstream, whether what is kept still holds; it does.
    Validated,
    /// Answered from what is kept, or by edge, with this status.
    Is(u16),
}
use Then::{Fetched, Hit, Is, Stale, Validated};

/// RFC and section, first request, answer, second request. `|` stands between the fields; a
/// method or a status goes before them. `{-60}` is the date a minute ago. A first request `-` is
/// not sent.
type Row = (&'static str, &'static str, &'static str, &'static str, Then);

const STORING: &[Row] = &[
    ("9111 3", "", "Cache-Control: max-age=60", "", Hit),
    ("9111 3", "", "", "", Fetched),
    ("9111 3", "", "Cache-Control: public", "", Fetched),
    ("9111 3", "", "Expires: {60}", "", Hit),
    ("9111 3", "", "Cache-Control: s-maxage=60", "", Hit),
    (
        "9111 3",
        "",
        "Cache-Control: no-store, max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 3",
        "",
        "Cache-Control: private, max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 3",
        "",
        "Cache-Control: max-age=60 | Set-Cookie: a=b",
        "",
        Fetched,
    ),
    (
        "9111 3",
        "Cache-Control: no-store",
        "Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 3",
        "POST | Content-Length: 0",
        "Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    ("9111 3", "HEAD", "Cache-Control: max-age=60", "", Hit),
    (
        "9111 3",
        "Content-Length: 1",
        "Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    ("9111 3", "", "404 | Cache-Control: max-age=60", "", Hit),
    ("9111 3", "", "404", "", Fetched),
    (
        "9111 3",
        "",
        "302 | Location: /x | Cache-Control: max-age=60",
        "",
        Hit,
    ),
    (
        "9111 3",
        "",
        "301 | Location: /x | Cache-Control: max-age=60",
        "",
        Hit,
    ),
    ("9111 3", "", "500 | Cache-Control: max-age=60", "", Hit),
    ("9111 3", "", "299 | Cache-Control: max-age=60", "", Hit),
    (
        "9111 3.5",
        "Authorization: a",
        "Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 3.5",
        "Authorization: a",
        "Cache-Control: max-age=60",
        "Authorization: a",
        Fetched,
    ),
    (
        "9111 3.5",
        "Authorization: a",
        "Cache-Control: max-age=60, public",
        "",
        Hit,
    ),
    (
        "9111 3.5",
        "Authorization: a",
        "Cache-Control: s-maxage=60",
        "Authorization: b",
        Hit,
    ),
    (
        "9111 3.5",
        "Authorization: a",
        "Cache-Control: max-age=60, must-revalidate",
        "",
        Hit,
    ),
    (
        "9111 3.5",
        "",
        "Cache-Control: max-age=60",
        "Authorization: a",
        Fetched,
    ),
    (
        "9111 3.5",
        "",
        "Cache-Control: max-age=60, public",
        "Authorization: a",
        Hit,
    ),
    (
        "9111 3.5",
        "Authorization: a",
        "Cache-Control: private, public, max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 7.3",
        "Cookie: a",
        "Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 7.3",
        "",
        "Cache-Control: max-age=60",
        "Cookie: a",
        Fetched,
    ),
    (
        "9111 7.3",
        "Cookie: a",
        "Cache-Control: max-age=60, public",
        "Cookie: b",
        Hit,
    ),
];

const CHOOSING: &[Row] = &[
    (
        "9111 4.1",
        "X: 1",
        "Vary: X | Cache-Control: max-age=60",
        "X: 1",
        Hit,
    ),
    (
        "9111 4.1",
        "X: 1",
        "Vary: X | Cache-Control: max-age=60",
        "X: 2",
        Fetched,
    ),
    (
        "9111 4.1",
        "X: 1",
        "Vary: X | Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 4.1",
        "",
        "Vary: X | Cache-Control: max-age=60",
        "",
        Hit,
    ),
    (
        "9111 4.1",
        "",
        "Vary: X | Cache-Control: max-age=60",
        "X: 1",
        Fetched,
    ),
    (
        "9111 4.1",
        "",
        "Vary: X | Cache-Control: max-age=60",
        "X:",
        Fetched,
    ),
    (
        "9111 4.1",
        "X: 1",
        "Vary: x, Y | Cache-Control: max-age=60",
        "X: 1",
        Hit,
    ),
    (
        "9111 4.1",
        "X: 1",
        "Vary: x, Y | Cache-Control: max-age=60",
        "X: 1 | Y: 1",
        Fetched,
    ),
    (
        "9111 4.1",
        "X: 1",
        "Vary: Y | Vary: X | Cache-Control: max-age=60",
        "X: 2",
        Fetched,
    ),
    (
        "9111 4.1",
        "X: 1, 2",
        "Vary: X | Cache-Control: max-age=60",
        "X: 1 | X: 2",
        Hit,
    ),
    (
        "9111 4.1",
        "",
        "Vary: * | Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 4.1",
        "",
        "Vary: X, * | Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 4.2",
        "",
        "Cache-Control: max-age=60 | Age: 59",
        "",
        Hit,
    ),
    (
        "9111 4.2",
        "",
        "Cache-Control: max-age=60 | Age: 61",
        "",
        Fetched,
    ),
    (
        "9111 4.2",
        "",
        "Cache-Control: max-age=60 | Age: 61 | ETag: \"a\"",
        "",
        Validated,
    ),
    (
        "9111 4.2.1",
        "",
        "Cache-Control: max-age=0, s-maxage=60",
        "",
        Hit,
    ),
    (
        "9111 4.2.1",
        "",
        "Cache-Control: max-age=60, s-maxage=0",
        "",
        Fetched,
    ),
    (
        "9111 4.2.1",
        "",
        "Cache-Control: max-age=60 | Expires: {-60}",
        "",
        Hit,
    ),
    ("9111 4.2.1", "", "Expires: {-60}", "", Fetched),
    ("9111 4.2.1", "", "Expires: {60} | Date: {-30}", "", Hit),
    (
        "9111 4.2.1",
        "",
        "Cache-Control: max-age=60, max-age=0",
        "",
        Fetched,
    ),
    ("9111 4.2.1", "", "Cache-Control: max-age=x", "", Fetched),
    ("9111 4.2.1", "", "Cache-Control: MAX-AGE=60", "", Hit),
    ("9111 4.2.1", "", "Cache-Control: max-age=\"60\"", "", Hit),
    (
        "9111 1.2.2",
        "",
        "Cache-Control: max-age=99999999999999999999",
        "",
        Hit,
    ),
    (
        "9111 4.2.3",
        "",
        "Cache-Control: max-age=600 | Date: {-700}",
        "",
        Fetched,
    ),
    (
        "9111 4.2.3",
        "",
        "Cache-Control: max-age=600 | Date: {-500}",
        "",
        Hit,
    ),
    ("9111 5.3", "", "Expires: 0", "", Fetched),
    (
        "9111 4.3.1",
        "",
        "Cache-Control: no-cache | Last-Modified: {-60}",
        "",
        Validated,
    ),
    (
        "9111 4.3.1",
        "",
        "Cache-Control: no-cache | ETag: W/\"a\"",
        "",
        Validated,
    ),
];

const ASKING: &[Row] = &[
    (
        "9111 5.2.1.1",
        "",
        "Cache-Control: max-age=600 | Age: 10",
        "Cache-Control: max-age=60",
        Hit,
    ),
    (
        "9111 5.2.1.1",
        "",
        "Cache-Control: max-age=600 | Age: 90",
        "Cache-Control: max-age=60",
        Fetched,
    ),
    (
        "9111 5.2.1.1",
        "",
        "Cache-Control: max-age=600 | ETag: \"a\"",
        "Cache-Control: max-age=0",
        Validated,
    ),
    (
        "9111 5.2.1.2",
        "",
        "Cache-Control: max-age=60 | Age: 70 | ETag: \"a\"",
        "Cache-Control: max-stale=60",
        Stale,
    ),
    (
        "9111 5.2.1.2",
        "",
        "Cache-Control: max-age=60 | Age: 70 | ETag: \"a\"",
        "Cache-Control: max-stale",
        Stale,
    ),
    (
        "9111 5.2.1.2",
        "",
        "Cache-Control: max-age=60 | Age: 70 | ETag: \"a\"",
        "Cache-Control: max-stale=5",
        Validated,
    ),
    (
        "9111 5.2.1.2",
        "",
        "Cache-Control: max-age=60, must-revalidate | Age: 70 | ETag: \"a\"",
        "Cache-Control: max-stale",
        Validated,
    ),
    (
        "9111 5.2.1.3",
        "",
        "Cache-Control: max-age=60",
        "Cache-Control: min-fresh=30",
        Hit,
    ),
    (
        "9111 5.2.1.3",
        "",
        "Cache-Control: max-age=60",
        "Cache-Control: min-fresh=90",
        Fetched,
    ),
    (
        "9111 5.2.1.4",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "Cache-Control: no-cache",
        Validated,
    ),
    (
        "9111 5.4",
        "",
        "Cache-Control: max-age=60",
        "Pragma: no-cache",
        Fetched,
    ),
    (
        "9111 5.4",
        "",
        "Cache-Control: max-age=60",
        "Pragma: no-cache | Cache-Control: max-age=60",
        Hit,
    ),
    (
        "9111 5.2.1.5",
        "",
        "Cache-Control: max-age=60",
        "Cache-Control: no-store",
        Hit,
    ),
    (
        "9111 5.2.1.7",
        "",
        "Cache-Control: max-age=60",
        "Cache-Control: only-if-cached",
        Hit,
    ),
    (
        "9111 5.2.1.7",
        "-",
        "Cache-Control: max-age=60",
        "Cache-Control: only-if-cached",
        Is(504),
    ),
    (
        "9111 5.2.1.7",
        "",
        "Cache-Control: no-store",
        "Cache-Control: only-if-cached",
        Is(504),
    ),
    (
        "9111 5.2.1.7",
        "-",
        "Cache-Control: max-age=60",
        "Cache-Control: only-if-cached, no-store",
        Is(504),
    ),
    (
        "9111 5.2.1.7",
        "",
        "Cache-Control: max-age=60 | Age: 70 | ETag: \"a\"",
        "Cache-Control: only-if-cached",
        Is(504),
    ),
    (
        "9111 5.2.1.7",
        "",
        "Cache-Control: max-age=60 | Age: 70 | ETag: \"a\"",
        "Cache-Control: only-if-cached, max-stale",
        Stale,
    ),
];

const ANSWERING: &[Row] = &[
    (
        "9111 5.2.2.2",
        "",
        "Cache-Control: max-age=1, must-revalidate | Age: 5 | ETag: \"a\"",
        "",
        Validated,
    ),
    (
        "9111 5.2.2.3",
        "",
        "Cache-Control: max-age=60, no-store, must-understand",
        "",
        Hit,
    ),
    (
        "9111 5.2.2.3",
        "",
        "299 | Cache-Control: max-age=60, must-understand",
        "",
        Fetched,
    ),
    (
        "9111 5.2.2.4",
        "",
        "Cache-Control: no-cache, max-age=60 | ETag: \"a\"",
        "",
        Validated,
    ),
    (
        "9111 5.2.2.4",
        "",
        "Cache-Control: no-cache=\"x\", max-age=60 | ETag: \"a\"",
        "",
        Validated,
    ),
    (
        "9111 5.2.2.4",
        "",
        "Cache-Control: no-cache, max-age=60 | ETag: \"a\"",
        "Cache-Control: max-stale",
        Validated,
    ),
    (
        "9111 5.2.2.7",
        "",
        "Cache-Control: private=\"x\", max-age=60",
        "",
        Fetched,
    ),
    (
        "9111 5.2.2.8",
        "",
        "Cache-Control: max-age=1, proxy-revalidate | Age: 5 | ETag: \"a\"",
        "Cache-Control: max-stale",
        Validated,
    ),
    (
        "9111 5.2.2.10",
        "",
        "Cache-Control: s-maxage=1 | Age: 5 | ETag: \"a\"",
        "Cache-Control: max-stale",
        Validated,
    ),
    (
        "9111 5.2.3",
        "",
        "Cache-Control: max-age=60, community=\"no-store\"",
        "",
        Hit,
    ),
    (
        "5861 3",
        "",
        "Cache-Control: max-age=1, stale-while-revalidate=0 | Age: 5 | ETag: \"a\"",
        "",
        Validated,
    ),
    (
        "5861 4",
        "",
        "Cache-Control: max-age=1, stale-if-error=60 | Age: 5 | ETag: \"a\"",
        "",
        Validated,
    ),
    (
        "9213 2.2",
        "",
        "CDN-Cache-Control: max-age=60 | Cache-Control: no-store",
        "",
        Hit,
    ),
    (
        "9213 2.2",
        "",
        "CDN-Cache-Control: no-store | Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9213 2.2",
        "",
        "Edge-Cache-Control: max-age=60 | CDN-Cache-Control: no-store",
        "",
        Hit,
    ),
    (
        "9213 2.2",
        "",
        "Edge-Cache-Control: no-store | CDN-Cache-Control: max-age=60",
        "",
        Fetched,
    ),
    (
        "9213 2.2",
        "",
        "CDN-Cache-Control: x | Expires: {60}",
        "",
        Fetched,
    ),
    (
        "9213 2.1",
        "",
        "CDN-Cache-Control: &&& | Cache-Control: max-age=60",
        "",
        Hit,
    ),
    (
        "9213 2.1",
        "",
        "CDN-Cache-Control: max-age=\"1\" | Cache-Control: max-age=60",
        "",
        Hit,
    ),
];

const CONDITIONS: &[Row] = &[
    (
        "9110 13.1.2",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "If-None-Match: \"a\"",
        Is(304),
    ),
    (
        "9110 13.1.2",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "If-None-Match: W/\"a\"",
        Is(304),
    ),
    (
        "9110 13.1.2",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "If-None-Match: *",
        Is(304),
    ),
    (
        "9110 13.1.2",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "If-None-Match: \"b\", \"a\"",
        Is(304),
    ),
    (
        "9110 13.1.2",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "If-None-Match: \"b\"",
        Hit,
    ),
    (
        "9110 13.1.2",
        "",
        "404 | Cache-Control: max-age=60 | ETag: \"a\"",
        "If-None-Match: \"a\"",
        Hit,
    ),
    (
        "9110 13.1.3",
        "",
        "Cache-Control: max-age=60 | Last-Modified: {-60}",
        "If-Modified-Since: {-60}",
        Is(304),
    ),
    (
        "9110 13.1.3",
        "",
        "Cache-Control: max-age=60 | Last-Modified: {-60}",
        "If-Modified-Since: {-90}",
        Hit,
    ),
    (
        "9110 13.2.2",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\" | Last-Modified: {-60}",
        "If-None-Match: \"b\" | If-Modified-Since: {-60}",
        Hit,
    ),
    (
        "9110 13.1.1",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "If-Match: \"b\"",
        Fetched,
    ),
    (
        "9110 14.2",
        "",
        "Cache-Control: max-age=60",
        "Range: bytes=0-1",
        Is(206),
    ),
    (
        "9110 14.2",
        "",
        "Cache-Control: max-age=60",
        "Range: bytes=99-",
        Is(416),
    ),
    (
        "9110 14.2",
        "",
        "Cache-Control: max-age=60",
        "Range: lines=0-1",
        Hit,
    ),
    (
        "9110 14.2",
        "",
        "Cache-Control: max-age=60",
        "Range: bytes=0-0,2-3",
        Hit,
    ),
    (
        "9110 14.2",
        "",
        "Cache-Control: max-age=60",
        "HEAD | Range: bytes=0-1",
        Hit,
    ),
    (
        "9110 14.2",
        "",
        "404 | Cache-Control: max-age=60",
        "Range: bytes=0-1",
        Hit,
    ),
    (
        "9110 13.1.5",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "Range: bytes=0-1 | If-Range: \"a\"",
        Is(206),
    ),
    (
        "9110 13.1.5",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "Range: bytes=0-1 | If-Range: \"b\"",
        Hit,
    ),
    (
        "9110 13.1.5",
        "",
        "Cache-Control: max-age=60 | ETag: W/\"a\"",
        "Range: bytes=0-1 | If-Range: W/\"a\"",
        Hit,
    ),
    (
        "9110 13.2.2",
        "",
        "Cache-Control: max-age=60 | ETag: \"a\"",
        "Range: bytes=0-1 | If-None-Match: \"a\"",
        Is(304),
    ),
    ("9110 9.3.2", "", "Cache-Control: max-age=60", "HEAD", Hit),
];

/// What stands before the fields, if anything does, and the fields.
fn read(text: &str) -> (Option<&str>, Vec<String>) {
    let mut parts = text.split(" | ").filter(|part| !part.is_empty()).peekable();
    let first = parts.next_if(|part| !part.contains(':'));
    let now = SystemTime::now();
    let dated = |part: &str| match part.split_once('{') {
        None => part.to_owned(),
        Some((name, rest)) => {
            let seconds: i64 = rest.trim_end_matches('}').parse().unwrap();
            let far = Duration::from_secs(seconds.unsigned_abs());
            let date = if seconds < 0 { now - far } else { now + far };
            name.to_owned() + &fmt_http_date(date)
        }
    };
    (first, parts.map(dated).collect())
}

/// Answers `/n` as the row says: "first" the first time, "again" from then on, and 304 where it
/// is asked with a condition.
async fn upstream(
    rows: &'static [Row],
    heads: Arc<Mutex<HashMap<usize, Vec<String>>>>,
) -> Upstream {
    let answers = rows.iter().map(|row| {
        let (status, fields) = read(row.2);
        let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
        (status.unwrap_or("200"), fields)
    });
    let answers: Arc<[_]> = answers.collect();
    Upstream::serve(move |mut visit| {
        let (answers, heads) = (answers.clone(), heads.clone());
        async move {
            while let Some(head) = visit.head().await {
                let path = head.split(' ').nth(1).unwrap();
                let number: usize = path[1..].parse().unwrap();
                if let Some(length) = fields(&head, "content-length").first() {
                    visit.take(length.parse().unwrap()).await;
                }
                let (status, about) = &answers[number];
                let condition = asks_whether(&head);
                let count = {
                    let mut heads = heads.lock().unwrap();
                    let heads = heads.entry(number).or_default();
                    heads.push(head);
                    heads.len()
                };
                let body = if count == 1 { "first" } else { "again" };
                let answer = match condition {
                    true => format!("HTTP/1.1 304 Not Modified\r\n{about}\r\n"),
                    false => {
                        format!("HTTP/1.1 {status} X\r\n{about}Content-Length: 5\r\n\r\n{body}")
                    }
                };
                visit.write(answer).await;
            }
        }
    })
    .await
}

fn asks_whether(head: &str) -> bool {
    let conditions = ["if-none-match", "if-modified-since"];
    conditions.iter().any(|name| !fields(head, name).is_empty())
}

/// Sends a request of a row.
async fn ask(client: &mut Client, text: &str, number: usize) -> (String, crate::support::Answer) {
    let (method, fields) = read(text);
    let method = method.unwrap_or("GET").to_owned();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    client
        .send(request(&format!("{method} /{number}"), &fields))
        .await;
    if fields.contains(&"Content-Length: 1") {
        client.send("x").await;
    }
    let answer = client.answer_to(&method).await.expect("no answer");
    (method, answer)
}

/// All rows, each under a path of its own; those that come out otherwise are told together.
async fn hold(rows: &'static [Row]) {
    let heads = Arc::default();
    let upstream = upstream(rows, Arc::clone(&heads)).await;
    let edge = edge(&route_to(upstream.address, "cache = { ttl = \"off\" }")).await;
    let mut faults = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let (clause, first, said, second, then) = *row;
        // A body may end the connection: each request has its own.
        if first != "-" {
            let (_, answer) = ask(&mut Client::connect(edge.address()).await, first, number).await;
            // What it says is a structured field, whatever it was (RFC 9211 2).
            answer.cache();
            crate::support::figure(&edge, "edge_cache_entries").await;
        }
        let before = heads.lock().unwrap().get(&number).map_or(0, Vec::len);
        let (method, answer) =
            ask(&mut Client::connect(edge.address()).await, second, number).await;
        let asked: Vec<String> = {
            let heads = heads.lock().unwrap();
            heads
                .get(&number)
                .map_or(Vec::new(), |heads| heads[before..].to_vec())
        };
        if answer.status != 504 {
            answer.cache();
        }
        let condition = asked.iter().any(|head| asks_whether(head));
        let ttl = answer.ttl().unwrap_or_default();
        let hit = asked.is_empty() && answer.cache().starts_with("edge; hit");
        let own: u16 = read(said).0.unwrap_or("200").parse().unwrap();
        let is = match (asked.len(), condition) {
            (0, _) if hit && answer.status == own && ttl >= 0 => Hit,
            (0, _) if hit && answer.status == own => Stale,
            (0, _) => Is(answer.status),
            (1, true) if answer.cache().contains("fwd-status=304") => Validated,
            _ => Fetched,
        };
        let body = match then {
            Hit | Stale | Validated => "first",
            Fetched if first == "-" => "first",
            Fetched => "again",
            Is(206) => "fi",
            Is(_) => "",
        };
        let wrong_body = method == "GET" && !matches!(then, Is(504)) && answer.text() != body;
        if is != then || wrong_body {
            let told = answer.header("cache-status").unwrap_or_default();
            faults.push(format!(
                "RFC {clause}: `{first}` -> `{said}`, then `{second}`: {is:?}, not {then:?}: {told}, {:?}",
                answer.text()
            ));
        }
        if then == Is(504) {
            assert_eq!(answer.refusal().1, "not_cached", "{clause}");
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_kept_is_kept_and_nothing_else() {
    hold(STORING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_answers_those_it_was_made_for_and_for_its_time() {
    hold(CHOOSING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_wants_of_a_cache_is_heard() {
    hold(ASKING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_says_to_caches_is_heard() {
    hold(ANSWERING).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_ranges_are_answered_from_what_is_kept() {
    hold(CONDITIONS).await;
}
