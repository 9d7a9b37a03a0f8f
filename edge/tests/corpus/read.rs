//! Reads the corpus of raw requests: see README.md beside this file.

/// One entry of the corpus.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Where it is ruled on, or who found it.
    pub(crate) section: &'static str,
    /// What is sent, in parts with a pause between them.
    pub(crate) parts: Vec<Vec<u8>>,
    /// So many requests are answered with 200.
    pub(crate) served: usize,
    /// And then comes this, with the end of the connection.
    pub(crate) refused: Option<(u16, &'static str)>,
    /// Status and reason may be any of 4xx and 5xx: somebody else decides.
    pub(crate) closes: bool,
}

const FILES: [(&str, &str); 11] = [
    ("lengths", include_str!("lengths.txt")),
    ("encodings", include_str!("encodings.txt")),
    ("both", include_str!("both.txt")),
    ("chunks", include_str!("chunks.txt")),
    ("fields", include_str!("fields.txt")),
    ("lines", include_str!("lines.txt")),
    ("hosts", include_str!("hosts.txt")),
    ("targets", include_str!("targets.txt")),
    ("connection", include_str!("connection.txt")),
    ("sizes", include_str!("sizes.txt")),
    ("legal", include_str!("legal.txt")),
];

/// All of it.
pub(crate) fn corpus() -> Vec<Entry> {
    FILES
        .iter()
        .flat_map(|(file, text)| {
            let entries = text.split("\n== ").skip(1);
            entries.map(move |entry| read(file, entry))
        })
        .collect()
}

fn read(file: &str, entry: &'static str) -> Entry {
    let (title, bytes) = entry.split_once('\n').expect("a title and bytes");
    let mut title = title.split('|').map(str::trim);
    let mut next = || title.next().unwrap_or_else(|| panic!("{file}: {entry}"));
    let (name, section, expected) = (next(), next(), next());
    let mut parts = vec![Vec::new()];
    for line in bytes.lines() {
        match line {
            "~" => parts.push(Vec::new()),
            line => parts.last_mut().expect("a part").extend(unescaped(line)),
        }
    }
    let mut words = expected.split_whitespace().peekable();
    let served = words.next_if_eq(&"served").map_or(0, |_| {
        let number = words.next_if(|word| word.parse::<usize>().is_ok_and(|n| n < 100));
        number.map_or(1, |number| number.parse().expect("a number"))
    });
    let closes = words.next_if_eq(&"close").is_some();
    let refused = words.next().map(|status| {
        let status = status
            .parse()
            .unwrap_or_else(|_| panic!("{file}: {name}: {status}"));
        (status, words.next().expect("a reason"))
    });
    assert!(
        served > 0 || refused.is_some(),
        "{file}: {name} expects nothing"
    );
    Entry {
        name,
        section,
        parts,
        served,
        refused,
        closes,
    }
}

/// `\r`, `\n`, `\t`, `\\`, `\x41`, and `\{3*abc}` for `abcabcabc`.
fn unescaped(line: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = line;
    while let Some(at) = left.find('\\') {
        bytes.extend_from_slice(&left.as_bytes()[..at]);
        let escaped = &left[at + 1..];
        let (byte, length) = match escaped.as_bytes().first() {
            Some(b'r') => (b'\r', 1),
            Some(b'n') => (b'\n', 1),
            Some(b't') => (b'\t', 1),
            Some(b'\\') => (b'\\', 1),
            Some(b'x') => (
                u8::from_str_radix(&escaped[1..3], 16).expect("two digits"),
                3,
            ),
            Some(b'{') => {
                let end = escaped.find('}').expect("a brace");
                let (count, text) = escaped[1..end].split_once('*').expect("a star");
                let count = count.parse().expect("a count");
                bytes.extend(unescaped(text).repeat(count));
                left = &escaped[end + 1..];
                continue;
            }
            _ => panic!("no escape: {line}"),
        };
        bytes.push(byte);
        left = &escaped[length..];
    }
    bytes.extend_from_slice(left.as_bytes());
    bytes
}
