//! Stand-ins for tools and model providers: a certificate for their host, and a server in Python.

use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// The certificate file, in a test's directory, of the authority that signs its servers' certificates.
pub const AUTHORITY: &str = "tools.pem";

/// Creates an authority and a certificate of `hosts` under it.
pub fn certify(dir: &Path, hosts: &[&str]) -> (Certificate, KeyPair) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join(AUTHORITY), params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(hosts.iter().map(|&host| host.to_owned()).collect::<Vec<_>>())
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    (leaf, key)
}

/// A program that serves TLS on a port which it prints first; it is ended when it is dropped.
pub struct PythonServer {
    process: Child,
    pub port: u16,
}

impl PythonServer {
    /// Starts `script` with the paths of a certificate of `hosts` and of its key as arguments. Its packages are those
    /// in `DIR/site`.
    pub fn start(dir: &Path, hosts: &[&str], script: &str) -> Self {
        let (leaf, key) = certify(dir, hosts);
        let (leaf_file, key_file) = (dir.join("leaf.pem"), dir.join("leaf-key.pem"));
        std::fs::write(&leaf_file, leaf.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        let mut server = Command::new("python3");
        server.args(["-c", script]).arg(leaf_file).arg(key_file).env("PYTHONPATH", dir.join("site"));
        let mut process = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { process, port: line.trim().parse().unwrap() }
    }
}

impl Drop for PythonServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
