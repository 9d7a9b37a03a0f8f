//! Another configuration is put in force while edge runs, and nothing that is open notices.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use edge::config::Config;
use edge::serve::Edge;
use futures_util::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{
    Client, PATIENCE, Upstream, echo_server, edge, figure, figure_becomes, figures, get, ms, no,
    nobody, ok, request, route_to, soon, until, upstream_at,
};

/// What [`edge`] starts with for these tables.
fn text(tables: &str) -> String {
    format!("[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n{tables}")
}

async fn reload(edge: &Edge, tables: &str) {
    let config = Config::read("test.toml", &text(tables));
    soon(edge.reload(config.unwrap_or_else(|faults| panic!("{faults}")))).await;
}

fn upstream(name: &str, peer: SocketAddr) -> String {
    format!("[upstream.{name}]\npeers = [\"{peer}\"]\n")
}

fn route(path: &str, upstream: &str, keys: &str) -> String {
    format!("[[route]]\npath = \"{path}\"\nupstream = \"{upstream}\"\n{keys}\n")
}

const APPLIED: &str = "edge_config_reloads_total{result=\"applied\"}";
const REFUSED: &str = "edge_config_reloads_total{result=\"refused\"}";

/// An upstream that answers "late" once it is let.
async fn waiting() -> (Upstream, Arc<Notify>) {
    let let_go = Arc::new(Notify::new());
    let own = let_go.clone();
    let upstream = Upstream::serve(move |mut visit| {
        let let_go = own.clone();
        async move {
            while visit.head().await.is_some() {
                let_go.notified().await;
                visit.write(ok("", "late")).await;
            }
        }
    })
    .await;
    (upstream, let_go)
}

#[tokio::test(flavor = "multi_thread")]
async fn new_routes_answer_and_old_ones_do_not() {
    let (a, b) = (
        Upstream::saying(ok("", "a")).await,
        Upstream::saying(ok("", "b")).await,
    );
    let edge = edge(&(upstream("a", a.address) + &route("/old", "a", ""))).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/old").await.text(), "a");
    assert_eq!(client.get("/new").await.refusal(), no(404, "no_route"));
    reload(&edge, &(upstream("b", b.address) + &route("/new", "b", ""))).await;
    // The connection that was open and a new one hear the same.
    for mut client in [client, Client::connect(edge.address()).await] {
        assert_eq!(client.get("/new").await.text(), "b");
        assert_eq!(client.get("/old").await.refusal(), no(404, "no_route"));
    }
    assert_eq!(figure(&edge, APPLIED).await.to_bits(), 1f64.to_bits());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_open_ends_by_the_rules_that_it_began_with() {
    let (slow, let_go) = waiting().await;
    let tables = upstream("slow", slow.address) + &route("/*", "slow", "timeout = \"20s\"");
    let edge = edge(&tables).await;
    let mut open = Client::connect(edge.address()).await;
    open.send(request("GET /open", &[])).await;
    until(|| async { slow.count() == 1 }).await;
    let silent = Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let tables = upstream("new", silent.address) + &route("/new/*", "new", "timeout = \"100ms\"");
    reload(&edge, &tables).await;
    // Longer than the new rules would let it wait, on a path that is no more.
    sleep(ms(500)).await;
    let_go.notify_one();
    let answer = open.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "late"));
    let late = open.get("/new/").await;
    assert_eq!(late.refusal(), no(504, "response_timeout"));
    figure_becomes(
        &edge,
        "edge_requests_total{method=\"GET\",reason=\"\",route=\"/*\",status=\"200\"}",
        1.0,
    )
    .await;
}

