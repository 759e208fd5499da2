//! TLS: of the HTTP API, and mutual between services. Certificates are read from files, again when these change.

mod certificates;
mod connector;
mod listener;
mod settings;

pub use certificates::CertificateFiles;
pub(crate) use connector::TlsConnector;
pub use listener::{Accepted, ListenerTls, ServerStream};
pub use settings::{ApiTlsConfig, ServiceTls, ServiceTlsConfig};

#[cfg(test)]
mod tests;
