//! The settings of TLS, and which addresses need it.

use super::{
    GrpcConnector, ListenerTls, ServiceAddress,
    certificates::{CertificateFiles, Paths},
    client::{HTTPS, is_on_this_machine},
};
use crate::ports::Listeners;
use hoistway_model::{Error, Result};
use http::{
    Uri,
    uri::{Authority, Scheme},
};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};

/// The setting `tls` of a service: mutual TLS with the other services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceTlsConfig {
    /// This service's certificate for servers and clients, with the host name by which others reach it; those between
    /// it and the authority follow. PEM, as the other files; all of them are read again when they change.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate.
    pub key_file: Option<PathBuf>,
    /// The authority of all services' certificates, and of nobody else's.
    pub ca_file: Option<PathBuf>,
    /// Whether this service may also listen without TLS at addresses that other machines reach, and connect to services
    /// on other machines without it.
    pub allow_plaintext: bool,
}

/// The setting `api_tls` of the gateway.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ApiTlsConfig {
    /// The certificate of the API, followed by those between it and the authority that clients know. PEM, as the other
    /// file; both are read again when they change.
    pub cert_file: Option<PathBuf>,
    /// The private key of the certificate.
    pub key_file: Option<PathBuf>,
    /// Whether clients on other machines may do without TLS.
    pub allow_plaintext: bool,
}

impl ServiceTlsConfig {
    /// Reads the files; an error names the setting. Blocks.
    pub fn load(&self) -> Result<ServiceTls> {
        let certificates = match (&self.cert_file, &self.key_file, &self.ca_file) {
            (None, None, None) => None,
            (Some(cert), Some(key), Some(ca)) => {
                let paths = Paths { cert: cert.clone(), key: key.clone(), ca: Some(ca.clone()) };
                Some(CertificateFiles::load("tls", paths)?)
            }
            _ => return Err(Error::field("tls", "needs cert_file, key_file and ca_file, or none of them")),
        };
        Ok(ServiceTls { certificates, allow_plaintext: self.allow_plaintext })
    }
}

impl ApiTlsConfig {
    /// Adds TLS to the listeners of the API, if a certificate is set. Other machines reach no listener without it,
    /// unless that is asked for. Blocks.
    pub fn secure(&self, listeners: Listeners) -> Result<Listeners> {
        let allow_plaintext = self.allow_plaintext;
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => {
                let paths = Paths { cert: cert.clone(), key: key.clone(), ca: None };
                let certificates = CertificateFiles::load("api_tls", paths)?;
                Ok(listeners.with_tls(ListenerTls::Http { certificates, allow_plaintext }))
            }
            (None, None) if allow_plaintext || is_this_machine(&listeners) => Ok(listeners),
            (None, None) => {
                let remedy = "set a certificate and its key (up --tls-cert FILE --tls-key FILE, or api_tls.cert_file and \
                              api_tls.key_file), or ask for plain HTTP, for example behind a proxy with TLS (up \
                              --allow-plaintext, or api_tls.allow_plaintext = true)";
                Err(plaintext("listen", &listeners, remedy))
            }
            _ => Err(Error::field("api_tls", "needs cert_file and key_file, or none of them")),
        }
    }
}

/// The certificate of a service, if it has one.
#[derive(Debug, Clone, Default)]
pub struct ServiceTls {
    certificates: Option<CertificateFiles>,
    allow_plaintext: bool,
}

impl ServiceTls {
    /// Requires certificates of the clients of gRPC. Without a certificate, other machines must not reach the
    /// listeners, whose address is the setting `setting`.
    pub fn secure_grpc(&self, setting: &str, listeners: Listeners) -> Result<Listeners> {
        self.secure(setting, listeners, self.certificates.clone().map(ListenerTls::Mutual))
    }

    /// The same for HTTP, whose clients need no certificate.
    pub fn secure_http(&self, setting: &str, listeners: Listeners) -> Result<Listeners> {
        self.secure(setting, listeners, self.http_listener())
    }

    fn secure(&self, setting: &str, listeners: Listeners, tls: Option<ListenerTls>) -> Result<Listeners> {
        match tls {
            Some(tls) => Ok(listeners.with_tls(tls)),
            None if self.allow_plaintext || is_this_machine(&listeners) => Ok(listeners),
            None => Err(plaintext(setting, &listeners, REMEDY)),
        }
    }