async fn websocket(edge: &Edge, path: &str) -> WebSocketStream<TcpStream> {
    let stream = Client::connect(edge.address()).await.into_stream();
    let address = format!("ws://edge.test{path}");
    soon(tokio_tungstenite::client_async(address, stream))
        .await
        .unwrap()
        .0
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_websocket_loses_nothing_across_twenty_reloads() {
    let echo = upstream("echo", echo_server().await);
    let open = "websocket = { messages_per_client = \"off\" }";
    let edge = edge(&(echo.clone() + &route("/ws", "echo", open))).await;
    let (mut to, mut from) = websocket(&edge, "/ws").await.split();
    let (stop, mut stopped) = tokio::sync::watch::channel(false);
    let sending = tokio::spawn(async move {
        let mut sent = 0;
        while !*stopped.borrow_and_update() {
            to.send(Message::text(sent.to_string())).await.unwrap();
            sent += 1;
            sleep(ms(1)).await;
        }
        to.send(Message::text("last")).await.unwrap();
        sent
    });
    let hearing = tokio::spawn(async move {
        let mut heard = 0;
        loop {
            let message = soon(from.next()).await.unwrap().unwrap();
            if message == Message::text("last") {
                return heard;
            }
            assert_eq!(message, Message::text(heard.to_string()));
            heard += 1;
        }
    });
    for number in 0..20 {
        let other = upstream("other", nobody().await) + &route(&format!("/{number}"), "other", "");
        let tables = match number % 4 {
            // Its route and its upstream are gone.
            0 => other,
            1 => echo.clone() + &route("/ws", "echo", "") + &other,
            2 => upstream("echo", nobody().await) + &route("/ws", "echo", open) + &other,
            _ => {
                echo.clone()
                    + &route(
                        "/ws",
                        "echo",
                        "websocket = { message = \"1B\", frame = \"1B\", lifetime = \"1ms\" }",
                    )
            }
        };
        reload(&edge, &tables).await;
        sleep(ms(20)).await;
    }
    stop.send(true).unwrap();
    let sent = soon(sending).await.unwrap();
    assert_eq!(soon(hearing).await.unwrap(), sent);
    assert!(sent > 20, "{sent}");
    assert_eq!(figure(&edge, APPLIED).await.to_bits(), 20f64.to_bits());
    figure_becomes(&edge, "edge_websockets{route=\"/ws\"}", 0.0).await;
}

/// A file of this test's own.
fn file(name: &str, source: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, source).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_file_changes_nothing_and_is_counted() {
    let a = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route_to(a.address, "")).await;
    let started = figure(&edge, "edge_config_reloaded_timestamp_seconds").await;
    assert!(started > 1e9, "{started}");
    let faulty = file("reload-faulty.toml", &text("[timeout]\nconect = \"1s\"\n"));
    sleep(ms(1_100)).await;
    soon(edge.reload_file(&faulty)).await;
    soon(edge.reload_file(Path::new("/nowhere/edge.toml"))).await;
    assert_eq!(get(edge.address(), "/").await.text(), "a");
    figure_becomes(&edge, REFUSED, 2.0).await;
    figure_becomes(&edge, APPLIED, 0.0).await;
    figure_becomes(&edge, "edge_config_reloaded_timestamp_seconds", started).await;
    let good = text(&(upstream("a", a.address) + &route("/good", "a", "")));
    soon(edge.reload_file(&file("reload-good.toml", &good))).await;
    assert_eq!(get(edge.address(), "/").await.status, 404);
    assert!(figure(&edge, "edge_config_reloaded_timestamp_seconds").await > started);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_share_that_was_used_up_still_is_until_its_limit_changes() {
    let a = upstream("a", Upstream::saying(ok("", "a")).await.address);
    let tables = |limit: &str, own: &str, more: &str| {
        format!("[limit]\nper_client = \"{limit}\"\n{more}\n{a}")
            + &route("/own", "a", &format!("limit = {{ {own} }}"))
            + &route("/*", "a", "")
    };
    let edge = edge(&tables("2/h", "global = \"1/h\"", "burst = 2")).await;
    let mut client = Client::connect(edge.address()).await;
    assert_eq!(client.get("/own").await.status, 200);
    assert_eq!(client.get("/").await.status, 200);
    let over = no(429, "client_limit");
    assert_eq!(client.get("/").await.refusal(), over);
    // Something else has changed, and what a refusal answers.
    let teapot = "burst = 2\nstatus = { per_client = 418 }\n[timeout]\nresponse = \"7s\"";
    reload(&edge, &tables("2/h", "global = \"1/h\"", teapot)).await;
    assert_eq!(client.get("/").await.refusal(), no(418, "client_limit"));
    assert_eq!(get(edge.address(), "/own").await.status, 418);
    reload(&edge, &tables("3/h", "global = \"1/h\"", "burst = 3")).await;
    assert_eq!(client.get("/").await.status, 200);
    // The route's own limit has not changed, so what all share there is still used up.
    assert_eq!(client.get("/own").await.refusal(), no(503, "global_limit"));
    assert_eq!(client.get("/").await.status, 200);
    assert_eq!(client.get("/").await.refusal(), over);
    reload(
        &edge,
        &tables("3/h", "global = \"2/h\", per_client = \"9/h\"", "burst = 3"),
    )
    .await;
    assert_eq!(client.get("/own").await.status, 200);
    assert_eq!(client.get("/").await.refusal(), over);
    figure_becomes(&edge, "edge_limit_clients", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_websocket_keeps_its_place() {
    let tables = upstream("echo", echo_server().await)
        + &route("/ws", "echo", "websocket = { per_client = 1 }");
    let edge = edge(&tables).await;
    let first = websocket(&edge, "/ws").await;
    reload(&edge, &(tables + &route("/new", "echo", ""))).await;
    let ask = || async {
        let fields = [
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        ];
        let mut client = Client::connect(edge.address()).await;
        client.ask("GET /ws", &fields).await.status
    };
    assert_eq!(ask().await, 429);
    drop(first);
    until(|| async { ask().await == 101 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_stays_keeps_its_connections() {
    let a = Upstream::mirror().await;
    let tables = upstream("a", a.address) + &route("/*", "a", "");
    let edge = edge(&tables).await;
    for number in 0..5 {
        assert_eq!(get(edge.address(), "/").await.status, 200);
        let more = route(&format!("/{number}"), "a", "timeout = \"7s\"");
        reload(
            &edge,
            &(upstream("a", a.address) + &more + &route("/*", "a", "")),
        )
        .await;
    }
    assert_eq!((a.count(), a.connections()), (5, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stays_is_as_well_as_it_was_and_one_that_goes_leaves_no_figure() {
    let (sick, well) = (
        Upstream::serve(|mut visit| async move {
            while let Some(head) = visit.head().await {
                let answer = if head.starts_with("GET /health") {
                    "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n".to_owned()
                } else {
                    ok("", "sick")
                };
                visit.write(answer).await;
            }
        })
        .await,
        Upstream::saying(ok("", "well")).await,
    );
    let health = "health = \"/health\"\n";
    let both = upstream_at(&[sick.address, well.address]) + health;
    let edge = edge(&(both.clone() + &route("/*", "u", ""))).await;
    let up = |peer: SocketAddr| format!("edge_upstream_up{{peer=\"{peer}\",upstream=\"u\"}}");
    let fell = || async { figure(&edge, &up(sick.address)).await < 0.5 };
    until(fell).await;
    let more = upstream("more", well.address) + &route("/more", "more", "");
    reload(&edge, &(both + &more + &route("/*", "u", ""))).await;
    for _ in 0..4 {
        assert_eq!(get(edge.address(), "/").await.text(), "well");
    }
    assert!(fell().await);
    let one = upstream_at(&[well.address]) + health;
    reload(&edge, &(one + &route("/*", "u", ""))).await;
    let left = figures(&edge).await;
    assert!(!left.contains(&up(sick.address)), "{left}");
    assert!(left.contains(&format!("{} 1", up(well.address))), "{left}");
    assert!(!left.contains("upstream=\"more\""), "{left}");
    // Nobody asks it any more.
    let asked = sick.count();
    sleep(ms(6_000)).await;
    assert_eq!(sick.count(), asked);
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_go_on_counting() {
    let a = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route_to(a.address, "")).await;
    let answered = "edge_requests_total{method=\"GET\",reason=\"\",route=\"/*\",status=\"200\"}";
    let took = "edge_request_duration_seconds_count{route=\"/*\"}";
    for number in 1..=3 {
        get(edge.address(), "/").await;
        figure_becomes(&edge, answered, f64::from(number)).await;
        figure_becomes(&edge, took, f64::from(number)).await;
        reload(&edge, &route_to(a.address, "timeout = \"7s\"")).await;
    }
    // A route that has gone keeps its last ones.
    reload(&edge, &(upstream("a", a.address) + &route("/a", "a", ""))).await;
    get(edge.address(), "/a").await;
    figure_becomes(
        &edge,
        "edge_request_duration_seconds_count{route=\"/a\"}",
        1.0,
    )
    .await;
    figure_becomes(&edge, answered, 3.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_answer_is_found_until_its_route_would_answer_otherwise() {
    let (a, b) = (
        Upstream::saying(ok("", "a")).await,
        Upstream::saying(ok("", "b")).await,
    );
    let both = upstream("a", a.address)
        + &upstream("b", b.address)
        + &route("/a", "a", "")
        + &route("/b", "b", "");
    let tables =
        |narrow: &str, wide: &str| both.clone() + narrow + &route("/*", wide, "cache = \"1h\"");
    let edge = edge(&tables("", "a")).await;
    let mut client = Client::connect(edge.address()).await;
    client.get("/x/y").await;
    reload(&edge, &tables(&route("/other", "b", ""), "a")).await;
    assert_eq!(client.get("/x/y").await.cache(), "edge; hit");
    // The route asks another upstream; then another route takes the path, and goes again.
    reload(&edge, &tables("", "b")).await;
    assert_eq!(client.get("/x/y").await.text(), "b");
    reload(&edge, &tables(&route("/x/*", "a", "cache = \"1h\""), "b")).await;
    assert_eq!(client.get("/x/y").await.text(), "a");
    reload(&edge, &tables("", "b")).await;
    assert_eq!(client.get("/x/y").await.text(), "b");
    assert_eq!(a.count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_of_connections_apply_to_those_that_come_after_it() {
    let a = Upstream::saying(ok("", "a")).await;
    let edge = edge(&route_to(a.address, "")).await;
    let mut open = Client::connect(edge.address()).await;
    assert_eq!(open.get("/").await.status, 200);
    let tables = text(&route_to(a.address, "")).replace("[admin]", "connections = 2\n[admin]");
    let tables = tables + "[timeout]\nkeepalive = \"300ms\"\n";
    soon(edge.reload(Config::read("test.toml", &tables).unwrap())).await;
    let mut second = Client::connect(edge.address()).await;
    assert_eq!(second.get("/").await.status, 200);
    let mut third = Client::connect(edge.address()).await;
    third.send(request("GET /", &[])).await;
    tokio::select! {
        biased;
        rest = second.rest() => assert!(rest.is_empty(), "kept alive for 300 ms only"),
        _ = third.answer() => panic!("there was no room for a third"),
    }
    assert_eq!(third.answer().await.status, 200, "now there is");
    assert_eq!(open.get("/").await.status, 200);
}

// The binary.

/// edge itself, as it runs in production; killed when dropped.
struct Process {
    child: Child,
    lines: Receiver<Value>,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_edge"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (told, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                let _ = told.send(serde_json::from_str(&line).unwrap());
            }
        });
        Self { child, lines }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// The lines up to the first of this event, which is the last.
    fn up_to(&self, event: &str) -> Vec<Value> {
        let mut lines = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            lines.push(line.unwrap_or_else(|_| panic!("no {event} among {lines:?}")));
            if lines.last().unwrap()["message"] == event {
                return lines;
            }
        }
    }

    fn address(&self) -> SocketAddr {
        let started = self.up_to("started").pop().unwrap();
        started["address"].as_str().unwrap().parse().unwrap()
    }

    async fn ends_well(&mut self) {
        let child = &mut self.child;
        soon(async {
            while child.try_wait().unwrap().is_none() {
                sleep(ms(10)).await;
            }
        })
        .await;
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_file_again() {
    let a = Upstream::saying(ok("", "a")).await;
    let tables = |path: &str| text(&(upstream("a", a.address) + &route(path, "a", "")));
    let path = file("reload-sighup.toml", &tables("/0"));
    let mut edge = Process::start(&["-c", path.to_str().unwrap()]);
    let address = edge.address();
    let mut client = Client::connect(address).await;
    assert_eq!(client.get("/0").await.status, 200);

    file("reload-sighup.toml", &tables("/1"));
    edge.signal(Signal::HUP);
    let told = edge.up_to("reloaded").pop().unwrap();
    assert_eq!(told["routes_added"], 1, "{told}");
    assert_eq!(
        (&told["routes_removed"], &told["upstreams_kept"]),
        (&1.into(), &1.into())
    );
    assert_eq!(client.get("/1").await.status, 200);
    assert_eq!(client.get("/0").await.status, 404);

    let faulty = tables("/2") + "colour = \"red\"\n[timeout]\nconect = \"1s\"\n";
    file("reload-sighup.toml", &faulty);
    edge.signal(Signal::HUP);
    let told = edge.up_to("reload_failed");
    let faults: Vec<_> = told
        .iter()
        .filter(|line| line["message"] == "config_fault")
        .collect();
    assert_eq!(faults.len(), 2, "{told:?}");
    let line = faulty.lines().count();
    assert_eq!(
        (&faults[1]["line"], &faults[1]["column"]),
        (&line.into(), &1.into())
    );
    assert_eq!(faults[1]["file"], path.to_str().unwrap());
    assert_eq!(faults[1]["help"], "did you mean `connect`?");
    assert!(faults[1]["fault"].as_str().unwrap().contains("`conect`"));
    assert_eq!(told.last().unwrap()["faults"], 2);
    assert_eq!(client.get("/1").await.status, 200);

    let moved =
        tables("/3").replacen("127.0.0.1:0", "127.0.0.2:0", 1) + "[cache]\nmemory = \"2MiB\"\n";
    file("reload-sighup.toml", &moved);
    edge.signal(Signal::HUP);
    let told = edge.up_to("reloaded");
    let restart = told
        .iter()
        .find(|line| line["message"] == "restart_required")
        .unwrap();
    assert_eq!(restart["keys"], "[server] listen, [cache] memory");
    assert_eq!(restart["level"], "WARN");
    assert_eq!(get(address, "/3").await.status, 200);

    // Many in a row: the last file wins.
    for number in 4..24 {
        file("reload-sighup.toml", &tables(&format!("/{number}")));
        edge.signal(Signal::HUP);
    }
    until(|| async { get(address, "/23").await.status == 200 }).await;

    // Drains: the one that is open finishes, and a reload comes too late.
    let (slow, let_go) = waiting().await;
    let tables_slow = text(&(upstream("slow", slow.address) + &route("/*", "slow", "")));
    file("reload-sighup.toml", &tables_slow);
    edge.signal(Signal::HUP);
    until(|| async { get_is_slow(address).await }).await;
    let before = slow.count();
    client.send(request("GET /open", &[])).await;
    until(|| async { slow.count() > before }).await;
    edge.signal(Signal::TERM);
    edge.up_to("draining");
    file("reload-sighup.toml", &tables("/24"));
    edge.signal(Signal::HUP);
    edge.up_to("reload_ignored");
    let_go.notify_waiters();
    assert_eq!(client.answer().await.text(), "late");
    edge.ends_well().await;
}

/// Does a request find a route that does not answer at once?
async fn get_is_slow(address: SocketAddr) -> bool {
    let mut client = Client::connect(address).await;
    client.send(request("GET /slow", &[])).await;
    tokio::time::timeout(ms(300), client.answer())
        .await
        .is_err()
}

/// A folder as the kubelet mounts a `ConfigMap`: the file is a link through `..data`, and another
/// `..data` takes the place of the former one.
fn mount(folder: &Path, version: &str, text: &str) {
    let data = folder.join(version);
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("edge.toml"), text).unwrap();
    let next = folder.join("..data_tmp");
    symlink(version, &next).unwrap();
    fs::rename(next, folder.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_is_followed_with_no_signal() {
    let a = Upstream::saying(ok("", "a")).await;
    let tables = |path: &str| text(&(upstream("a", a.address) + &route(path, "a", "")));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("config-map");
    let _ = fs::remove_dir_all(&folder);
    mount(&folder, "..1", &tables("/1"));
    symlink("..data/edge.toml", folder.join("edge.toml")).unwrap();
    let path = folder.join("edge.toml");
    let mut edge = Process::start(&["--config", path.to_str().unwrap(), "--follow"]);
    let address = edge.address();
    assert_eq!(get(address, "/1").await.status, 200);

    mount(&folder, "..2", &tables("/2"));
    edge.up_to("reloaded");
    assert_eq!(get(address, "/2").await.status, 200);
    assert_eq!(get(address, "/1").await.status, 404);

    mount(&folder, "..3", "colour = \"red\"");
    edge.up_to("reload_failed");
    assert_eq!(get(address, "/2").await.status, 200);
    edge.signal(Signal::TERM);
    edge.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_does_not_end_the_demo() {
    let anywhere = "127.0.0.1:0";
    let arguments = [
        "demo", "--listen", anywhere, "--admin", anywhere, "--echo", anywhere,
    ];
    let mut demo = Process::start(&arguments);
    let address = demo.address();
    demo.signal(Signal::HUP);
    demo.up_to("reload_ignored");
    assert_eq!(get(address, "/health").await.status, 200);
    demo.signal(Signal::INT);
    demo.ends_well().await;
}
