//! Verification of tokens' signatures by ring: jsonwebtoken leaves the cryptography to its user, and one such library
//! is enough. Public keys only; nothing here signs.

use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{Error, ErrorKind},
    signature::{self, Verifier},
};
use ring::signature as with;

type Result<T, E = Error> = std::result::Result<T, E>;

static PROVIDER: CryptoProvider =
    CryptoProvider { signer_factory: signer, verifier_factory: verifier, key_utils: KeyUtils::new_unimplemented() };

/// Makes jsonwebtoken use ring. The setting holds for the whole process, so repeating it changes nothing.
pub fn install() {
    let _ = PROVIDER.install_default();
}

fn signer(_: &Algorithm, _: &EncodingKey) -> Result<Box<dyn JwtSigner>> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>> {
    if algorithm.family() != key.family() || algorithm.family() == AlgorithmFamily::Hmac {
        return Err(ErrorKind::InvalidKeyFormat.into());
    }
    Ok(Box::new(Signed { algorithm: *algorithm, key: key.clone() }))
}

struct Signed {
    algorithm: Algorithm,
    key: DecodingKey,
}

impl JwtVerifier for Signed {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

impl Verifier<Vec<u8>> for Signed {
    fn verify(&self, message: &[u8], signature: &Vec<u8>) -> Result<(), signature::Error> {
        check(self.algorithm, &self.key, message, signature).map_err(signature::Error::from_source)
    }
}

fn check(algorithm: Algorithm, key: &DecodingKey, message: &[u8], signature: &[u8]) -> Result<()> {
    let rsa: &with::RsaParameters = match algorithm {
        Algorithm::ES256 => return point(&with::ECDSA_P256_SHA256_FIXED, key, message, signature),
        Algorithm::ES384 => return point(&with::ECDSA_P384_SHA384_FIXED, key, message, signature),
        Algorithm::EdDSA => return point(&with::ED25519, key, message, signature),
        Algorithm::RS256 => &with::RSA_PKCS1_2048_8192_SHA256,
        Algorithm::RS384 => &with::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &with::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &with::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &with::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &with::RSA_PSS_2048_8192_SHA512,
        // Symmetric algorithms, and future ones.
        _ => return Err(ErrorKind::UnsupportedAlgorithm.into()),
    };
    let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() else {
        return Err(ErrorKind::InvalidKeyFormat.into());
    };
    // Some issuers write numbers with leading zeros, which ring refuses.
    let zeros = |number: &[u8]| number.iter().take_while(|byte| **byte == 0).count();
    let key = with::RsaPublicKeyComponents { n: &n[zeros(n)..], e: &e[zeros(e)..] };
    key.verify(rsa, message, signature).map_err(wrong)
}

fn point(
    algorithm: &'static dyn with::VerificationAlgorithm,
    key: &DecodingKey,
    message: &[u8],
    signature: &[u8],
) -> Result<()> {
    with::UnparsedPublicKey::new(algorithm, key.try_get_as_bytes()?).verify(message, signature).map_err(wrong)
}

fn wrong(_: ring::error::Unspecified) -> Error {
    ErrorKind::InvalidSignature.into()
}
