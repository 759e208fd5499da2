//! The cause of a failed handshake, in the words of the settings.

use rustls::{AlertDescription, CertificateError, Error as TlsError};
use std::io;

/// The side of the peer that is described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

/// Describes what is wrong with a peer: a sentence without its subject. `None` for what is not about certificates.
pub(super) fn explain(error: &io::Error, peer: Side) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<TlsError>()?;
    let text = match error {
        TlsError::InvalidCertificate(e) => certificate(e, peer),
        TlsError::NoCertificatesPresented => "shows no certificate".to_owned(),
        TlsError::InvalidMessage(_) if peer == Side::Server => {
            "speaks no TLS: it has no certificate, or its address begins with http".to_owned()
        }
        TlsError::InvalidMessage(_) => "speaks no TLS: its address for this service begins with http".to_owned(),
        TlsError::AlertReceived(alert) if is_of_certificates(*alert) => {
            format!("refuses this service's certificate ({alert:?})")
        }
        _ => return None,
    };
    Some(text)
}

fn certificate(error: &CertificateError, peer: Side) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "shows a certificate of another authority than that of tls.ca_file".to_owned()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "shows a certificate that has expired".to_owned()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "shows a certificate that is not for this name: its tls.cert_file needs it".to_owned()
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            let purpose = if peer == Side::Client { "clients (extendedKeyUsage clientAuth)" } else { "servers" };
            format!("shows a certificate that is not for {purpose}")
        }
        e => format!("shows a certificate that cannot be used: {e}"),
    }
}

fn is_of_certificates(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::UnsupportedCertificate
    )
}
