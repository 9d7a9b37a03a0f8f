//! What passes through an open WebSocket, what does not, and how it ends.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use crate::frames::{
    BINARY, CLOSE, End, FIRST, HANDSHAKE, Host, LAST, NEXT, PING, PONG, Relay, TEXT, frame, masked,
    why, within,
};
use crate::support::{
    Answer, Client, Upstream, Visit, edge, ms, no, nobody, request, route_to, soon, until,
    upstream_at,
};
use tokio::net::TcpSocket;
use tokio::time::sleep;

async fn handshake(client: &mut Client, fields: &[&str]) -> Answer {
    let fields = [&HANDSHAKE[..], fields].concat();
    client.ask("GET /ws", &fields).await
}

/// A client that sends pongs, and nothing else, until it is told to close.
async fn only_pongs(client: &mut Client) -> Vec<u8> {
    loop {
        let heard = client.hear().await;
        match heard.first {
            PING => client.say_frame(PONG, &heard.payload).await,
            CLOSE => return heard.payload,
            _ => panic!("{heard:?}"),
        }
    }
}

// ---- silence

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_it_and_what_moves_is_not_silent() {
    let mut relay = Relay::with("idle = \"500ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    for _ in 0..2 {
        sleep(ms(300)).await;
        client.say_frame(TEXT, "a").await;
        peer.hears(TEXT, "a").await;
        sleep(ms(300)).await;
        peer.say_frame(TEXT, "b").await;
        client.hears(TEXT, "b").await;
    }
    let began = Instant::now();
    let line = relay.closes((client, peer), 1001, "idle_timeout").await;
    let took = began.elapsed();
    assert!(took >= ms(450) && took < ms(3_000), "{took:?}");
    assert_eq!(line["id"], relay.log.read()[0]["id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn edges_own_pings_do_not_keep_it_open() {
    let mut relay = Relay::with("idle = \"700ms\", ping = \"200ms\"").await;
    let (mut client, _peer) = relay.open().await;
    let told = within(ms(3_000), only_pongs(&mut client)).await;
    assert_eq!(told, why(1001, "idle_timeout"));
    assert!(relay.figure("edge_websocket_ping_seconds_count").await >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_ends_a_busy_one_and_not_before_its_time() {
    let mut relay = Relay::with("lifetime = \"600ms\"").await;
    let began = Instant::now();
    let (mut client, mut peer) = relay.open().await;
    let told = loop {
        client.say_frame(TEXT, "a").await;
        let heard = peer.hear().await;
        if heard.first == CLOSE {
            break heard.payload;
        }
        sleep(ms(50)).await;
    };
    let took = began.elapsed();
    assert_eq!(told, why(1001, "lifetime"));
    assert!(took >= ms(590) && took < ms(3_000), "{took:?}");
    peer.say_frame(CLOSE, why(1001, "")).await;
    drop(peer);
    client.is_told(1001, "lifetime").await;
    assert_eq!(client.end().await, b"");
    relay.ended_with(1001, "edge", "lifetime").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_ends_one_that_never_rests() {
    let mut relay = Relay::with("lifetime = \"500ms\", messages_per_client = \"off\"").await;
    let began = Instant::now();
    let (client, mut peer) = relay.open().await;
    let (_from, mut to) = client.into_stream().into_split();
    let flood = tokio::spawn(async move {
        let many = masked(BINARY, [7; 1_000]).repeat(64);
        while tokio::io::AsyncWriteExt::write_all(&mut to, &many)
            .await
            .is_ok()
        {}
    });
    let told = loop {
        let heard = peer.hear().await;
        if heard.first == CLOSE {
            break heard.payload;
        }
    };
    let took = began.elapsed();
    assert_eq!(told, why(1001, "lifetime"));
    assert!(took >= ms(490) && took < ms(3_000), "{took:?}");
    flood.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lifetime_ends_one_whose_client_says_no_more() {
    let mut relay = Relay::with("lifetime = \"500ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    client.finish().await;
    let news = tokio::spawn(async move {
        loop {
            peer.say_frame(TEXT, "news").await;
            sleep(ms(20)).await;
        }
    });
    let told = within(ms(4_000), async {
        loop {
            let heard = client.hear().await;
            if heard.first == CLOSE {
                return heard.payload;
            }
        }
    });
    assert_eq!(told.await, why(1001, "lifetime"));
    news.abort();
}

// ---- pings

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_pinged_and_its_pong_goes_no_further() {
    let mut relay = Relay::with("ping = \"100ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    for pongs in 1..=3 {
        let ping = client.hear().await;
        assert_eq!((ping.first, ping.payload.len()), (PING, 8), "{ping:?}");
        client.say_frame(PONG, &ping.payload).await;
        relay
            .becomes("edge_websocket_ping_seconds_count", f64::from(pongs))
            .await;
    }
    assert!(relay.figure("edge_websocket_ping_seconds_sum").await < 3.0);
    assert_eq!(
        relay
            .figure("edge_websocket_bytes_total{direction=\"in\"}")
            .await,
        0.0
    );
    client.say_frame(TEXT, "the first that it hears").await;
    peer.hears(TEXT, "the first that it hears").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_sides_own_pings_and_pongs_pass() {
    let mut relay = Relay::with("ping = \"100ms\", pong = \"10s\"").await;
    let (mut client, mut peer) = relay.open().await;
    assert_eq!(client.hear().await.first, PING);
    client.say_frame(PONG, "not what was asked").await;
    peer.hears(PONG, "not what was asked").await;
    client.say_frame(PING, "are you there?").await;
    peer.hears(PING, "are you there?").await;
    peer.say_frame(PONG, "are you there?").await;
    peer.say_frame(PING, "yes, and you?").await;
    let mut heard = Vec::new();
    while heard.len() < 2 {
        let next = client.hear().await;
        // edge's own are eight bytes long.
        heard.extend(Some(next).filter(|next| next.payload.len() != 8));
    }
    assert!(heard[0].is(PONG, "are you there?"), "{heard:?}");
    assert!(heard[1].is(PING, "yes, and you?"), "{heard:?}");
    client.say_frame(PONG, "yes, and you?").await;
    peer.hears(PONG, "yes, and you?").await;
    assert_eq!(relay.figure("edge_websocket_ping_seconds_count").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_answers_no_ping_is_given_up() {
    let mut relay = Relay::with("ping = \"200ms\", pong = \"300ms\"").await;
    let began = Instant::now();
    let (mut client, peer) = relay.open().await;
    assert_eq!(client.hear().await.first, PING);
    let line = relay.closes((client, peer), 1001, "pong_timeout").await;
    let took = began.elapsed();
    assert!(took >= ms(490) && took < ms(3_000), "{took:?}");
    assert_eq!(
        (&line["bytes_in"], &line["messages_in"]),
        (&0.into(), &0.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_says_anything_owes_no_pong() {
    let mut relay = Relay::with("ping = \"200ms\", pong = \"300ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    for _ in 0..4 {
        assert_eq!(client.hear().await.first, PING);
        client.say_frame(TEXT, "no pong").await;
        peer.hears(TEXT, "no pong").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_waits_for_the_end_of_a_frame() {
    let mut relay = Relay::with("ping = \"100ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    let message = frame(BINARY, [7; 1_000]);
    peer.say(&message[..500]).await;
    assert_eq!(client.bytes(500).await.unwrap(), message[..500]);
    sleep(ms(300)).await;
    peer.say([&message[500..], &frame(TEXT, "more")].concat())
        .await;
    assert_eq!(client.bytes(504).await.unwrap(), message[500..]);
    let ping = client.hear().await;
    assert_eq!((ping.first, ping.payload.len()), (PING, 8), "{ping:?}");
    client.hears(TEXT, "more").await;
    client.say_frame(PONG, &ping.payload).await;
    relay
        .becomes("edge_websocket_ping_seconds_count", 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pong_is_taken_out_from_wherever_it_stands() {
    let mut relay = Relay::with("ping = \"100ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    let ping = client.hear().await;
    let frames = [
        masked(FIRST, "a"),
        masked(PONG, &ping.payload),
        masked(LAST, "b"),
    ];
    client.say(frames.concat()).await;
    peer.hears(FIRST, "a").await;
    peer.hears(LAST, "b").await;
    let ping = client.hear().await;
    client.say_frame(FIRST, "c").await;
    drip(&mut client, &masked(PONG, &ping.payload)).await;
    client.say_frame(LAST, "d").await;
    peer.hears(FIRST, "c").await;
    peer.hears(LAST, "d").await;
    relay
        .becomes("edge_websocket_ping_seconds_count", 2.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pong_that_comes_after_the_next_ping_goes_no_further_either() {
    let mut relay = Relay::with("ping = \"100ms\", pong = \"off\"").await;
    let (mut client, mut peer) = relay.open().await;
    let (first, second) = (client.hear().await, client.hear().await);
    client.say_frame(PONG, &first.payload).await;
    client.say_frame(PONG, &second.payload).await;
    client.say_frame(TEXT, "the first that it hears").await;
    peer.hears(TEXT, "the first that it hears").await;
}

// ---- how large, how many

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_may_be_so_large_and_no_larger() {
    let mut relay = Relay::with("frame = \"1KiB\", message = \"4KiB\"").await;
    let (mut client, mut peer) = relay.open().await;
    client.say_frame(BINARY, [1; 1_024]).await;
    peer.hears(BINARY, [1; 1_024]).await;
    client.say_frame(BINARY, [2; 1_025]).await;
    // The upstream hears nothing of it but the Close.
    relay.closes((client, peer), 1009, "frame_too_large").await;
    relay
        .becomes("edge_websocket_messages_total{direction=\"in\"}", 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_too_large_is_refused_by_its_header() {
    let mut relay = Relay::with("").await;
    let (mut client, peer) = relay.open().await;
    let length = (1_u64 << 40).to_be_bytes();
    client
        .send([&[BINARY, 0x80 | 127], &length[..], &[0; 4]].concat())
        .await;
    relay.closes((client, peer), 1009, "frame_too_large").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_be_so_large_and_no_larger() {
    let mut relay = Relay::with("frame = \"1KiB\", message = \"2KiB\"").await;
    let (mut client, mut peer) = relay.open().await;
    for first in [FIRST, LAST] {
        client.say_frame(first, [1; 1_024]).await;
        peer.hears(first, [1; 1_024]).await;
    }
    for first in [FIRST, NEXT] {
        client.say_frame(first, [1; 1_024]).await;
        peer.hears(first, [1; 1_024]).await;
    }
    client.say_frame(LAST, "a").await;
    let line = relay
        .closes((client, peer), 1009, "message_too_large")
        .await;
    assert_eq!(line["messages_in"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_may_send_what_a_client_may_not() {
    let mut relay = Relay::with("frame = \"1KiB\", message = \"2KiB\"").await;
    let (mut client, mut peer) = relay.open().await;
    let long: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[1]).collect();
    for first in [BINARY, FIRST, LAST] {
        let (said, heard) = tokio::join!(peer.say_frame(first, &long), client.hear());
        assert_eq!(said, ());
        assert!(heard.is(first, &long));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_messages_are_counted_over_all_its_websockets() {
    let mut relay = Relay::with("messages_per_client = \"1/h\"").await;
    let (mut first, mut first_peer) = relay.open().await;
    let (mut second, mut second_peer) = relay.open().await;
    let (mut other, mut other_peer) = relay.open_from("127.0.0.2").await;
    first.say_frame(TEXT, "one").await;
    first_peer.hears(TEXT, "one").await;
    second.say_frame(TEXT, "two").await;
    second_peer.is_told(1008, "message_limit").await;
    drop(second_peer);
    second.is_told(1008, "message_limit").await;
    assert_eq!(second.end().await, b"");
    other.say_frame(TEXT, "one").await;
    other_peer.hears(TEXT, "one").await;
    // What it hears costs nothing, and the first one stays open as long as it is silent.
    for _ in 0..10 {
        first_peer.say_frame(TEXT, "news").await;
        first.hears(TEXT, "news").await;
    }
    first.say_frame(TEXT, "three").await;
    first_peer.is_told(1008, "message_limit").await;
    drop(first_peer);
    first.is_told(1008, "message_limit").await;
    assert_eq!(first.end().await, b"");
    let closed = "edge_websockets_closed_total{by=\"edge\",code=\"1008\"}";
    relay.becomes(closed, 2.0).await;
    relay.becomes("edge_websockets", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_counts_as_a_message_and_a_fragment_does_not() {
    let mut relay = Relay::with("messages_per_client = \"2/2s\", ping = \"off\"").await;
    let (mut client, mut peer) = relay.open().await;
    for (first, payload) in [(FIRST, "a"), (NEXT, "c"), (LAST, "e")] {
        client.say_frame(first, payload).await;
        peer.hears(first, payload).await;
    }
    client.say_frame(PING, "f").await;
    let line = relay.closes((client, peer), 1008, "message_limit").await;
    assert_eq!(line["messages_in"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_flood_a_seconds_worth_passes() {
    let mut relay = Relay::with("messages_per_client = \"50/s\"").await;
    let (mut client, mut peer) = relay.open().await;
    client.send(masked(TEXT, "x").repeat(1_000)).await;
    for _ in 0..50 {
        peer.hears(TEXT, "x").await;
    }
    let mut more = 0;
    while peer.hear().await.first == TEXT {
        more += 1;
    }
    assert!(more < 500, "{more}");
    drop(peer);
    client.is_told(1008, "message_limit").await;
    drop(client);
    let line = relay.ended_with(1008, "edge", "message_limit").await;
    assert_eq!(line["messages_in"], 50 + more);
}

// ---- places

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_so_many_places_and_gets_them_back() {
    let mut relay = Relay::with("per_client = 2").await;
    let (mut first, mut first_peer) = relay.open().await;
    let _second = relay.open().await;
    let mut client = relay.client().await;
    for _ in 0..3 {
        let refused = handshake(&mut client, &[]).await;
        assert_eq!(refused.refusal(), no(429, "websocket_client_limit"));
        assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    }
    assert_eq!(relay.host.upstream.count(), 2, "the upstream was asked");
    let refused = "edge_websockets_refused_total{reason=\"websocket_client_limit\"}";
    relay.becomes(refused, 3.0).await;
    let _other = relay.open_from("127.0.0.2").await;
    first.say_frame(CLOSE, why(1000, "")).await;
    first_peer.is_told(1000, "").await;
    drop(first_peer);
    first.hears(CLOSE, why(1000, "")).await;
    assert_eq!(first.end().await, b"");
    relay.becomes("edge_websockets", 2.0).await;
    assert_eq!(handshake(&mut client, &[]).await.status, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_have_so_many_places_together() {
    let mut relay = Relay::with("global = 2").await;
    let first = relay.open().await;
    let _second = relay.open_from("127.0.0.2").await;
    let mut client = Client::from("127.0.0.3", relay.edge.address()).await;
    let refused = handshake(&mut client, &[]).await;
    assert_eq!(refused.refusal(), no(503, "websocket_global_limit"));
    assert!(refused.header("retry-after").is_some(), "{}", refused.head);
    assert_eq!(relay.host.upstream.count(), 2, "the upstream was asked");
    let counted = "edge_websockets_refused_total{reason=\"websocket_global_limit\"}";
    relay.becomes(counted, 1.0).await;
    drop(first);
    relay.becomes("edge_websockets", 1.0).await;
    assert_eq!(handshake(&mut client, &[]).await.status, 101);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_keeps_no_place() {
    let refusing = Upstream::saying("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").await;
    for (peer, status) in [(refusing.address, 403), (nobody().await, 502)] {
        let keys = "websocket = { per_client = 1, global = 1 }";
        let edge = edge(&route_to(peer, keys)).await;
        let mut client = Client::connect(edge.address()).await;
        for _ in 0..3 {
            assert_eq!(handshake(&mut client, &[]).await.status, status);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_share_the_files_places_unless_they_have_their_own() {
    let mut host = Host::answering("").await;
    let tables = format!(
        "[websocket]\nper_client = 1\n{}{}{}{}",
        upstream_at(&[host.upstream.address]),
        "[[route]]\npath = \"/a\"\nupstream = \"u\"\nwebsocket = true\n",
        "[[route]]\npath = \"/b\"\nupstream = \"u\"\nwebsocket = true\n",
        "[[route]]\npath = \"/c\"\nupstream = \"u\"\nwebsocket = { per_client = 1 }\n",
    );
    let edge = edge(&tables).await;
    let mut open = Vec::new();
    for (path, status) in [("/a", 101), ("/b", 429), ("/c", 101), ("/c", 429)] {
        let mut client = Client::connect(edge.address()).await;
        let answer = client.ask(&format!("GET {path}"), &HANDSHAKE).await;
        assert_eq!(answer.status, status, "{path}");
        if status == 101 {
            open.push((client, host.peer().await));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_during_its_handshake_keeps_no_place() {
    let silent = Upstream::serve(|mut visit| async move {
        visit.head().await;
        std::future::pending::<()>().await;
    })
    .await;
    let keys = "websocket = { per_client = 1 }\ntimeout = \"500ms\"";
    let edge = edge(&route_to(silent.address, keys)).await;
    let mut gone = Client::connect(edge.address()).await;
    gone.send(request("GET /ws", &HANDSHAKE)).await;
    until(|| async { silent.count() == 1 }).await;
    drop(gone);
    until(|| async {
        let mut client = Client::connect(edge.address()).await;
        handshake(&mut client, &[]).await.status == 504
    })
    .await;
}

// ---- who may, and what is agreed on

#[tokio::test(flavor = "multi_thread")]
async fn another_sites_page_is_refused_and_its_own_and_programs_pass() {
    let mut relay = Relay::with("origins = [\"same\", \"https://*.example\"]").await;
    let mut client = relay.client().await;
    let evil = [
        "https://evil.test",
        "https://example",
        "null",
        "http://edge.test.evil",
    ];
    for evil in evil {
        let refused = handshake(&mut client, &[&format!("Origin: {evil}")]).await;
        assert_eq!(refused.refusal(), no(403, "origin_not_allowed"), "{evil}");
    }
    assert_eq!(relay.host.upstream.count(), 0);
    let refused = "edge_websockets_refused_total{reason=\"origin_not_allowed\"}";
    relay.becomes(refused, 4.0).await;
    for fields in [
        &["Origin: http://edge.test"][..],
        &["Origin: https://edge.test"],
        &["Origin: https://app.example"],
        &[],
    ] {
        let client = relay.client().await;
        relay.open_on(client, fields).await;
    }
    let passed = relay.host.upstream.heads().concat();
    assert!(passed.contains("https://app.example"), "{passed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_origin_may_be_said_in_one_word() {
    let mut relay = Relay::with("origins = \"same\"").await;
    let mut client = relay.client().await;
    let other = handshake(&mut client, &["Origin: https://edge.test:8443"]).await;
    assert_eq!(other.refusal(), no(403, "origin_not_allowed"));
    let own = ["Host: edge.test:8443", "Origin: https://edge.test:8443"];
    relay.open_on(client, &own).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_subprotocols_that_may_be_spoken_are_offered() {
    let keys = "subprotocols = [\"chat\", \"v2.*\"]";
    let mut relay = Relay::made("", keys, "Sec-WebSocket-Protocol: v2.b\r\n").await;
    let mut client = relay.client().await;
    for offer in [&["Sec-WebSocket-Protocol: mqtt, chatter"][..], &[]] {
        let refused = handshake(&mut client, offer).await;
        assert_eq!(refused.refusal(), no(400, "subprotocol_not_allowed"));
    }
    assert_eq!(relay.host.upstream.count(), 0);
    let refused = "edge_websockets_refused_total{reason=\"subprotocol_not_allowed\"}";
    relay.becomes(refused, 2.0).await;
    let offer = "Sec-WebSocket-Protocol: mqtt, chat, v2.b";
    let answer = handshake(&mut client, &[offer]).await;
    assert_eq!(
        (answer.status, answer.header("sec-websocket-protocol")),
        (101, Some("v2.b"))
    );
    let head = &relay.host.upstream.heads()[0];
    assert_eq!(
        crate::support::fields(head, "sec-websocket-protocol"),
        ["chat, v2.b"]
    );
    relay.host.peer().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_takes_what_was_not_offered_is_502() {
    for (accepts, offer) in [
        (
            "Sec-WebSocket-Protocol: mqtt\r\n",
            "Sec-WebSocket-Protocol: chat, mqtt",
        ),
        (
            "Sec-WebSocket-Protocol: chat, chat\r\n",
            "Sec-WebSocket-Protocol: chat",
        ),
        (
            "Sec-WebSocket-Protocol: other\r\n",
            "Sec-WebSocket-Protocol: chat",
        ),
        (
            "Sec-WebSocket-Extensions: x-own\r\n",
            "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: x-own",
        ),
        (
            "Sec-WebSocket-Extensions: permessage-deflate\r\n",
            "Sec-WebSocket-Protocol: chat",
        ),
    ] {
        let relay = Relay::made("", "subprotocols = [\"chat\"]", accepts).await;
        let mut client = relay.client().await;
        let answer = handshake(&mut client, &[offer]).await;
        assert_eq!(answer.refusal(), no(502, "upstream_invalid"), "{accepts}");
        let refused = "edge_websockets_refused_total{reason=\"upstream_invalid\"}";
        relay.becomes(refused, 1.0).await;
        assert_eq!(relay.figure("edge_websockets").await, 0.0);
    }
}

/// RSV1: the message is compressed.
const DEFLATED: u8 = 0x40;

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_pass_where_both_agreed() {
    let accepts = "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover\r\n";
    let mut relay = Relay::made("", "", accepts).await;
    let client = relay.client().await;
    let offer = "Sec-WebSocket-Extensions: x-webkit-deflate-frame, permessage-deflate; client_max_window_bits";
    let (mut client, mut peer) = relay.open_on(client, &[offer]).await;
    let head = &relay.host.upstream.heads()[0];
    assert_eq!(
        crate::support::fields(head, "sec-websocket-extensions"),
        ["permessage-deflate; client_max_window_bits"]
    );
    for first in [TEXT | DEFLATED, TEXT, FIRST | DEFLATED, NEXT, LAST] {
        client.say_frame(first, "as it comes").await;
        peer.hears(first, "as it comes").await;
        peer.say_frame(first, "as it comes").await;
        client.hears(first, "as it comes").await;
    }
    client.say_frame(FIRST | DEFLATED, "a").await;
    peer.hears(FIRST | DEFLATED, "a").await;
    client
        .say_frame(LAST | DEFLATED, "only the first frame says so")
        .await;
    relay.closes((client, peer), 1002, "protocol_error").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_messages_are_faults_where_nobody_agreed() {
    let offer = "Sec-WebSocket-Extensions: permessage-deflate";
    let mut relay = Relay::with("").await;
    let client = relay.client().await;
    let (mut client, peer) = relay.open_on(client, &[offer]).await;
    client.say_frame(TEXT | DEFLATED, "a").await;
    relay.closes((client, peer), 1002, "protocol_error").await;

    let mut relay = Relay::with("").await;
    let client = relay.client().await;
    let (client, mut peer) = relay.open_on(client, &[offer]).await;
    peer.say_frame(TEXT | DEFLATED, "a").await;
    relay.closes((client, peer), 1002, "upstream_invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_that_edge_cannot_read_are_not_offered() {
    let mut relay = Relay::with("").await;
    let client = relay.client().await;
    relay
        .open_on(
            client,
            &["Sec-WebSocket-Extensions: permessage-bzip2, x-own; a=b"],
        )
        .await;
    let head = &relay.host.upstream.heads()[0];
    let offered = crate::support::fields(head, "sec-websocket-extensions");
    assert!(offered.is_empty(), "{head}");
}

// ---- what RFC 6455 forbids

/// What no sender may send, whoever it is; with `make` its frames are made.
fn forbidden(make: fn(u8, &'static [u8]) -> Vec<u8>) -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("RSV1", make(TEXT | 0x40, b"a")),
        ("RSV2", make(TEXT | 0x20, b"a")),
        ("RSV3", make(TEXT | 0x10, b"a")),
        ("RSV1 of a ping", make(PING | 0x40, b"a")),
        ("a fragmented ping", make(0x09, b"a")),
        ("a fragmented close", make(0x08, &[3, 232])),
        ("a ping too long", make(PING, &[7; 126])),
        ("opcode 3", make(0x83, b"a")),
        ("opcode 11", make(0x8b, b"a")),
        ("a stray continuation", make(LAST, b"a")),
        (
            "a message within one",
            [make(FIRST, b"a"), make(TEXT, b"b")].concat(),
        ),
        ("a close of one byte", make(CLOSE, &[3])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_not_send_ends_it() {
    let mut forbidden = forbidden(masked);
    forbidden.push(("an unmasked frame", frame(TEXT, "a")));
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2_999, 5_000] {
        let close = masked(CLOSE, why(code, ""));
        forbidden.push(("a close with a code that nobody may say", close));
    }
    forbidden.push(("no frames", b"GET / HTTP/1.1\r\n\r\n".to_vec()));
    for (what, bytes) in forbidden {
        println!("{what}");
        let mut relay = Relay::with("").await;
        let (mut client, mut peer) = relay.open().await;
        client.send([masked(TEXT, "before"), bytes].concat()).await;
        peer.hears(TEXT, "before").await;
        if what == "a message within one" {
            peer.hears(FIRST, "a").await;
        }
        peer.hears(CLOSE, why(1002, "protocol_error")).await;
        // What was asked in time is still answered.
        peer.say_frame(TEXT, "answer").await;
        peer.say_frame(CLOSE, why(1002, "")).await;
        drop(peer);
        client.hears(TEXT, "answer").await;
        client.is_told(1002, "protocol_error").await;
        assert_eq!(client.end().await, b"");
        relay.ended_with(1002, "edge", "protocol_error").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_may_not_send_ends_it() {
    for (what, bytes) in forbidden(frame) {
        println!("{what}");
        let mut relay = Relay::with("").await;
        let (mut client, mut peer) = relay.open().await;
        peer.say([frame(TEXT, "before"), bytes].concat()).await;
        client.hears(TEXT, "before").await;
        if what == "a message within one" {
            client.hears(FIRST, "a").await;
        }
        relay.closes((client, peer), 1002, "upstream_invalid").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_upstream_masks_passes_as_it_is() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    let said = [masked(TEXT, "a"), masked(CLOSE, why(3001, "b"))].concat();
    peer.say(&said).await;
    assert_eq!(client.bytes(said.len()).await.unwrap(), said);
    client.say_frame(CLOSE, why(3001, "")).await;
    drop(peer);
    assert_eq!(client.end().await, b"");
    let line = relay.ended_with(3001, "upstream", "closed").await;
    assert_eq!(line["messages_out"], 1);
}

// ---- an upstream that dies

/// Fifty WebSockets, half of them in use, whose upstreams go all at once.
async fn fifty_lose_their_upstream(go: fn(Visit)) {
    let mut relay = Relay::with("per_client = \"off\", messages_per_client = \"off\"").await;
    let (mut clients, mut peers) = (Vec::new(), Vec::new());
    for _ in 0..50 {
        let (client, peer) = relay.open().await;
        clients.push(client);
        peers.push(peer);
    }
    relay.becomes("edge_websockets", 50.0).await;
    for client in clients.iter_mut().step_by(2) {
        client.say_frame(BINARY, [7; 5_000]).await;
    }
    peers.into_iter().for_each(go);
    for client in &mut clients {
        within(ms(3_000), client.is_told(1011, "upstream_closed")).await;
    }
    for client in clients {
        assert_eq!(client.end().await, b"");
    }
    relay.becomes("edge_websockets", 0.0).await;
    let closed = "edge_websockets_closed_total{by=\"upstream\",code=\"1011\"}";
    relay.becomes(closed, 50.0).await;
    let lines = relay.log.ended(50).await;
    let told: HashSet<_> = lines
        .iter()
        .map(|line| format!("{} {} {}", line["code"], line["by"], line["reason"]))
        .collect();
    let expected = r#"1011 "upstream" "upstream_closed""#.to_owned();
    assert_eq!(told, HashSet::from([expected]));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_upstream_that_goes_every_client_is_told() {
    fifty_lose_their_upstream(drop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_an_upstream_that_is_killed_every_client_is_told() {
    fifty_lose_their_upstream(|peer| peer.stream.set_zero_linger().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_even_while_it_sends_and_what_came_before_arrives() {
    let mut relay = Relay::with("messages_per_client = \"off\"").await;
    for _ in 0..20 {
        let (client, mut peer) = relay.open().await;
        let (mut from, mut to) = client.into_stream().into_split();
        let sending = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let message = masked(BINARY, [7; 5_000]);
            while to.write_all(&message).await.is_ok() {}
        });
        peer.hears(BINARY, [7; 5_000]).await;
        peer.say_frame(TEXT, "last words").await;
        peer.stream.set_zero_linger().unwrap();
        drop(peer);
        let mut heard = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut from, &mut heard);
        // That it goes on sending after the Close may well be answered with a reset.
        let _ = soon(reading).await;
        let close = frame(CLOSE, why(1011, "upstream_closed"));
        assert!(
            heard.ends_with(&close),
            "{:?}",
            String::from_utf8_lossy(&heard)
        );
        sending.abort();
    }
}

// ---- closing

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_close_passes_as_it_is() {
    for (payload, code) in [
        (why(4001, "done"), 4001),
        (why(1000, ""), 1000),
        (why(3999, "grüße"), 3999),
        (Vec::new(), 1005),
    ] {
        let mut relay = Relay::with("").await;
        let (mut client, mut peer) = relay.open().await;
        client.say_frame(CLOSE, &payload).await;
        peer.hears(CLOSE, &payload).await;
        peer.say_frame(CLOSE, why(3000, "bye")).await;
        drop(peer);
        client.hears(CLOSE, why(3000, "bye")).await;
        assert_eq!(client.end().await, b"");
        relay.ended_with(code, "client", "closed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstreams_close_passes_as_it_is() {
    for (payload, code) in [
        (why(3000, "moved away"), 3000),
        (why(1012, ""), 1012),
        (Vec::new(), 1005),
    ] {
        let mut relay = Relay::with("").await;
        let (mut client, mut peer) = relay.open().await;
        peer.say_frame(CLOSE, &payload).await;
        client.hears(CLOSE, &payload).await;
        client.say_frame(CLOSE, why(4001, "so be it")).await;
        peer.hears(CLOSE, why(4001, "so be it")).await;
        drop(peer);
        assert_eq!(client.end().await, b"");
        relay.ended_with(code, "upstream", "closed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_passes_after_a_close() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    let close = masked(CLOSE, why(1000, ""));
    client.send([close, masked(TEXT, "and yet")].concat()).await;
    client.say_frame(TEXT, "once more").await;
    peer.hears(CLOSE, why(1000, "")).await;
    peer.hears_nothing().await;
    let close = frame(CLOSE, why(1000, ""));
    peer.say([close, frame(TEXT, "and yet")].concat()).await;
    peer.say_frame(TEXT, "once more").await;
    client.hears(CLOSE, why(1000, "")).await;
    assert_eq!(client.end().await, b"");
    assert_eq!(peer.next_frame().await, None);
    drop(peer);
    let line = relay.ended_with(1000, "client", "closed").await;
    assert_eq!(
        (&line["messages_in"], &line["messages_out"]),
        (&0.into(), &0.into())
    );
    assert_eq!(
        (&line["bytes_in"], &line["bytes_out"]),
        (&8.into(), &4.into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn closes_that_cross_both_arrive() {
    for _ in 0..20 {
        let mut relay = Relay::with("").await;
        let (mut client, mut peer) = relay.open().await;
        let (said, too) = (why(4001, "mine"), why(3000, "yours"));
        tokio::join!(client.say_frame(CLOSE, &said), peer.say_frame(CLOSE, &too));
        tokio::join!(client.hears(CLOSE, &too), peer.hears(CLOSE, &said));
        drop(peer);
        assert_eq!(client.end().await, b"");
        assert_eq!(relay.log.ended(1).await[0]["reason"], "closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_that_the_upstream_only_hangs_up_on_is_answered_by_edge() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    client.say_frame(CLOSE, why(4001, "done")).await;
    peer.hears(CLOSE, why(4001, "done")).await;
    drop(peer);
    client.hears(CLOSE, why(4001, "")).await;
    assert_eq!(client.end().await, b"");
    relay.ended_with(4001, "client", "closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_is_recorded_and_the_upstream_learns_of_it() {
    for reset in [false, true] {
        let mut relay = Relay::with("").await;
        let (mut client, mut peer) = relay.open().await;
        client.say_frame(TEXT, "hello").await;
        peer.hears(TEXT, "hello").await;
        let stream = client.into_stream();
        if reset {
            stream.set_zero_linger().unwrap();
        }
        drop(stream);
        assert_eq!(within(ms(3_000), peer.next_frame()).await, None);
        drop(peer);
        relay.ended_with(1006, "client", "client_closed").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_talks_on_after_the_upstreams_close_is_let_go() {
    let mut relay = Relay::with("messages_per_client = \"off\"").await;
    let (mut client, mut peer) = relay.open().await;
    peer.say_frame(CLOSE, why(1008, "enough")).await;
    client.hears(CLOSE, why(1008, "enough")).await;
    let talking = async {
        loop {
            client.say_frame(TEXT, "still here").await;
            sleep(ms(100)).await;
        }
    };
    tokio::select! {
        () = talking => {}
        line = within(ms(9_000), relay.ended_with(1008, "upstream", "closed")) => drop(line),
    }
    drop(peer);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_brings_nothing_counts_like_a_message() {
    for nothing in [masked(NEXT, ""), masked(PONG, "nobody asked")] {
        let mut relay = Relay::with("messages_per_client = \"3/s\"").await;
        let (mut client, mut peer) = relay.open().await;
        client.say_frame(FIRST, "a").await;
        client.say(nothing.repeat(20)).await;
        let mut heard = 0;
        while peer.hear().await.first != CLOSE {
            heard += 1;
        }
        assert!((3..20).contains(&heard), "{heard}");
        peer.say_frame(CLOSE, why(1008, "")).await;
        client.is_told(1008, "message_limit").await;
        drop(peer);
        assert_eq!(client.end().await, b"");
        relay.ended_with(1008, "edge", "message_limit").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_hides_nothing_of_a_handshake() {
    let keys = "subprotocols = \"chat\"";
    let accepts = "Sec-WebSocket-Protocol: chat\r\nContent-Length: 5\r\n";
    let mut relay = Relay::made("", keys, accepts).await;
    let mut client = relay.client().await;
    let hiding = [
        "Connection: Sec-WebSocket-Protocol, Origin",
        "Sec-WebSocket-Protocol: chat",
        "Origin: https://a.example",
    ];
    let answer = handshake(&mut client, &hiding).await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (101, None)
    );
    let head = &relay.host.upstream.heads()[0];
    for (name, value) in [
        ("sec-websocket-protocol", "chat"),
        ("origin", "https://a.example"),
    ] {
        assert_eq!(crate::support::fields(head, name), [value]);
    }
    drop(relay.host.peer().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_never_answers_a_close_does_not_hold_the_client() {
    let mut relay = Relay::with("lifetime = \"200ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    peer.hears(CLOSE, why(1001, "lifetime")).await;
    // It goes on for a while, and is heard.
    let began = Instant::now();
    let mut words = 0;
    loop {
        peer.say_frame(TEXT, "talk").await;
        let heard = client.hear().await;
        if heard.first == CLOSE {
            assert_eq!(heard.payload, why(1001, "lifetime"));
            break;
        }
        words += 1;
        sleep(ms(20)).await;
    }
    let took = began.elapsed();
    assert!(words > 10, "{words}");
    assert!(took >= ms(900) && took < ms(3_000), "{took:?}");
    client.say_frame(CLOSE, why(1001, "")).await;
    assert_eq!(within(ms(3_000), client.end()).await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_waits_for_the_end_of_an_upstreams_frame() {
    let mut relay = Relay::with("lifetime = \"200ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    let message = frame(BINARY, [7; 1_000]);
    peer.say(&message[..500]).await;
    assert_eq!(client.bytes(500).await.unwrap(), message[..500]);
    peer.hears(CLOSE, why(1001, "lifetime")).await;
    // Longer than the client is kept waiting where nothing is in the way.
    sleep(ms(1_300)).await;
    peer.say(&message[500..]).await;
    peer.say_frame(TEXT, "too late").await;
    assert_eq!(client.bytes(504).await.unwrap(), message[500..]);
    client.is_told(1001, "lifetime").await;
    assert_eq!(client.end().await, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_close_waits_for_the_end_of_a_clients_frame() {
    let mut relay = Relay::with("lifetime = \"300ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    let message = masked(BINARY, [7; 1_000]);
    client.say(&message[..500]).await;
    assert_eq!(peer.bytes(500).await.unwrap(), message[..500]);
    sleep(ms(500)).await;
    client.say(&message[500..]).await;
    assert_eq!(peer.bytes(508).await.unwrap(), message[500..]);
    relay.closes((client, peer), 1001, "lifetime").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_ends_its_frame_is_told_all_the_same() {
    let mut relay = Relay::with("lifetime = \"200ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    client.say(&masked(BINARY, [7; 1_000])[..500]).await;
    client.hears(CLOSE, why(1001, "lifetime")).await;
    drop(client);
    peer.bytes(500).await.unwrap();
    assert_eq!(
        peer.next_frame().await,
        None,
        "no Close stands within a frame"
    );
    drop(peer);
    relay.ended_with(1001, "edge", "lifetime").await;
}

// ---- what is counted

#[tokio::test(flavor = "multi_thread")]
async fn what_has_passed_is_counted_while_it_is_open_and_told_at_the_end() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    relay.becomes("edge_websockets", 1.0).await;
    relay.becomes("edge_websockets_opened_total", 1.0).await;
    let (mut bytes_in, mut bytes_out) = (0, 0);
    for (first, payload) in [
        (TEXT, &b"hello"[..]),
        (FIRST, &[7; 300]),
        (PING, b""),
        (LAST, b""),
    ] {
        client.say_frame(first, payload).await;
        peer.hears(first, payload).await;
        bytes_in += masked(first, payload).len();
    }
    for (first, payload) in [
        (BINARY, &[7; 70_000][..]),
        (PONG, b""),
        (TEXT, b"a"),
        (TEXT, b""),
    ] {
        peer.say_frame(first, payload).await;
        client.hears(first, payload).await;
        bytes_out += frame(first, payload).len();
    }
    let messages = |way| format!("edge_websocket_messages_total{{direction=\"{way}\"}}");
    let bytes = |way| format!("edge_websocket_bytes_total{{direction=\"{way}\"}}");
    relay.becomes(&messages("in"), 2.0).await;
    relay.becomes(&messages("out"), 3.0).await;
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    for (way, count) in [("in", bytes_in as f64), ("out", bytes_out as f64)] {
        relay.becomes(&bytes(way), count).await;
    }
    assert_eq!(
        relay.figure("edge_websocket_lifetime_seconds_count").await,
        0.0
    );
    client.say_frame(CLOSE, why(1000, "")).await;
    peer.is_told(1000, "").await;
    drop(peer);
    client.hears(CLOSE, why(1000, "")).await;
    drop(client);
    let line = relay.ended_with(1000, "client", "closed").await;
    assert_eq!(
        (&line["messages_in"], &line["messages_out"]),
        (&2.into(), &3.into())
    );
    let moved = (&line["bytes_in"], &line["bytes_out"]);
    assert_eq!(moved, (&(bytes_in + 8).into(), &(bytes_out + 4).into()));
    assert_eq!(
        (&line["status"], &line["path"]),
        (&101.into(), &"/ws".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_pass_any_more_is_not_counted() {
    let mut relay = Relay::with("lifetime = \"200ms\"").await;
    let (mut client, mut peer) = relay.open().await;
    peer.hears(CLOSE, why(1001, "lifetime")).await;
    for _ in 0..5 {
        client.say_frame(TEXT, "too late").await;
    }
    peer.hears_nothing().await;
    peer.say_frame(CLOSE, why(1001, "")).await;
    drop(peer);
    client.is_told(1001, "lifetime").await;
    assert_eq!(client.end().await, b"");
    let line = relay.ended_with(1001, "edge", "lifetime").await;
    assert_eq!(
        (&line["messages_in"], &line["bytes_in"]),
        (&0.into(), &0.into())
    );
}

// ---- piece by piece

/// A stream of frames of all forms, control frames between those of a message.
fn all_forms(make: fn(u8, &[u8]) -> Vec<u8>) -> Vec<u8> {
    [
        make(TEXT, b"hello"),
        make(TEXT, b""),
        make(FIRST, b"one, "),
        make(PING, b"ping"),
        make(NEXT, b""),
        make(PONG, &[7; 125]),
        make(NEXT, &[3; 126]),
        make(PING, b""),
        make(LAST, b"three"),
        make(BINARY, &[9; 300]),
    ]
    .concat()
}

/// Writes it one byte at a time.
async fn drip(to: &mut impl End, bytes: &[u8]) {
    for byte in bytes {
        to.say([*byte]).await;
        sleep(ms(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_come_byte_by_byte_pass_unchanged() {
    let mut relay = Relay::with("messages_per_client = \"off\"").await;
    let (mut client, mut peer) = relay.open().await;
    let inward = all_forms(|first, payload| masked(first, payload));
    let outward = all_forms(|first, payload| frame(first, payload));
    drip(&mut client, &inward).await;
    assert_eq!(peer.bytes(inward.len()).await.unwrap(), inward);
    drip(&mut peer, &outward).await;
    assert_eq!(client.bytes(outward.len()).await.unwrap(), outward);
    relay
        .becomes("edge_websocket_messages_total{direction=\"in\"}", 4.0)
        .await;
    relay
        .becomes("edge_websocket_messages_total{direction=\"out\"}", 4.0)
        .await;
    client.say_frame(CLOSE, why(1000, "")).await;
    peer.is_told(1000, "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_torn_anywhere_pass_unchanged() {
    let mut relay = Relay::with("messages_per_client = \"off\"").await;
    let (mut client, mut peer) = relay.open().await;
    let inward = all_forms(|first, payload| masked(first, payload));
    let outward = all_forms(|first, payload| frame(first, payload));
    for at in 1..inward.len() {
        client.say(&inward[..at]).await;
        sleep(ms(1)).await;
        client.say(&inward[at..]).await;
        assert!(peer.bytes(inward.len()).await.unwrap() == inward, "at {at}");
    }
    for at in 1..outward.len() {
        peer.say(&outward[..at]).await;
        sleep(ms(1)).await;
        peer.say(&outward[at..]).await;
        assert!(
            client.bytes(outward.len()).await.unwrap() == outward,
            "at {at}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_among_a_stream_in_pieces_change_nothing_of_it() {
    let mut relay = Relay::with("ping = \"2ms\", pong = \"10s\"").await;
    let (mut client, mut peer) = relay.open().await;
    let one = all_forms(|first, payload| frame(first, payload));
    let all = one.repeat(40);
    let expected = all.clone();
    tokio::spawn(async move {
        for (number, piece) in all.chunks(97).enumerate() {
            peer.say(piece).await;
            if number % 2 == 0 {
                sleep(ms(3)).await;
            }
        }
        while peer.next_frame().await.is_some() {}
    });
    let (mut heard, mut pings) = (Vec::new(), 0);
    while heard.len() < expected.len() {
        let next = client.hear().await;
        if next.first == PING && next.payload.len() == 8 {
            client.say_frame(PONG, &next.payload).await;
            pings += 1;
        } else {
            heard.extend(next.raw);
        }
    }
    assert!(heard == expected);
    assert!(pings > 3, "{pings}");
}

// ---- who does not read

/// Frames that say which they are.
fn numbered(number: u32) -> Vec<u8> {
    number.to_be_bytes().repeat(16 << 10)
}

/// So many of them, 64 KiB each: more than all the kernel's buffers on the way hold.
const MANY: u32 = 800;

/// How many were sent.
#[derive(Default)]
struct Sent(AtomicU32);

impl Sent {
    /// Sends them all.
    async fn all(&self, from: &mut impl End) {
        for number in 0..MANY {
            from.say_frame(BINARY, numbered(number)).await;
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were sent when no more were taken.
    async fn when_stuck(&self) -> u32 {
        let mut last = u32::MAX;
        loop {
            let now = self.0.load(Ordering::Relaxed);
            if now == last {
                return now;
            }
            last = now;
            sleep(ms(400)).await;
        }
    }
}

/// Waits until no more is taken, and then for a while, and then reads it all.
async fn read_late(to: &mut impl End, sent: &Sent) {
    let stuck = sent.when_stuck().await;
    assert!(stuck > 0 && stuck < MANY, "{stuck}");
    sleep(ms(1_000)).await;
    assert_eq!(sent.0.load(Ordering::Relaxed), stuck);
    for number in 0..MANY {
        to.hears(BINARY, numbered(number)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_holds_back_the_upstream_and_loses_nothing() {
    let mut relay = Relay::with("").await;
    let (mut client, mut peer) = relay.open().await;
    let sent = Sent::default();
    tokio::join!(sent.all(&mut peer), read_late(&mut client, &sent));
    drop(peer);
    client.is_told(1011, "upstream_closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_is_not_given_up() {
    let mut relay = Relay::with("ping = \"200ms\", pong = \"2s\"").await;
    // What the kernel holds for the client nobody sees, so that it is little.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(128 << 10).unwrap();
    let stream = socket.connect(relay.edge.address()).await.unwrap();
    let (mut client, mut peer) = relay.open_on(Client::on(stream), &[]).await;
    let said = tokio::spawn(async move {
        for number in 0..400 {
            peer.say_frame(BINARY, numbered(number)).await;
        }
        peer
    });
    for number in 0..400 {
        sleep(ms(9)).await;
        while let heard = client.hear().await
            && !heard.is(BINARY, numbered(number))
        {
            let what = String::from_utf8_lossy(&heard.payload);
            assert_eq!(heard.first, PING, "{what}");
            client.say_frame(PONG, &heard.payload).await;
        }
    }
    drop(said.await.unwrap());
    assert_eq!(only_pongs(&mut client).await, why(1011, "upstream_closed"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_does_not_read_holds_back_the_client_and_nobody_is_given_up() {
    let keys = "messages_per_client = \"off\", ping = \"200ms\", pong = \"500ms\"";
    let mut relay = Relay::with(keys).await;
    let (mut client, mut peer) = relay.open().await;
    let sent = Sent::default();
    let sending = async {
        sent.all(&mut client).await;
        only_pongs(&mut client).await
    };
    let reading = async {
        read_late(&mut peer, &sent).await;
        peer.say_frame(CLOSE, why(1000, "")).await;
    };
    assert_eq!(tokio::join!(sending, reading).0, why(1000, ""));
}
