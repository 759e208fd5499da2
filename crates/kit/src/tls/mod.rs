//! TLS: of the HTTP API, and mutual between services. Certificates are read from files, again when these change.

mod certificates;
mod client;
mod failure;
mod listener;
mod settings;

pub use certificates::CertificateFiles;
pub(crate) use certificates::expiry_times;
pub(crate) use client::GrpcConnector;
pub use client::{ClientStream, ServiceAddress};
pub use listener::{Accepted, ListenerTls, PeekableStream, ServerStream};
pub use settings::{ApiTlsConfig, REMEDY, ServiceTls, ServiceTlsConfig};

#[cfg(test)]
mod tests;
