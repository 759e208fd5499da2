//! Starting a revision beside the serving one.

use super::{Service, revision_supervisor::RevisionSupervisor};
use crate::store::{Begin, ImageFacts, Revision, StoredPhase};
use hoistway_kit::{time::now_ms, token::ServiceToken};
use hoistway_model::{
    Code, Digest, Error, Name, Operation, Result, RevisionId,
    agent::{AgentSpec, Phase, RevisionStatus},
    revision::{Derivation, Reason, RevisionRef},
};
use std::sync::Arc;

/// A start that is under way, or what became of one long ago.
pub(super) enum Start {
    RevisionSupervisor(Arc<RevisionSupervisor>),
    Known(RevisionStatus),
}

impl Service {
    /// Records the revision and lets a supervisor start it. A repeated call finds what the first one began.
    pub(super) async fn begin_start(
        self: Arc<Self>,
        operation: Operation,
        id: RevisionId,
        spec: AgentSpec,
    ) -> Result<Start> {
        let name = spec.agent.clone();
        let _lock = self.lock(&name).await;
        let new = new_revision(&operation, id, spec)?;
        let payload = self.store.start_payload(&new)?;
        self.record_start(&name, &operation, payload, new).await
    }

    /// The same with the specification of an earlier revision, changed.
    pub(super) async fn begin_derived(
        self: Arc<Self>,
        operation: Operation,
        id: RevisionId,
        derivation: Derivation,
    ) -> Result<Start> {
        let Derivation { agent: name, from, reason, changes } = derivation;
        let _lock = self.lock(&name).await;
        let payload = Digest::of(format!("{name} {id} {from} {reason}").as_bytes());
        // A repeated call needs no base, which may have gone meanwhile.
        let new = match self.store.begun_before(&operation, &id).await? {
            Some(kept) => kept,
            None => {
                let agent = self.store.agent(&name).await?.ok_or_else(|| Error::not_found("agent", &name))?;
                let base = self.store.find_revision(&agent, RevisionRef::Id(from)).await?;
                // The known image saves asking its registry again.
                let image = base.image.filter(|_| changes.image.is_none());
                let new = new_revision(&operation, id, changes.apply(base.spec))?;
                Revision { reason, of: Some(base.number), image, ..new }
            }
        };
        self.record_start(&name, &operation, payload, new).await
    }

    /// Under the agent's lock.
    async fn record_start(
        self: &Arc<Self>,
        name: &Name,
        operation: &Operation,
        payload: Digest,
        new: Revision,
    ) -> Result<Start> {
        let start = match self.store.begin_start(operation, payload, new).await? {
            Begin::New(new) => Start::RevisionSupervisor(self.start_supervisor(*new, false)),
            Begin::Again(kept) => self.resume(*kept)?,
        };
        let settled = self.settle(name).await?;
        self.drain(settled, self.drain);
        Ok(start)
    }

    /// A recorded revision goes on: with its supervisor, with a new one, or not at all.
    pub(super) fn resume(self: &Arc<Self>, kept: Revision) -> Result<Start> {
        if let Some(supervisor) = self.supervisor(&kept.id) {
            return Ok(Start::RevisionSupervisor(supervisor));
        }
        match (kept.phase, kept.failure.clone()) {
            (StoredPhase::Failed, Some((code, message, details))) => {
                Err(Error::new(code, message).with_details(details))
            }
            (StoredPhase::Retired, _) => Ok(Start::Known(RevisionStatus {
                revision: kept.public,
                number: kept.number,
                phase: Phase::Running,
                message: String::new(),
                image_digest: kept.image.map(|i| i.digest),
            })),
            _ => {
                let proven = kept.phase == StoredPhase::Ready;
                Ok(Start::RevisionSupervisor(self.start_supervisor(kept, proven)))
            }
        }
    }

    /// Waits for what a start comes to.
    pub(super) async fn outcome(&self, start: Start) -> Result<RevisionStatus> {
        let supervisor = match start {
            Start::RevisionSupervisor(supervisor) => supervisor,
            Start::Known(status) => return Ok(status),
        };
        match supervisor.settled().await {
            // It was not undone: whoever asks again after the restart joins it then.
            Err(e) if e.code == Code::Aborted && self.stopping.is_cancelled() => {
                Err(Error::new(Code::Unavailable, "the agent service is shutting down"))
            }
            settled => settled,
        }
    }
}

/// A revision that has not been started yet and has no number.
fn new_revision(operation: &Operation, id: RevisionId, spec: AgentSpec) -> Result<Revision> {
    Ok(Revision {
        id,
        public: id,
        number: 0,
        reason: Reason::Deploy,
        deployment: operation.deployment,
        of: None,
        served_at: None,
        operation: Some(operation.id),
        spec,
        token: ServiceToken::generate()?.secret().clone(),
        phase: StoredPhase::Starting,
        message: String::new(),
        failure: None,
        image: None,
        created_at: now_ms(),
    })
}

/// Another instance of a revision, with a specification that differs at most in what the platform fills in.
pub(super) fn new_instance(of: Revision, spec: AgentSpec, image: Option<ImageFacts>) -> Result<Revision> {
    Ok(Revision {
        id: RevisionId::mint(),
        operation: None,
        spec,
        token: ServiceToken::generate()?.secret().clone(),
        phase: StoredPhase::Starting,
        message: String::new(),
        failure: None,
        image,
        ..of
    })
}
