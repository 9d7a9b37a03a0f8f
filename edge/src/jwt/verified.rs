//! Tokens that were found good lately: a signature is checked once, not for each request.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use quick_cache::sync::Cache;
use ring::digest::{SHA256, digest};

use super::{Bad, Claims, Keys, Settings, judge, signed};

/// See above. Time is looked at for each request all the same.
pub struct Verified(Cache<[u8; 32], (u64, Arc<Claims>)>);

impl Verified {
    /// Remembers `most` tokens.
    pub fn new(most: usize) -> Self {
        Self(Cache::new(most))
    }

    /// As [`super::verify`]. `generation` is that of the keys: what was signed by others is checked
    /// again. A token is remembered by its SHA-256: nobody finds it in memory.
    pub fn verify(
        &self,
        token: &str,
        keys: &Keys,
        settings: &Settings,
        generation: u64,
        now: SystemTime,
    ) -> Result<Arc<Claims>, Bad> {
        let name = digest(&SHA256, token.as_bytes());
        let name: Option<[u8; 32]> = name.as_ref().try_into().ok();
        let known = name.and_then(|name| self.0.get(&name));
        let known = known.filter(|(own, _)| *own == generation);
        if let Some((_, claims)) = known {
            judge(&claims, settings, now)?;
            return Ok(claims);
        }
        let claims = Arc::new(signed(token, keys, settings)?);
        judge(&claims, settings, now)?;
        if let Some(name) = name {
            self.0.insert(name, (generation, claims.clone()));
        }
        Ok(claims)
    }

    /// How many it remembers.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Does it remember none?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} tokens", self.len())
    }
}
