//! `echo-server` as an operator meets it: flags, exit codes, signals, the log.

use crate::fixture::{HANDSHAKE, frame, signed};
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
    server_with(arguments, &[])
}

fn server_with(arguments: &[&str], environment: &[(&str, &str)]) -> Server {
    let child = Command::new(env!("CARGO_BIN_EXE_echo-server"))
        .args(arguments)
        .envs(environment.iter().copied())
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

/// What it says on stderr before it ends, and the exit code.
fn last_words(mut server: Server) -> (String, Option<i32>) {
    let mut said = String::new();
    let mut stderr = server.0.stderr.take().unwrap();
    stderr.read_to_string(&mut said).unwrap();
    (said, server.0.wait().unwrap().code())
}

#[test]
fn a_secret_that_is_too_short_ends_the_process_with_what_would_be_right() {
    for (variable, told) in [
        (
            "ECHO_JWT_SECRET",
            "the JWT secret has 5 bytes: expected at least 32",
        ),
        (
            "ECHO_API_KEY",
            "the API key has 5 bytes: expected at least 16",
        ),
    ] {
        let server = server_with(&["--listen", "127.0.0.1:0"], &[(variable, "short")]);
        let (said, code) = last_words(server);
        assert!(said.starts_with(&format!("echo-server: {told}")), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert_eq!(code, Some(2));
    }
    let nowhere = [
        "--listen",
        "127.0.0.1:0",
        "--jwt-secret-file",
        "/nowhere/at/all",
    ];
    let (said, code) = last_words(server(&nowhere));
    assert!(said.contains("cannot read /nowhere/at/all"), "{said}");
    assert_eq!(code, Some(2));
}

#[test]
fn a_switch_in_the_environment_takes_the_usual_words() {
    let server = server_with(&["--listen", "127.0.0.1:0"], &[("ECHO_GREET", "perhaps")]);
    let (said, code) = last_words(server);
    assert!(said.contains("perhaps"), "{said}");
    assert_eq!(code, Some(2));
    for word in ["true", "1", "yes", "false", "0"] {
        let mut server = server_with(&["--listen", "127.0.0.1:0"], &[("ECHO_JSON_ONLY", word)]);
        assert_eq!(events(&mut server)()["message"], "listening", "{word}");
    }
}

#[test]
fn the_log_tells_who_was_let_in_and_why_another_was_not_but_no_credential() {
    let folder = std::env::temp_dir().join(format!("echo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("jwt-secret");
    // With the newline that an editor puts there.
    std::fs::write(&file, "a secret of thirty-two bytes, ok\n").unwrap();
    let flags = ["--listen", "127.0.0.1:0", "--log", "trace"];
    let secrets = [
        ("ECHO_JWT_SECRET_FILE", file.to_str().unwrap()),
        ("ECHO_API_KEY", "a-key-of-sixteen"),
    ];
    let mut server = server_with(&flags, &secrets);
    let mut lines = BufReader::new(server.0.stdout.take().unwrap()).lines();
    let listening: serde_json::Value =
        serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    let address = listening["address"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(&folder).unwrap();

    let claims = serde_json::json!({"exp": 4_000_000_000_u64});
    let token = signed(&claims, "a secret of thirty-two bytes, ok");
    let handshake = String::from_utf8(HANDSHAKE.to_vec()).unwrap();
    let open = |path: &str, header: &str| {
        let mut stream = TcpStream::connect(&address).unwrap();
        let handshake =
            handshake
                .replacen("/ws", path, 1)
                .replacen("\r\n", &format!("\r\n{header}"), 1);
        stream.write_all(handshake.as_bytes()).unwrap();
        stream.write_all(&frame(0x88, b"\x03\xe8")).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    for (path, header) in [
        (&*format!("/ws?access_token={token}"), ""),
        ("/ws", &*format!("Authorization: Bearer {token}\r\n")),
        (
            "/ws",
            &*format!("Sec-WebSocket-Protocol: bearer, {token}\r\n"),
        ),
        ("/ws", "X-API-Key: a-key-of-sixteen\r\n"),
    ] {
        let answer = open(path, header);
        assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        assert!(!answer.contains(&token), "{answer}");
    }
    let refused = open(
        "/ws",
        "Authorization: Bearer nonsense.no.sense\r\nConnection: close\r\n",
    );
    assert!(refused.starts_with("HTTP/1.1 401 "), "{refused}");

    let pid = server.0.id().to_string();
    let sent = Command::new("kill").args(["-TERM", &pid]).status().unwrap();
    assert!(sent.success());
    let log: Vec<String> = lines.map(Result::unwrap).collect();
    for secret in [
        &*token,
        "a-key-of-sixteen",
        "nonsense.no.sense",
        "thirty-two",
    ] {
        assert!(
            !log.iter().any(|line| line.contains(secret)),
            "{secret} in {log:#?}"
        );
    }
    let has = |word: &str| log.iter().any(|line| line.contains(word));
    for told in [
        r#""auth":"jwt""#,
        r#""auth":"api_key""#,
        r#""reason":"token_malformed""#,
    ] {
        assert!(has(told), "no {told} in {log:#?}");
    }
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
    assert_eq!(closed["cause"], "close");
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
