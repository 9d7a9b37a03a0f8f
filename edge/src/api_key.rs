//! API keys: whose they are, and where they let in.
//!
//! Only their SHA-256 is known. A key has 256 random bits, so a hash that was
//! stolen opens nothing, and needs no salt.

use std::collections::{HashMap, HashSet};
use std::fmt;

use foldhash::quality::RandomState;
use ring::digest::{SHA256, digest};

use crate::limit::Quota;
use crate::refusal::Refusal;

/// The keys of one file.
#[derive(Default)]
pub struct Keys {
    list: Vec<Key>,
    by_hash: HashMap<Hash, usize, RandomState>,
    names: HashSet<String, RandomState>,
}

/// One client's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Whose it is, in log and limits.
    pub name: String,
    /// The SHA-256 of the key.
    pub hash: Hash,
    /// The names of the routes that it opens; `None`: all that ask for keys of this file.
    pub routes: Option<Vec<String>>,
    /// How often it may be used, in place of the route's `per_client`.
    pub limit: Option<Quota>,
}

/// A SHA-256.
pub type Hash = [u8; 32];

/// The most keys in a file.
pub const MOST: usize = 100_000;
/// What is longer is no key, and is not hashed.
pub const LONGEST: usize = 512;

/// The SHA-256 of a key.
pub fn hash(key: &[u8]) -> Hash {
    let hash = digest(&SHA256, key);
    hash.as_ref().try_into().unwrap_or_default()
}

impl Keys {
    /// These keys. Of two with one hash the later one counts; whoever reads a file has refused that.
    pub fn new(list: Vec<Key>) -> Self {
        let hashes = list.iter().enumerate();
        Self {
            by_hash: hashes.map(|(place, key)| (key.hash, place)).collect(),
            names: list.iter().map(|key| key.name.clone()).collect(),
            list,
        }
    }

    /// Whose key this is, if it opens this route.
    ///
    /// The hash is looked up, not the key: how long that takes depends on a hash that nobody can
    /// choose the start of, so it tells nothing of the keys that would be good. Whole hashes are
    /// compared in constant time all the same.
    pub fn find(&self, given: &[u8], route: &str) -> Result<&Key, Refusal> {
        if given.len() > LONGEST {
            return Err(Refusal::KeyUnknown);
        }
        let hash = hash(given);
        let place = self.by_hash.get(&hash).ok_or(Refusal::KeyUnknown)?;
        let key = self.list.get(*place).ok_or(Refusal::KeyUnknown)?;
        if !same(&key.hash, &hash) {
            return Err(Refusal::KeyUnknown);
        }
        let routes = key.routes.as_ref();
        if routes.is_some_and(|routes| !routes.iter().any(|own| own == route)) {
            return Err(Refusal::KeyNotHere);
        }
        Ok(key)
    }

    /// Is there a key of this name?
    pub fn knows(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Is there none?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.list.iter()
    }
}

impl PartialEq for Keys {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.list.len())
    }
}

/// Takes the same time wherever they differ.
fn same(one: &Hash, other: &Hash) -> bool {
    let differ = one
        .iter()
        .zip(other)
        .fold(0, |differ, (a, b)| differ | (a ^ b));
    std::hint::black_box(differ) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let key = |name: &str, routes: Option<&[&str]>| Key {
            name: name.to_owned(),
            hash: hash(name.as_bytes()),
            routes: routes.map(|routes| routes.iter().map(|own| (*own).to_owned()).collect()),
            limit: None,
        };
        Keys::new(vec![key("all", None), key("some", Some(&["/a"]))])
    }

    #[test]
    fn a_key_opens_its_routes_and_no_others() {
        let keys = keys();
        assert_eq!(keys.find(b"all", "/b").unwrap().name, "all");
        assert_eq!(keys.find(b"some", "/a").unwrap().name, "some");
        assert_eq!(keys.find(b"some", "/b"), Err(Refusal::KeyNotHere));
    }

    #[test]
    fn what_is_no_key_opens_nothing() {
        let keys = keys();
        let hashed = hash(b"all");
        for given in [
            &b""[..],
            b"al",
            b"all ",
            b"ALL",
            &hashed,
            &[b'a'; LONGEST + 1],
        ] {
            assert_eq!(keys.find(given, "/a"), Err(Refusal::KeyUnknown));
        }
        assert_eq!(Keys::default().find(b"", "/a"), Err(Refusal::KeyUnknown));
    }

    #[test]
    fn hashes_are_the_same_only_if_every_byte_is() {
        let one = hash(b"a");
        assert!(same(&one, &one));
        for place in 0..32 {
            let mut other = one;
            other[place] ^= 1;
            assert!(!same(&one, &other));
        }
    }
}
