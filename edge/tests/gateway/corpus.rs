//! Every raw request of the corpus, to a gateway in front of a peer that reads strictly and
//! remembers every byte; and a victim, who asks right after on a connection of its own.

use std::sync::{Arc, Mutex};

use edge::serve::Edge;
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::corpus_file::{Entry, corpus};
use crate::strict::{self, Message};
use crate::support::{Client, PATIENCE, Upstream, edge, ms, no, request};

/// What a peer was told: whole messages, and what it could not read in one way.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) messages: Vec<Message>,
    pub(crate) ambiguous: Vec<String>,
}

/// A peer that answers each request with its method and target.
pub(crate) async fn strict_peer() -> (Upstream, Arc<Mutex<Told>>) {
    let told = Arc::new(Mutex::new(Told::default()));
    let own = told.clone();
    let upstream = Upstream::serve(move |mut visit| {
        let told = own.clone();
        async move {
            let mut bytes = Vec::new();
            loop {
                match strict::read(&bytes) {
                    Ok(None) => {}
                    Ok(Some((message, length))) => {
                        bytes.drain(..length);
                        let length = message.body.len();
                        let body = match length {
                            0 => format!("{} {}", message.method, message.target),
                            _ => format!("{} {} {length}", message.method, message.target),
                        };
                        let head = message.method == "HEAD";
                        told.lock().unwrap().messages.push(message);
                        let body_said = if head { "" } else { &body };
                        let length = body.len();
                        let answer = format!(
                            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body_said}"
                        );
                        visit.write(answer).await;
                        continue;
                    }
                    Err(why) => {
                        let shown = format!("{why}: {}", bytes.escape_ascii());
                        told.lock().unwrap().ambiguous.push(shown);
                        return;
                    }
                }
                let read = visit.stream.read_buf(&mut bytes).await;
                if !read.is_ok_and(|read| read > 0) {
                    return;
                }
            }
        }
    })
    .await;
    (upstream, told)
}

pub(crate) async fn gateway(upstream: &Upstream) -> Edge {
    let peer = upstream.address;
    let route = |path: &str, keys: &str| {
        format!("[[route]]\npath = \"{path}\"\nupstream = \"u\"\n{keys}\n")
    };
    let tables = format!(
        "[limit]\nper_client = \"off\"\nglobal = \"off\"\n[upstream.u]\npeers = [\"{peer}\"]\n{}{}{}",
        route("/named", "methods = [\"PURGE\"]"),
        route("/small", "body = \"1KiB\""),
        route("/*", ""),
    );
    edge(&tables).await
}

