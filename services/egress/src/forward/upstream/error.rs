//! Why a connection could not be made.

use std::{fmt, io};
use tokio::time::error::Elapsed;

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The name has no address.
    Resolve(String),
    /// Its addresses must not be dialled, for this tool or for any.
    Forbidden {
        /// Whether the tool's registration could allow it.
        may_be_allowed: bool,
    },
    /// Nobody answers there.
    Dial(io::Error),
    /// No TLS with whoever answers.
    Tls(io::Error),
    /// Whoever accepts connections there does not answer the handshake of TLS.
    TlsTimeout,
    /// The operator's proxy.
    Proxy(String),
    /// It took too long.
    Timeout,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Resolve(e) => write!(f, "its name cannot be resolved: {e}"),
            ConnectError::Forbidden { may_be_allowed: true } => f.write_str(
                "it is on this machine or in a private network, which its registration does not allow: an operator \
                 allows domains with the setting private_domains of egress",
            ),
            ConnectError::Forbidden { may_be_allowed: false } => {
                f.write_str("it is at an address that no tool may have")
            }
            ConnectError::Dial(e) => write!(f, "no connection: {e}"),
            ConnectError::Tls(e) => write!(f, "no TLS: {e}"),
            ConnectError::TlsTimeout => f.write_str("no TLS: the handshake is not answered within the time limit"),
            ConnectError::Proxy(e) => write!(f, "the operator's proxy: {e}"),
            ConnectError::Timeout => f.write_str("no connection within the time limit"),
        }
    }
}

impl std::error::Error for ConnectError {}

impl From<Elapsed> for ConnectError {
    fn from(_: Elapsed) -> Self {
        ConnectError::Timeout
    }
}
