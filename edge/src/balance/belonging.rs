//! To which peer a key belongs: rendezvous hashing, weighted.
//!
//! Each peer has a distance from each key, and the nearest peer has the key. No ring: nothing is
//! held but a number for each peer, no weight makes it larger, and no share is off by the luck of
//! its points. When a peer goes, only its keys move, to all others by their weights; when it comes
//! back slowly, its keys come back slowly.
//!
//! All gateways must agree, of whatever version and on whatever machine: so the numbers depend on
//! the address and the key alone, not on the order of the peers, and are reckoned with what IEEE
//! 754 and wrapping integers define to the last bit. Changing them moves every key of every user.

use std::net::{IpAddr, SocketAddr};

use super::Seen;

/// A number for each peer, by its address.
pub(super) struct Belonging(Box<[u64]>);

impl Belonging {
    pub(super) fn new(addresses: impl Iterator<Item = SocketAddr>) -> Self {
        Self(addresses.map(number).collect())
    }

    /// The nearest peer that may be asked.
    pub(super) fn find(
        &self,
        weights: &[u32],
        key: &[u8],
        seen: impl Fn(usize) -> Option<Seen>,
    ) -> Option<usize> {
        let key = hash(key);
        let mut nearest: Option<(f64, usize)> = None;
        for (place, (number, weight)) in self.0.iter().zip(weights).enumerate() {
            let is_nearer = |far: f64| nearest.is_none_or(|(least, _)| far < least);
            let far = depth(mix(key ^ number)) / f64::from(*weight);
            // With less than its full share it is only farther away: most are never looked at.
            if is_nearer(far)
                && let Some(seen) = seen(place)
            {
                let far = far * 100.0 / f64::from(seen.share.clamp(1, 100));
                if is_nearer(far) {
                    nearest = Some((far, place));
                }
            }
        }
        Some(nearest?.1)
    }
}

fn number(address: SocketAddr) -> u64 {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    let mut bytes = ip.octets().to_vec();
    bytes.extend(address.port().to_be_bytes());
    hash(&bytes)
}

/// A hash of these bytes that stays what it is.
fn hash(bytes: &[u8]) -> u64 {
    let length = mix(bytes.len() as u64 ^ 0x9E37_79B9_7F4A_7C15);
    bytes.chunks(8).fold(length, |hash, chunk| {
        let word = chunk
            .iter()
            .rev()
            .fold(0, |word, byte| word << 8 | u64::from(*byte));
        mix(hash ^ word)
    })
}

/// Spreads what differs in one bit over all (the last step of `SplitMix64`).
fn mix(mut word: u64) -> u64 {
    word ^= word >> 30;
    word = word.wrapping_mul(0xBF58_476D_1CE4_E5B9);
    word ^= word >> 27;
    word = word.wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// `-ln(u)`, where the hash says which `u` between 0 and 1: distances so distributed make the
/// nearest peer as likely as its weight says.
///
/// Reckoned by hand, for libraries' logarithms differ in their last bits.
fn depth(hash: u64) -> f64 {
    // 52 bits of the hash, and a half, so that neither 0 nor 1 comes out.
    let numerator = (hash >> 12) as f64 + 0.5;
    let bits = numerator.to_bits();
    let exponent = (bits >> 52) as f64 - 1_023.0 - 52.0;
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1_023 << 52);
    // ln m = 2 artanh((m - r) / (m + r)) + ln r, where r is the root of 2.
    let s = (mantissa - std::f64::consts::SQRT_2) / (mantissa + std::f64::consts::SQRT_2);
    let square = s * s;
    let mut series = 0.0;
    for odd in [13.0, 11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        series = series * square + 1.0 / odd;
    }
    let ln = 2.0 * s * series + (exponent + 0.5) * std::f64::consts::LN_2;
    -ln
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for hash in [
            0,
            1,
            u64::MAX,
            u64::MAX / 2,
            u64::MAX / 3,
            1 << 60,
            12_345_678_912_345,
        ] {
            let u = ((hash >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
            let error = depth(hash) + u.ln();
            assert!(error.abs() < 1e-10, "{hash}: {error}");
            assert!(depth(hash) > 0.0, "{hash}");
        }
    }
}
