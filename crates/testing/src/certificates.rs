//! Certificates of an authority that exists for one test.
#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use std::{
    fs,
    net::{IpAddr, UdpSocket},
    path::Path,
};
use time::{Duration, OffsetDateTime};

/// An authority that signs certificates for servers and clients.
pub struct TestAuthority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl TestAuthority {
    /// Makes a new one.
    #[allow(clippy::new_without_default, reason = "each one is another authority")]
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Returns its certificate as PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Writes `NAME.pem` and `NAME-key.pem` for these hosts into a directory, and the authority as `ca.pem`.
    pub fn issue(&self, dir: &Path, name: &str, hosts: &[&str]) {
        self.issue_until(dir, name, hosts, 365);
    }

    /// The same with a certificate that expires in so many days.
    pub fn issue_until(&self, dir: &Path, name: &str, hosts: &[&str], days: i64) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        let now = OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - Duration::days(30), now + Duration::days(days));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(dir.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
        fs::write(dir.join("ca.pem"), &self.pem).unwrap();
    }
}

/// Returns an address of this machine that other machines reach, if it has one. Nothing is sent.
pub fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback())
}
