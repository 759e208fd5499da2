//! The requests of deployments: told apart, sealed for the journal, read from it, and bounded while they wait there.

use super::{Inner, record::Record};
use crate::{audit::PendingAuditEntry, deploy::kind::DeploymentKind, store::Journal};
use hoistway_kit::{
    quota::{QuotaExceeded, QuotaGrant, SharedQuota},
    secrets::MasterKey,
};
use hoistway_model::{Code, DeploymentId, Digest, Error, Result};
use std::sync::Arc;

/// What the requests that wait for their turn may take in the journal, all of them and those of one API key.
const WAITING: usize = 256 << 20;
const WAITING_OF_ONE: usize = 128 << 20;
/// The requests that wait and are not counted.
const SMALL: usize = 64 << 10;
/// Requests of so many bytes are not hashed, sealed or read on a thread of the runtime.
const SLOW: usize = 256 << 10;

/// For what requests that wait take.
pub fn waiting() -> Arc<SharedQuota> {
    SharedQuota::new(WAITING, WAITING_OF_ONE)
}

impl Inner {
    /// Room in the journal for the request of a deployment that waits. Small ones, rollbacks among them, need none.
    pub(super) fn room_to_wait(&self, bytes: usize, pending_entry: Option<&PendingAuditEntry>) -> Result<QuotaGrant> {
        let holder = pending_entry.map_or_else(|| "".into(), PendingAuditEntry::key);
        let bytes = if bytes > SMALL { bytes } else { 0 };
        self.waiting.take(&holder, bytes).map_err(|full| {
            let (whose, limit) = match full {
                QuotaExceeded::OfHolder => ("of this API key", WAITING_OF_ONE),
                QuotaExceeded::Total => ("of all API keys", WAITING),
            };
            let text = format!(
                "the requests {whose} that wait for an earlier deployment of their agent would take more than {} MiB; \
                 try again when some of those deployments have ended",
                limit >> 20
            );
            Error::new(Code::ResourceExhausted, text)
        })
    }

    /// The work, and what makes two of them the same.
    pub(super) async fn with_digest(&self, work: DeploymentKind) -> Result<(DeploymentKind, Digest)> {
        let key = self.key.clone();
        apart(work.bytes(), move || {
            let digest = key.fingerprint("deploy-request", &work.canonical());
            Ok((work, digest))
        })
        .await
    }

    /// The work, and its request for the journal.
    pub(super) async fn sealed(&self, id: DeploymentId, work: DeploymentKind) -> Result<(DeploymentKind, Vec<u8>)> {
        let key = self.key.clone();
        apart(work.bytes(), move || {
            let sealed = key.seal(&seal_context(id), &work.to_journal()?)?;
            Ok((work, sealed))
        })
        .await
    }

    pub(super) async fn unseal(&self, record: &Record, sealed: Vec<u8>) -> Result<DeploymentKind> {
        let (key, context, reason) = (self.key.clone(), seal_context(record.id), record.log.reason);
        apart(sealed.len(), move || DeploymentKind::from_journal(reason, &key.open(&context, &sealed)?)).await
    }
}

/// Does what takes long with many bytes on a thread of its own: others are answered meanwhile.
async fn apart<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if bytes <= SLOW {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("reading or writing a request", e))?
}

fn seal_context(id: DeploymentId) -> String {
    format!("deployment/{id}")
}

/// Seals anew, after a rotation of the master key, the requests that old keys have sealed. Call it before anything
/// runs; repeating it, whole or from the middle, is harmless.
pub(crate) async fn reseal(journal: &Journal, key: &MasterKey) -> Result<()> {
    if !key.has_old() {
        return Ok(());
    }
    // Only unfinished deployments have their request still.
    for record in journal.unfinished().await? {
        let Some(sealed) = journal.request(record.id).await? else { continue };
        match key.reseal(&seal_context(record.id), &sealed) {
            Ok(None) => {}
            Ok(Some(sealed)) => journal.replace_request(record.id, sealed).await?,
            Err(e) => tracing::error!(deployment = %record.id, cause = e.chain(), "a journalled request is unreadable"),
        }
    }
    Ok(())
}
