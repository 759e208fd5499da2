//! The statement that identifies to egress the invoke for which an agent calls: its user, request id and trace. The
//! gateway issues it with the invoke, the agent's runner sends it with each call, egress verifies it. It is encrypted
//! and authenticated in between.

use crate::{secrets::MasterKey, token::ServiceToken};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hoistway_model::{Error, Name, Result, redact::MASK};
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::fmt;

/// The header of the statement, from the gateway to the runner and from the runner to egress.
pub const HEADER: &str = "x-hoistway-end-user";

/// The prefix of every statement, for secret scanners.
const PREFIX: &str = "hwi_";
const KEY_LABEL: &[u8] = b"hoistway end user statement 1";
/// The length in bytes of the leading expiry time, in milliseconds since the epoch.
const TIME_LEN: usize = 8;

/// The facts stated about an invoke.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvokeStatement {
    /// The user of the invoke, as named by their identity provider.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<String>,
    /// Its request id.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    /// Its trace context, a W3C `traceparent`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub traceparent: Option<String>,
}

/// The key of these statements. Every service has it, and no agent. Cheap to clone.
#[derive(Clone)]
pub struct InvokeStatementKey(MasterKey);

impl InvokeStatementKey {
    /// Derives the key from an installation's token between services.
    pub fn new(token: &ServiceToken) -> Result<Self> {
        let text = hmac::Key::new(hmac::HMAC_SHA256, token.secret().expose().as_bytes());
        let mut key = [0; 32];
        key.copy_from_slice(hmac::sign(&text, KEY_LABEL).as_ref());
        MasterKey::from_bytes(&key).map(Self)
    }

    /// Issues a statement about an invoke of `agent`. It is valid until `valid_until` (milliseconds since the epoch),
    /// which is the latest end of the invoke.
    pub fn issue(&self, agent: &Name, invoke: &InvokeStatement, valid_until: i64) -> Result<String> {
        let mut plain = valid_until.to_be_bytes().to_vec();
        serde_json::to_writer(&mut plain, invoke).map_err(|e| Error::internal("stating what an invoke is", e))?;
        Ok(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(self.0.seal(&context(agent), &plain)?)))
    }

    /// Returns the content of a statement, if it was issued for an invoke of `agent` and is still valid at `now`
    /// (milliseconds since the epoch).
    pub fn verify(&self, agent: &Name, statement: &[u8], now: i64) -> Option<InvokeStatement> {
        let sealed = URL_SAFE_NO_PAD.decode(statement.strip_prefix(PREFIX.as_bytes())?).ok()?;
        let plain = self.0.open(&context(agent), &sealed).ok()?;
        let (valid_until, invoke) = plain.split_first_chunk::<TIME_LEN>()?;
        serde_json::from_slice(invoke).ok().filter(|_| now <= i64::from_be_bytes(*valid_until))
    }
}

impl fmt::Debug for InvokeStatementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

fn context(agent: &Name) -> String {
    format!("end-user/{agent}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_statement_is_for_one_agent_and_for_a_time() {
        let token = ServiceToken::generate().unwrap();
        let (key, same) = (InvokeStatementKey::new(&token).unwrap(), InvokeStatementKey::new(&token).unwrap());
        let other = InvokeStatementKey::new(&ServiceToken::generate().unwrap()).unwrap();
        let (a, b) = (Name::parse("name", "a").unwrap(), Name::parse("name", "b").unwrap());
        let invoke = InvokeStatement {
            user: Some("zoë@example.com".into()),
            request_id: Some("r".into()),
            ..InvokeStatement::default()
        };
        let statement = key.issue(&a, &invoke, 1_000).unwrap();
        assert!(statement.bytes().all(|byte| byte.is_ascii_graphic()) && !statement.contains("example"));
        let text = statement.as_bytes();
        assert_eq!(same.verify(&a, text, 1_000), Some(invoke));
        assert_eq!(key.verify(&a, text, 1_001), None);
        assert_eq!(key.verify(&b, text, 1_000), None);
        assert_eq!(other.verify(&a, text, 1_000), None);
        for bad in [&text[..text.len() - 1], &text[4..], b"hwi_", b"", b"zo\xc3\xab"] {
            assert_eq!(key.verify(&a, bad, 1_000), None);
        }
        assert_eq!(format!("{key:?}"), MASK);
    }
}
