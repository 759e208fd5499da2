//! The installation's certificate authority: it vouches to agents, and to nobody else, that egress may answer for the
//! hosts of their tools.

use hoistway_kit::fs;
use hoistway_model::{Code, Error, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};
use std::{fmt, path::Path, time::SystemTime};
use time::{Duration, OffsetDateTime};

/// The validity of the authority. There is nobody who would renew it, and it is worth something on this machine only.
const CA_DAYS: i64 = 3650;
/// The validity of a host's certificate; it is renewed at half of that.
const LEAF_DAYS: i64 = 2;
/// For clocks that are behind.
const EARLY: Duration = Duration::hours(6);

/// The authority: its key never leaves this value.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
}

/// A host's certificate.
pub(crate) struct Leaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
    /// When the next one is due.
    pub(crate) renew: SystemTime,
}

impl Authority {
    /// The authority in the directory `dir`, which is made at the first start. `ca-key.pem` (0600) has its key and its
    /// certificate, so that both are made in one step; `ca.pem` is the certificate for everybody. Blocks.
    pub fn load_or_create(dir: &Path) -> Result<Self> {
        let path = dir.join("ca-key.pem");
        let unusable = |e: &dyn fmt::Display| {
            let text = format!("{} does not hold an authority: remove it to have another one made", path.display());
            Error::new(Code::InvalidArgument, text).with_source(e.to_string())
        };
        let bytes = fs::load_or_create_private(&path, || Ok(make()?.into_bytes()))?;
        let text = std::str::from_utf8(&bytes).map_err(|e| unusable(&e))?;
        let key = PrivatePkcs8KeyDer::from_pem_slice(&bytes).map_err(|e| unusable(&e))?;
        let key = KeyPair::try_from(&key).map_err(|e| unusable(&e))?;
        let certificate = CertificateDer::from_pem_slice(&bytes).map_err(|e| unusable(&e))?;
        let pem =
            text.find("-----BEGIN CERTIFICATE-----").map(|at| text[at..].to_owned()).ok_or_else(|| unusable(&""))?;
        let params = parameters(&key)?;
        let authority = Self { issuer: Issuer::new(params, key), certificate, pem };
        authority.publish(&dir.join("ca.pem"))?;
        Ok(authority)
    }

    /// The certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Writes the certificate to a file for whoever makes the bundle of agents. Blocks.
    pub fn publish(&self, path: &Path) -> Result<()> {
        let failed = |e| Error::internal(&format!("writing {}", path.display()), e);
        let written = fs::read_if_there(path).map_err(failed)?;
        if written.as_deref() != Some(self.pem.as_bytes()) {
            fs::write_atomic(path, self.pem.as_bytes(), 0o644).map_err(failed)?;
        }
        Ok(())
    }

    /// A certificate for a host name or an address, as strict clients want it.
    pub(crate) fn leaf(&self, host: &str) -> Result<Leaf> {
        let failed = |e: rcgen::Error| Error::internal("making a certificate", e);
        let key = KeyPair::generate().map_err(failed)?;
        let mut params = CertificateParams::new([host.to_owned()]).map_err(failed)?;
        params.distinguished_name = named("Hoistway egress");
        (params.not_before, params.not_after) = validity(Duration::days(LEAF_DAYS));
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial()?);
        let leaf = params.signed_by(&key, &self.issuer).map_err(failed)?;
        let half = std::time::Duration::from_secs(u64::try_from(LEAF_DAYS).unwrap_or(1) * 86_400 / 2);
        Ok(Leaf {
            chain: vec![leaf.der().clone()],
            key: PrivateKeyDer::Pkcs8(key.serialize_der().into()),
            renew: SystemTime::now() + half,
        })
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").finish_non_exhaustive()
    }
}

/// A new key and its certificate as PEM.
fn make() -> Result<String> {
    let failed = |e: rcgen::Error| Error::internal("making the certificate authority", e);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = parameters(&key)?.self_signed(&key).map_err(failed)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

/// The authority's certificate, derived from its key alone, but for times and serial number, which only matter when the
/// certificate is made.
fn parameters(key: &KeyPair) -> Result<CertificateParams> {
    let hash = digest::digest(&digest::SHA256, key.public_key_raw());
    let short: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let mut params = CertificateParams::default();
    params.distinguished_name = named(&format!("Hoistway egress CA {short}"));
    (params.not_before, params.not_after) = validity(Duration::days(CA_DAYS));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    Ok(params)
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::OrganizationName, "Hoistway");
    names.push(DnType::CommonName, name);
    names
}

fn validity(length: Duration) -> (OffsetDateTime, OffsetDateTime) {
    let now = OffsetDateTime::now_utc();
    (now - EARLY, now + length)
}

/// 16 random bytes that are a positive number (RFC 5280, 4.1.2.2).
fn serial() -> Result<SerialNumber> {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).map_err(|_| Error::internal("making a serial number", "no random bytes"))?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_authority_is_made_once_and_its_key_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(dir.path()).unwrap();
        std::fs::remove_file(dir.path().join("ca.pem")).unwrap();
        let second = Authority::load_or_create(dir.path()).unwrap();
        assert_eq!(first.certificate(), second.certificate());
        let mode = |name: &str| std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ca-key.pem"), mode("ca.pem")), (0o600, 0o644));
        let public = std::fs::read_to_string(dir.path().join("ca.pem")).unwrap();
        assert!(public == second.pem() && !public.contains("PRIVATE"));
        assert!(hoistway_kit::egress_auth::ca_bundle(second.pem()).ends_with(second.pem()));
        std::fs::write(dir.path().join("ca-key.pem"), "x").unwrap();
        assert_eq!(Authority::load_or_create(dir.path()).unwrap_err().code, Code::InvalidArgument);
    }
}
