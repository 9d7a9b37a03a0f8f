//! The specification's examples, and that no head is taken for the beginning of another.

use super::*;
use proptest::prelude::*;

fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    [PREFIX_V2, &[command, family], &length, block].concat()
}

fn addresses_v4() -> Vec<u8> {
    [192, 0, 2, 1, 198, 51, 100, 1, 0x12, 0x67, 0x01, 0xBB].to_vec()
}

fn whole(bytes: &[u8], source: Option<&str>) -> Read {
    Read::Header {
        length: bytes.len(),
        source: source.map(|source| source.parse().unwrap()),
    }
}

/// Each valid head with what it says.
fn valid() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".to_owned();
    let full = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let texts = [
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535",
            Some("255.255.255.255:65535"),
        ),
        (
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443",
            Some("192.168.0.1:56324"),
        ),
        (
            "PROXY TCP6 2001:db8::1 2001:db8::2 0 80",
            Some("[2001:db8::1]:0"),
        ),
        (
            "PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2",
            Some("[::ffff:192.0.2.1]:1"),
        ),
        ("PROXY UNKNOWN", None),
        ("PROXY UNKNOWN \u{ff} whatever\n", None),
        (longest.as_str(), None),
    ];
    let mut all: Vec<_> = texts
        .map(|(text, source)| (format!("{text}\r\n").into_bytes(), source))
        .into();
    let longest = format!("PROXY UNKNOWN {full} {full} 65535 65535\r\n");
    assert_eq!(longest.len(), MOST_V1);
    all.push((longest.into_bytes(), None));
    let mut v6 = vec![0; 36];
    v6[..4].copy_from_slice(&[0x20, 0x01, 0x0D, 0xB8]);
    (v6[15], v6[33]) = (1, 80);
    let extended = [addresses_v4(), vec![4, 0, 3, 0, 0, 0]].concat();
    let largest = [addresses_v4(), vec![0; MOST - 16 - 12]].concat();
    all.extend([
        (v2(0x21, 0x11, &addresses_v4()), Some("192.0.2.1:4711")),
        (v2(0x21, 0x11, &extended), Some("192.0.2.1:4711")),
        (v2(0x21, 0x11, &largest), Some("192.0.2.1:4711")),
        (v2(0x21, 0x21, &v6), Some("[2001:db8::1]:80")),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &addresses_v4()), None),
        (v2(0x20, 0xFF, &[1, 2, 3]), None),
        (v2(0x21, 0x00, &[1, 2, 3]), None),
        (v2(0x21, 0x12, &addresses_v4()), None),
        (v2(0x21, 0x22, &v6), None),
        (v2(0x21, 0x31, &[b'/'; 216]), None),
    ]);
    all
}

#[test]
fn what_is_valid_is_read() {
    for (bytes, source) in valid() {
        assert_eq!(
            read(&bytes),
            whole(&bytes, source),
            "{}",
            bytes.escape_ascii()
        );
    }
}

#[test]
fn what_follows_a_head_is_not_part_of_it() {
    for (bytes, source) in valid() {
        let more = [&bytes[..], b"GET / HTTP/1.1\r\n\r\n"].concat();
        assert_eq!(read(&more), whole(&bytes, source));
    }
}

#[test]
fn each_beginning_of_a_head_asks_for_more() {
    for (bytes, _) in valid() {
        for length in 0..bytes.len() {
            assert_eq!(
                read(&bytes[..length]),
                Read::More,
                "{length} of {}",
                bytes.escape_ascii()
            );
        }
    }
}

#[test]
fn a_line_that_says_something_else_is_none() {
    for text in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY\tTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY\rTCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        "PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        "PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        "PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
        "PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n",
        "PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
    ] {
        assert_eq!(read(text.as_bytes()), Read::Invalid, "{text:?}");
    }
    assert_eq!(
        read(&[b"PROXY UNKNOWN ", &[b'x'; 92][..], b"\r\n"].concat()),
        Read::Invalid
    );
    assert_eq!(
        read(&[b"PROXY UNKNOWN ", &[b'x'; 93][..]].concat()),
        Read::Invalid
    );
}

#[test]
fn a_block_that_says_something_else_is_none() {
    for (command, family) in [
        (0x11, 0x11),
        (0x01, 0x11),
        (0x22, 0x11),
        (0x2F, 0x11),
        (0x21, 0x13),
        (0x21, 0x41),
        (0x21, 0xFF),
    ] {
        let bytes = v2(command, family, &[0; 216]);
        assert_eq!(read(&bytes), Read::Invalid, "{command:#x} {family:#x}");
        assert_eq!(read(&bytes[..14]), Read::Invalid, "at once");
    }
    assert_eq!(read(&v2(0x21, 0x11, &[0; 11])), Read::Invalid, "too short");
    assert_eq!(read(&v2(0x21, 0x21, &[0; 35])), Read::Invalid, "too short");
    assert_eq!(read(&v2(0x21, 0x31, &[0; 215])), Read::Invalid, "too short");
    assert_eq!(
        read(&v2(0x20, 0, &vec![0; MOST - 15])),
        Read::Invalid,
        "too long"
    );
    let endless = [PREFIX_V2, &[0x21, 0x11, 0xFF, 0xFF]].concat();
    assert_eq!(read(&endless), Read::Invalid, "at once");
}

proptest! {
    #[test]
    fn nothing_as_long_as_the_longest_asks_for_more(
        start in prop::sample::select(vec![PREFIX_V1.to_vec(), PREFIX_V2.to_vec(), v2(0x21, 0x11, &[])[..14].to_vec()]),
        rest in prop::collection::vec(any::<u8>(), MOST..MOST + 9),
    ) {
        prop_assert_ne!(read(&[start, rest].concat()), Read::More);
    }

    #[test]
    fn what_is_read_stays_what_it_is_when_more_comes(
        choice in any::<prop::sample::Index>(),
        spot in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let (mut bytes, _) = valid().swap_remove(choice.index(valid().len()));
        let spot = spot.index(bytes.len());
        bytes[spot] = byte;
        let whole = read(&bytes);
        for length in 0..bytes.len() {
            match read(&bytes[..length]) {
                Read::More => {}
                told => prop_assert_eq!(told, whole, "{}", length),
            }
        }
        if let Read::Header { length, .. } = whole {
            prop_assert!(length <= bytes.len() && length <= MOST);
        }
    }

    #[test]
    fn every_source_is_read_as_it_was_written(source in any::<SocketAddr>()) {
        // No zones and flow labels in the protocol.
        let source = SocketAddr::new(source.ip(), source.port());
        let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
        let (ip, port) = (source.ip(), source.port());
        let line = format!("PROXY {family} {ip} {ip} {port} 80\r\n");
        let read = read(line.as_bytes());
        prop_assert_eq!(read, Read::Header { length: line.len(), source: Some(source) });
    }
}
