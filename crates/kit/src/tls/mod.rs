//! TLS: of the HTTP API, and mutual between services. Certificates are read from files, again when these change.

mod certificates;
mod client;
mod listener;
mod settings;

pub use certificates::CertificateFiles;
pub(crate) use client::GrpcConnector;
pub use client::{ClientStream, ServiceAddress};
pub use listener::{Accepted, Incoming, ListenerTls, ServerStream};
pub use settings::{ApiTlsConfig, ServiceTls, ServiceTlsConfig};

#[cfg(test)]
mod tests;
