//! `echo-server` as an operator meets it: flags, exit codes, signals, the log.

use crate::fixture::{HANDSHAKE, frame};
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
};

/// A child that does not outlive its test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn server(arguments: &[&str]) -> Server {
    let child = Command::new(env!("CARGO_BIN_EXE_echo-server"))
        .args(arguments)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Server(child)
}

/// The next line of the log, each time it is called.
fn events(server: &mut Server) -> impl FnMut() -> serde_json::Value + use<> {
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    move || serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
}

#[test]
fn a_taken_port_ends_the_process_with_a_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut server = server(&["--listen", &address]);
    assert!(!server.0.wait().unwrap().success());
    let mut said = String::new();
    let mut stderr = server.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let wanted = format!("echo-server: cannot listen on {address}: ");
    assert!(said.starts_with(&wanted), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn either_signal_drains_and_ends_with_zero() {
    for signal in ["-TERM", "-INT"] {
        let mut server = server(&["--listen", "127.0.0.1:0"]);
        let mut event = events(&mut server);
        let listening = event();
        assert_eq!(listening["message"], "listening");
        assert!(listening["address"].as_str().unwrap().starts_with("127."));
        let pid = server.0.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
        assert_eq!(event()["message"], "draining");
        assert_eq!(event()["message"], "stopped");
        assert_eq!(server.0.wait().unwrap().code(), Some(0));
    }
}

#[test]
fn a_wrong_flag_is_told_what_would_be_right() {
    let mut server = server(&["--idle", "5"]);
    assert_eq!(server.0.wait().unwrap().code(), Some(2));
    let mut said = String::new();
    let mut stderr = server.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("write 250ms, 3s, 10m or 1h"), "{said}");
}

#[test]
fn the_log_tells_who_came_and_how_it_ended() {
    let mut server = server(&["--listen", "127.0.0.1:0"]);
    let mut event = events(&mut server);
    let address = event()["address"].as_str().unwrap().to_owned();

    let mut stream = TcpStream::connect(address).unwrap();
    let handshake = String::from_utf8(HANDSHAKE.to_vec()).unwrap().replace(
        "Host: echo\r\n",
        "Host: echo\r\nX-Forwarded-For: 192.0.2.7\r\nX-Request-Id: abc\r\n",
    );
    let messages = [frame(0x81, b"hello"), frame(0x88, b"\x03\xe8bye")];
    stream.write_all(handshake.as_bytes()).unwrap();
    stream.write_all(&messages.concat()).unwrap();
    stream.read_to_end(&mut Vec::new()).unwrap();
    drop(stream);

    let opened = event();
    assert_eq!(opened["message"], "connection_opened");
    assert_eq!(opened["x_forwarded_for"], "192.0.2.7");
    assert_eq!(opened["x_request_id"], "abc");
    let closed = event();
    assert_eq!(closed["message"], "connection_closed");
    assert_eq!(closed["id"], opened["id"]);
    assert_eq!(closed["code"], 1000);
    assert_eq!(closed["reason"], "bye");
    assert_eq!(closed["closed_by"], "client");
    for (field, value) in [
        ("messages_in", 1),
        ("messages_out", 1),
        ("bytes_in", 5),
        ("bytes_out", 5),
    ] {
        assert_eq!(closed[field], value, "{field}");
    }
    assert!(closed["duration_ms"].is_u64());
}
