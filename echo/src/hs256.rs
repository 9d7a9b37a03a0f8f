//! HS256 on ring, for `jsonwebtoken`. Its own backends bring every algorithm that tokens know, and
//! a second library of cryptography beside the one under TLS.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    crypto::{CryptoProvider, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Verifier},
};
use ring::hmac;

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |_, _| Err(Error::from(ErrorKind::UnsupportedAlgorithm)),
    verifier_factory: |algorithm, key| match algorithm {
        Algorithm::HS256 => Ok(Box::new(Hs256::new(key)?)),
        _ => Err(Error::from(ErrorKind::UnsupportedAlgorithm)),
    },
    // For JSON Web Keys, which nobody here reads.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes this the cryptography of every token in the process, unless another is that already:
/// it knows HS256, too.
pub(crate) fn install() {
    let _ = PROVIDER.install_default();
}

struct Hs256(hmac::Key);

impl Hs256 {
    fn new(key: &DecodingKey) -> Result<Self, Error> {
        Ok(Self(hmac::Key::new(
            hmac::HMAC_SHA256,
            key.try_get_as_bytes()?,
        )))
    }
}

impl Verifier<Vec<u8>> for Hs256 {
    /// In constant time, as ring has it.
    fn verify(&self, signed: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        hmac::verify(&self.0, signed, signature).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Hs256 {
    fn algorithm(&self) -> Algorithm {
        Algorithm::HS256
    }
}
