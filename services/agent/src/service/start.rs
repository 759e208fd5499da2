//! Starting a revision beside the serving one.

use super::{Service, keeper::Keeper};
use crate::store::{Begin, ImageFacts, Kept, Revision};
use hoistway_kit::{time::now_ms, token::ServiceToken};
use hoistway_model::{
    Code, Error, Operation, Result, RevisionId,
    agent::{AgentSpec, Phase, RevisionStatus},
};
use std::sync::Arc;

/// A start that is under way, or what became of one long ago.
pub(super) enum Start {
    Keeper(Arc<Keeper>),
    Known(RevisionStatus),
}

impl Service {
    /// Records the revision and lets a keeper start it. A repeated call finds what the first one began.
    pub(super) async fn begin_start(
        self: Arc<Self>,
        operation: Operation,
        id: RevisionId,
        spec: AgentSpec,
    ) -> Result<Start> {
        let name = spec.agent.clone();
        let _lock = self.lock(&name).await;
        let new = new_revision(Some(&operation), id, spec, None)?;
        let start = match self.store.begin_start(Some(&operation), &new).await? {
            Begin::New => Start::Keeper(self.keep_revision(new, false)),
            Begin::Again(kept) => self.resume(*kept)?,
        };
        self.settle(&name).await?;
        Ok(start)
    }

    /// A recorded revision goes on: with its keeper, with a new one, or not at all.
    pub(super) fn resume(self: &Arc<Self>, kept: Revision) -> Result<Start> {
        if let Some(keeper) = self.keeper(&kept.id) {
            return Ok(Start::Keeper(keeper));
        }
        match (kept.phase, kept.failure.clone()) {
            (Kept::Failed, Some((code, message, details))) => Err(Error::new(code, message).with_details(details)),
            (Kept::Retired, _) => Ok(Start::Known(RevisionStatus {
                revision: kept.id,
                phase: Phase::Running,
                message: String::new(),
                image_digest: kept.image.map(|i| i.digest),
            })),
            _ => {
                let proven = kept.phase == Kept::Ready;
                Ok(Start::Keeper(self.keep_revision(kept, proven)))
            }
        }
    }

    /// Waits for what a start comes to.
    pub(super) async fn outcome(&self, start: Start) -> Result<RevisionStatus> {
        let keeper = match start {
            Start::Keeper(keeper) => keeper,
            Start::Known(status) => return Ok(status),
        };
        match keeper.settled().await {
            // It was not undone: whoever asks again after the restart joins it then.
            Err(e) if e.code == Code::Aborted && self.stopping.is_cancelled() => {
                Err(Error::new(Code::Unavailable, "the agent service is shutting down"))
            }
            settled => settled,
        }
    }
}

/// A revision that has not been started yet; `image` is what is known of its image already.
pub(super) fn new_revision(
    operation: Option<&Operation>,
    id: RevisionId,
    spec: AgentSpec,
    image: Option<ImageFacts>,
) -> Result<Revision> {
    Ok(Revision {
        id,
        operation: operation.map(|o| o.id),
        spec,
        token: ServiceToken::generate()?.secret().clone(),
        phase: Kept::Starting,
        message: String::new(),
        failure: None,
        image,
        created_at: now_ms(),
    })
}