/// The whole of what is said to one who sends these bytes, as it should be; or what is wrong.
async fn say(edge: &Edge, entry: &Entry) -> Result<(), String> {
    let mut client = Client::connect(edge.address()).await;
    for (number, part) in entry.parts.iter().enumerate() {
        if number > 0 {
            tokio::time::sleep(ms(30)).await;
        }
        client.send(part).await;
    }
    let head = entry.parts[0].starts_with(b"HEAD");
    for number in 0..entry.served {
        let method = if head && number == 0 { "HEAD" } else { "GET" };
        let answer = client.answer_to(method).await;
        let answer = answer.ok_or(format!("no answer {number}"))?;
        if answer.status != 200 {
            return Err(format!(
                "answer {number}: {} {}",
                answer.head,
                answer.text()
            ));
        }
    }
    if let Some((status, reason)) = entry.refused {
        let answer = client.answer_to("GET").await;
        let answer = answer.ok_or("no answer, but the end")?;
        if answer.status < 400 {
            return Err(format!("{} {}", answer.head, answer.text()));
        }
        if answer.refusal() != no(status, reason) {
            return Err(format!("{:?}", answer.refusal()));
        }
        // A good message that is not wanted does not end the connection.
        if matches!(status, 403 | 405 | 501) {
            return Ok(());
        }
    } else if !entry.closes {
        let last = client.ask("GET /last", &["Connection: close"]).await;
        if (last.status, last.text()) != (200, "GET /last".to_owned()) {
            return Err(format!("and then {} {}", last.head, last.text()));
        }
    }
    match client.rest().await {
        rest if rest.is_empty() => Ok(()),
        rest => Err(format!("and more: {}", rest.escape_ascii())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_ambiguous_passes_nobody_else_is_answered_wrongly_and_what_is_legal_is_served() {
    let (upstream, told) = strict_peer().await;
    let edge = gateway(&upstream).await;
    let mut victim = Client::connect(edge.address()).await;
    let (mut wrong, all) = (Vec::new(), corpus());
    for (number, entry) in all.iter().enumerate() {
        let name = format!("{} ({})", entry.name, entry.section);
        match timeout(PATIENCE / 4, say(&edge, entry)).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => wrong.push(format!("{name}: {why}")),
            Err(_) => wrong.push(format!("{name}: it hangs")),
        }
        let path = format!("/victim/{number}");
        let answer = victim.get(&path).await;
        if (answer.status, answer.text()) != (200, format!("GET {path}")) {
            wrong.push(format!(
                "{name}: the victim got {} {}",
                answer.head,
                answer.text()
            ));
            victim = Client::connect(edge.address()).await;
        }
        let told = std::mem::take(&mut *told.lock().unwrap());
        let own = told.messages.iter();
        let own = own.filter(|message| message.target != path && message.target != "/last");
        if own
            .clone()
            .any(|message| message.target.contains("smuggled"))
        {
            wrong.push(format!("{name}: the peer was told what was hidden"));
        }
        if own.count() != entry.served {
            wrong.push(format!("{name}: the peer was told {:?}", told.messages));
        }
        wrong.extend(told.ambiguous.iter().map(|why| format!("{name}: {why}")));
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        all.len(),
        wrong.join("\n")
    );
    assert!(all.len() >= 200);
    let names: std::collections::BTreeSet<_> = all.iter().map(|entry| entry.name).collect();
    assert_eq!(names.len(), all.len(), "each name stands once");
}

/// `cargo test -p edge --test gateway -- --ignored seeds` writes them to `fuzz/corpus/message`.
#[test]
#[ignore = "it writes files"]
fn seeds_for_the_fuzzer() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/message");
    std::fs::create_dir_all(&folder).unwrap();
    for (number, entry) in corpus().iter().enumerate() {
        let seed = [vec![7], entry.parts.concat()].concat();
        if seed.len() < 4_096 {
            std::fs::write(folder.join(format!("{number:03}")), seed).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peer_and_route_see_the_path_as_it_is_written_in_one_way() {
    let (upstream, told) = strict_peer().await;
    let tables = format!(
        "[request]\ndot_segments = \"resolve\"\ndouble_slashes = \"merge\"\n\
         [upstream.u]\npeers = [\"{0}\"]\n[[route]]\npath = \"/secret/*\"\nupstream = \"u\"\n\
         methods = [\"POST\"]\n[[route]]\npath = \"/*\"\nupstream = \"u\"\nmethods = [\"GET\", \"POST\"]\n",
        upstream.address
    );
    let edge = edge(&tables).await;
    let mut client = Client::connect(edge.address()).await;
    for (asked, seen) in [
        ("/%61/b?c=%61", "/a/b?c=%61"),
        ("/a/./b/../c", "/a/c"),
        ("/a//b", "/a/b"),
        ("/%7eme%2fx", "/~me%2Fx"),
        ("/x/%2e%2e/secret/y", "/secret/y"),
        ("http://edge.test/a/../b?c", "/b?c"),
    ] {
        let answer = client
            .ask(&format!("POST {asked}"), &["Content-Length: 0"])
            .await;
        assert_eq!(answer.text(), format!("POST {seen}"), "{asked}");
    }
    client.send(request("GET /../x", &[])).await;
    assert_eq!(client.answer().await.refusal(), no(400, "bad_path"));
    assert!(told.lock().unwrap().ambiguous.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_body_behind_a_request_that_is_served_does_not_cost_that_its_answer() {
    let upstream = Upstream::serve(|mut visit| async move {
        while visit.head().await.is_some() {
            tokio::time::sleep(ms(300)).await;
            visit
                .write("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na")
                .await;
        }
    })
    .await;
    let edge = gateway(&upstream).await;
    let mut client = Client::connect(edge.address()).await;
    client.send(request("GET /first", &[])).await;
    tokio::time::sleep(ms(50)).await;
    let second = request("POST /second", &["Transfer-Encoding: chunked"]);
    client.send(second).await;
    tokio::time::sleep(ms(50)).await;
    client.send("zz\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(client.answer().await.refusal(), no(400, "bad_message"));
    assert_eq!(client.rest().await, b"");
}
