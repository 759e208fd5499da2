//! The requests of deployments: compared by digest, sealed for the journal, read from it, and limited while they wait
//! there.

use super::{Inner, record::Record};
use crate::{audit::PendingAuditEntry, deploy::kind::DeploymentKind, store::Journal};
use hoistway_kit::{
    quota::{QuotaExceeded, QuotaGrant, SharedQuota},
    secrets::MasterKey,
};
use hoistway_model::{Code, DeploymentId, Digest, Error, Result};
use std::sync::Arc;

/// The most bytes of waiting requests in the journal, in total and of one API key.
const WAITING: usize = 256 << 20;
const WAITING_OF_ONE: usize = 128 << 20;
/// The size in bytes up to which waiting requests are not counted.
const SMALL: usize = 64 << 10;
/// The size in bytes from which requests are not hashed, sealed or read on a thread of the runtime.
const SLOW: usize = 256 << 10;

/// Returns the quota of waiting requests.
pub fn waiting() -> Arc<SharedQuota> {
    SharedQuota::new(WAITING, WAITING_OF_ONE)
}

impl Inner {
    /// Reserves room in the journal for the request of a waiting deployment. Small requests, rollbacks among them, need
    /// none.
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

    /// Returns the work, and the digest by which equal works are recognised.
    pub(super) async fn with_digest(&self, work: DeploymentKind) -> Result<(DeploymentKind, Digest)> {
        let key = self.key.clone();
        apart(work.bytes(), move || {
            let digest = key.fingerprint("deploy-request", &work.canonical());
            Ok((work, digest))
        })
        .await
    }

    /// Returns the work, and its request for the journal.
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

/// Processes many bytes on a separate thread, so that other requests are answered meanwhile.
async fn apart<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    if bytes <= SLOW {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal("reading or writing a request", e))?
}

fn seal_context(id: DeploymentId) -> String {
    format!("deployment/{id}")
}

/// Seals again, after a rotation of the master key, the requests that were sealed with old keys. Must be called before
/// anything runs; repeating it, even after an interruption, is harmless.
pub(crate) async fn reseal(journal: &Journal, key: &MasterKey) -> Result<()> {
    if !key.has_old() {
        return Ok(());
    }
    // Only unfinished deployments still have their request.
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
