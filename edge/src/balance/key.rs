//! What of a request it is hashed by.

use http::HeaderMap;
use http::header::COOKIE;

use super::HashBy;
use crate::client::Client;

/// The bytes that decide where a request belongs; `None` if it has none, or they are empty.
///
/// A field in several lines is one list (RFC 9110 5.3). Of several cookies with one name the first
/// counts, as servers mostly read them (RFC 6265 4.2.2 leaves it open).
pub fn key(by: &HashBy, client: &Client, headers: &HeaderMap) -> Option<Vec<u8>> {
    let key = match by {
        HashBy::Client => client.key.to_be_bytes().to_vec(),
        HashBy::Header(name) => {
            let lines: Vec<_> = headers.get_all(name).iter().map(AsRef::as_ref).collect();
            lines.join(&b", "[..])
        }
        HashBy::Cookie(name) => cookie(name, headers)?.to_vec(),
    };
    (!key.is_empty()).then_some(key)
}

/// The value of this cookie (RFC 6265 4.2.1): names are told apart by case, quotes are part of the
/// value. HTTP/2 may send each cookie in a field of its own (RFC 9113 8.2.3).
fn cookie<'a>(name: &str, headers: &'a HeaderMap) -> Option<&'a [u8]> {
    let fields = headers.get_all(COOKIE).iter();
    let mut pairs = fields.flat_map(|field| field.as_bytes().split(|&b| b == b';'));
    pairs.find_map(|pair| {
        let at = pair.iter().position(|&b| b == b'=')?;
        let (own, value) = pair.split_at(at);
        let is_it = own.trim_ascii() == name.as_bytes();
        is_it.then(|| value.get(1..).unwrap_or_default().trim_ascii())
    })
}