    /// Returns the TLS of listeners of HTTP that are not there yet, if there is a certificate.
    pub fn http_listener(&self) -> Option<ListenerTls> {
        let certificates = self.certificates.clone()?;
        Some(ListenerTls::Http { certificates, allow_plaintext: self.allow_plaintext })
    }

    /// Whether connections without TLS to and from other machines are allowed.
    pub fn allows_plaintext(&self) -> bool {
        self.allow_plaintext
    }

    /// Checks that other machines reach this service as `host`, which is the setting `setting`.
    pub fn check_host(&self, setting: &str, host: &str) -> Result<()> {
        match &self.certificates {
            Some(certificates) if !certificates.last().is_for(host) => {
                let text = format!("{host} is none of the names of tls.cert_file, so that nobody would connect to it");
                Err(Error::field(setting, text))
            }
            _ => Ok(()),
        }
    }

    /// Returns the address `HOST:PORT`, or `https://HOST:PORT`, of another service's listener. `setting` is for
    /// messages. TLS without a certificate is refused, and so is an address on another machine without TLS.
    pub fn address(&self, setting: &str, text: &str) -> Result<ServiceAddress> {
        let refused = |why: &str| Err(Error::field(setting, format!("{text} {why}")));
        let (host_port, has_tls) = match text.strip_prefix(HTTPS) {
            Some(host_port) => (host_port, true),
            None => (text.strip_prefix("http://").unwrap_or(text), false),
        };
        let host_port = host_port.strip_suffix('/').unwrap_or(host_port);
        let authority =
            host_port.parse::<Authority>().ok().filter(|at| at.port().is_some() && !at.as_str().contains('@'));
        if authority.is_none() {
            return refused("is not HOST:PORT or https://HOST:PORT");
        }
        match (has_tls, &self.certificates) {
            (true, Some(_)) => Ok(ServiceAddress::new(host_port, self.certificates.clone())),
            (true, None) => refused(NO_CERTIFICATE),
            (false, _) if self.allow_plaintext || is_on_this_machine(host_port) => {
                Ok(ServiceAddress::new(host_port, None))
            }
            (false, Some(_)) => refused("is on another machine, so it must begin with https://"),
            (false, None) => refused(&format!("{NOT_WITHOUT_TLS}: {REMEDY}")),
        }
    }

    /// Returns the connector to a service's gRPC, `None` without TLS. `http` with a certificate and `https` without
    /// one are refused, and so is `http` to another machine.
    pub(crate) fn connector(&self, server: &str, uri: &Uri, keepalive: Duration) -> Result<Option<GrpcConnector>> {
        let refused = |why: &str| Err(Error::field(server.replace('-', "_"), format!("{uri} {why}")));
        match (&self.certificates, uri.scheme() == Some(&Scheme::HTTPS)) {
            (Some(certificates), true) => Ok(Some(GrpcConnector { certificates: certificates.clone(), keepalive })),
            (Some(_), false) => refused("must begin with https: services with certificates answer nothing else"),
            (None, true) => refused(NO_CERTIFICATE),
            (None, false)
                if self.allow_plaintext || uri.authority().is_some_and(|at| is_on_this_machine(at.as_str())) =>
            {
                Ok(None)
            }
            (None, false) => refused(&format!("{NOT_WITHOUT_TLS}: {REMEDY}")),
        }
    }
}

const NO_CERTIFICATE: &str = "needs tls.cert_file, tls.key_file and tls.ca_file, which are not set";
const NOT_WITHOUT_TLS: &str = "is on another machine, to which nothing goes without TLS";
/// How to make an address usable that other machines reach.
pub const REMEDY: &str = "set tls.cert_file, tls.key_file and tls.ca_file, or tls.allow_plaintext = true (up \
                      --allow-plaintext) if nobody else reaches the network between the services";

fn plaintext(setting: &str, listeners: &Listeners, remedy: &str) -> Error {
    let address = listeners.addrs().first().map(ToString::to_string).unwrap_or_default();
    Error::field(setting, format!("{address} is reached by other machines, so it needs TLS: {remedy}"))
}

fn is_this_machine(listeners: &Listeners) -> bool {
    listeners.addrs().iter().all(|at| at.ip().to_canonical().is_loopback())
}
