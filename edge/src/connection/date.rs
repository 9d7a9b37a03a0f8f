//! Pingora writes the present time into every answer's `Date`. An answer that is forwarded or
//! kept has its own (RFC 9110 6.6.1), from which caches behind edge reckon its age: it is put back
//! as the head goes by.

/// The length of a date as HTTP writes it (RFC 9110 5.6.7).
pub(super) const LENGTH: usize = 29;

/// A date to be put into the next head that is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Date {
    value: [u8; LENGTH],
    /// Where it goes, counted from the next byte to be written; `None`: not found yet.
    at: Option<isize>,
}

impl Date {
    /// `None`: it is written otherwise, and would not fit.
    pub(super) fn new(value: &[u8]) -> Option<Self> {
        let value = value.try_into().ok()?;
        Some(Self { value, at: None })
    }

    /// The first bytes of what is to be written, with the date in its place; `None`: they are as
    /// they should be.
    pub(super) fn put(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.at.is_none() {
            self.at = place(bytes).and_then(|place| isize::try_from(place).ok());
        }
        let at = self.at?;
        let end = usize::try_from(at + LENGTH as isize).ok()?.min(bytes.len());
        let mut start = bytes.get(..end)?.to_vec();
        for (offset, &byte) in self.value.iter().enumerate() {
            let place = usize::try_from(at + offset as isize).ok();
            if let Some(place) = place.and_then(|place| start.get_mut(place)) {
                *place = byte;
            }
        }
        (bytes.get(..end)? != start.as_slice()).then_some(start)
    }

    /// So many bytes have been written; tells whether the date has, too.
    pub(super) fn written(&mut self, bytes: usize) -> bool {
        let Some(at) = &mut self.at else {
            // There is no date in this head.
            return true;
        };
        *at -= isize::try_from(bytes).unwrap_or(isize::MAX);
        *at + LENGTH as isize <= 0
    }
}

/// Where the value of `Date` begins in a head.
fn place(head: &[u8]) -> Option<usize> {
    const NAME: &[u8] = b"date: ";
    let mut line = 0;
    loop {
        let rest = head.get(line..)?;
        let length = memchr::memchr(b'\n', rest)? + 1;
        if length <= 2 {
            return None;
        }
        let name = rest.get(..NAME.len())?;
        if name.eq_ignore_ascii_case(NAME) {
            let value = line + NAME.len();
            return (length == NAME.len() + LENGTH + 2).then_some(value);
        }
        line += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &[u8] = b"Sun, 06 Nov 1994 08:49:37 GMT";
    const HEAD: &[u8] =
        b"HTTP/1.1 200 OK\r\nA: b\r\ndate: Mon, 23 Nov 2026 04:44:46 GMT\r\n\r\ndate: x";

    /// What a client reads if every write takes so many bytes.
    fn written(head: &[u8], step: usize) -> Vec<u8> {
        let mut date = Some(Date::new(OLD).unwrap());
        let (mut left, mut out) = (head, Vec::new());
        while !left.is_empty() {
            let start = date.as_mut().and_then(|date| date.put(left));
            let start = start.unwrap_or_default();
            let whole = [start.as_slice(), &left[start.len()..]].concat();
            let taken = step.min(whole.len());
            out.extend_from_slice(&whole[..taken]);
            left = &left[taken..];
            if date.as_mut().is_some_and(|date| date.written(taken)) {
                date = None;
            }
        }
        out
    }

    #[test]
    fn an_answers_own_date_is_put_back_however_it_is_written() {
        let old = String::from_utf8(OLD.to_vec()).unwrap();
        let expected = String::from_utf8(HEAD.to_vec()).unwrap();
        let expected = expected.replace("Mon, 23 Nov 2026 04:44:46 GMT", &old);
        // The head comes in one piece: the first write sees all of it.
        for step in 1..=HEAD.len() {
            let seen = String::from_utf8(written(HEAD, step)).unwrap();
            assert_eq!(seen, expected, "{step}");
        }
    }

    #[test]
    fn a_head_without_a_date_stays_as_it_is() {
        for head in [
            &b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nDate: Mon, 23 Nov 2026 04:44:46 GMT\r\n"[..],
            b"HTTP/1.1 200 OK\r\ndate: soon\r\n\r\n",
            b"",
            b"\n",
        ] {
            assert_eq!(written(head, 7), head);
        }
    }

    #[test]
    fn a_date_of_another_length_is_left_alone() {
        assert!(Date::new(b"Sunday, 06-Nov-94 08:49:37 GMT").is_none());
    }
}
