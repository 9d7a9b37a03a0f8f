//! A reader of requests that takes nothing that could be read in two ways. It shares no code with
//! edge, so that the two can be held against one another.

/// A request as it was read.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) body: Vec<u8>,
}

/// The first whole message and its length; `None` if it is still to come, an error if it could be
/// read in two ways.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<(Message, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
        return Ok(None);
    };
    let head = &bytes[..end];
    if head
        .iter()
        .any(|&b| (b < b' ' && !b"\r\n\t".contains(&b)) || b == 0x7f)
    {
        return Err("a control byte".into());
    }
    let head: String = head.iter().map(|&b| char::from(b)).collect();
    if head.replace("\r\n", "").contains(['\r', '\n']) {
        return Err("a bare CR or LF".into());
    }
    let mut lines = head.split("\r\n");
    let line = lines.next().unwrap_or_default();
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else {
        return Err(format!("the line {line:?}"));
    };
    if method.is_empty() || !method.chars().all(is_token) {
        return Err(format!("the method {method:?}"));
    }
    check_target(target)?;
    let (mut hosts, mut lengths, mut encodings) = (Vec::new(), Vec::new(), Vec::new());
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            return Err(format!("the field {line:?}"));
        };
        if name.is_empty() || !name.chars().all(is_token) {
            return Err(format!("the name {name:?}"));
        }
        let value = value.trim_matches([' ', '\t']);
        match name.to_ascii_lowercase().replace('_', "-").as_str() {
            "host" => hosts.push(value),
            "content-length" => lengths.push(value),
            "transfer-encoding" => encodings.push(value),
            "connection" | "upgrade" | "keep-alive" | "http2-settings" | "proxy-connection" => {
                return Err(format!("the field {line:?} of another connection"));
            }
            _ => {}
        }
    }
    let [host] = hosts[..] else {
        return Err(format!("the hosts {hosts:?}"));
    };
    if host.is_empty() || host.contains(['/', '@', ' ', ',', '?', '#', '\\']) {
        return Err(format!("the host {host:?}"));
    }
    let start = end + 4;
    let body = match (&lengths[..], &encodings[..]) {
        ([], []) => Some((Vec::new(), start)),
        ([length], []) => {
            let plain = !length.is_empty() && length.bytes().all(|b| b.is_ascii_digit());
            let length: usize = length
                .parse()
                .ok()
                .filter(|_| plain)
                .ok_or(format!("the length {length:?}"))?;
            let body = bytes.get(start..start + length);
            body.map(|body| (body.to_vec(), start + length))
        }
        ([], ["chunked"]) => chunks(bytes, start)?,
        _ => return Err(format!("the framing {lengths:?} {encodings:?}")),
    };
    Ok(body.map(|(body, end)| {
        let (method, target) = (method.to_owned(), target.to_owned());
        (
            Message {
                method,
                target,
                body,
            },
            end,
        )
    }))
}

fn check_target(target: &str) -> Result<(), String> {
    let bad = |b: u8| !b.is_ascii_graphic() || b"#<>\"".contains(&b);
    let path = target.split('?').next().unwrap_or_default();
    let decoded = path
        .to_ascii_lowercase()
        .replace("%2e", ".")
        .replace("%2f", "/")
        .replace("%5c", "\\");
    let mut segments = decoded.split(['/', '\\']);
    let dots = segments.any(|segment| matches!(segment.split(';').next(), Some("." | "..")));
    if !target.starts_with('/') || target.bytes().any(bad) || dots || path.contains('\\') {
        return Err(format!("the target {target:?}"));
    }
    Ok(())
}

fn is_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

type Body = Option<(Vec<u8>, usize)>;

fn chunks(bytes: &[u8], start: usize) -> Result<Body, String> {
    let (mut body, mut at) = (Vec::new(), start);
    loop {
        let Some(end) = bytes[at..].windows(2).position(|two| two == b"\r\n") else {
            return Ok(None);
        };
        let size = &bytes[at..at + end];
        let plain = !size.is_empty() && size.len() <= 15 && size.iter().all(u8::is_ascii_hexdigit);
        if !plain {
            return Err(format!("the chunk {:?}", size.escape_ascii().to_string()));
        }
        let size = String::from_utf8_lossy(size);
        let size = usize::from_str_radix(&size, 16).map_err(|error| error.to_string())?;
        at += end + 2;
        let Some(data) = bytes.get(at..at + size + 2) else {
            return Ok(None);
        };
        if !data.ends_with(b"\r\n") {
            return Err("a chunk that does not end".into());
        }
        body.extend_from_slice(&data[..size]);
        at += size + 2;
        if size == 0 {
            return Ok(Some((body, at)));
        }
    }
}
