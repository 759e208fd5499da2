//! A deployment in the journal.

use super::steps::{
    Position,
    saga_log::{SagaLog, State, Timing},
};
use crate::deploy::{self, Deployment, DeploymentStatus, DeploymentStep};
use hoistway_model::{Code, DeploymentId, Error, Name, RevisionId};

/// One deployment in the journal, without its request: that may be large, and is read when the deployment begins.
#[derive(Debug, Clone)]
pub struct Record {
    pub id: DeploymentId,
    pub agent: Name,
    pub state: State,
    pub log: SagaLog,
    pub warnings: Vec<String>,
    pub failure: Option<Failure>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub completed_at: Option<i64>,
}

/// The cause of a failed deployment: the public part of its error.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    pub code: String,
    pub message: String,
    pub details: Vec<String>,
}

impl Record {
    /// Returns the record of a deployment that is accepted now.
    pub fn new(agent: Name, log: SagaLog, warnings: Vec<String>, now: i64) -> Self {
        Self {
            id: DeploymentId::mint(),
            agent,
            state: State::Running,
            log,
            warnings,
            failure: None,
            created_at: now,
            completed_at: None,
        }
    }

    /// Records the cause of its failure.
    pub fn fail(&mut self, error: &Error) {
        self.failure = Some(Failure {
            code: error.code.as_str().to_owned(),
            message: error.message.clone(),
            details: error.details.clone(),
        });
    }

    /// Ends it.
    pub fn finish(&mut self, state: State, now: i64) {
        self.state = state;
        self.completed_at = Some(now);
    }

    /// Returns the failure as an error.
    pub fn error(&self) -> Error {
        match &self.failure {
            Some(f) => Error::new(Code::parse(&f.code).unwrap_or(Code::Internal), f.message.clone())
                .with_details(f.details.clone()),
            None => Error::new(Code::Internal, "the deployment failed"),
        }
    }

    /// Returns the revision that it made or is making; `None` while the agent needs no new one.
    pub fn revision(&self) -> Option<RevisionId> {
        let decided = self.log.step > Position::PLAN && self.log.changes_agent;
        decided.then_some(self.log.ids.revision)
    }

    /// Returns it as the API shows it.
    pub fn into_public(self) -> Deployment {
        let status = match (self.state, self.log.step) {
            (State::Running, Position::PLAN) => DeploymentStatus::Pending,
            (State::Running, _) => DeploymentStatus::Running,
            (State::Undoing, _) => DeploymentStatus::Undoing,
            (State::Succeeded, _) => DeploymentStatus::Succeeded,
            (State::Failed, _) => DeploymentStatus::Failed,
        };
        let revision_id = self.revision();
        let error = self.failure.map(|f| deploy::Failure {
            code: Code::parse(&f.code).unwrap_or(Code::Internal),
            message: f.message,
            details: f.details,
        });
        let timings = &self.log.timings;
        Deployment {
            id: self.id,
            agent: self.agent,
            kind: self.log.reason,
            revision: self.log.made.map(|(_, number)| number),
            status,
            step: timings.last().map(|t| t.step.name().to_owned()),
            tools_created: self.log.tools.iter().flat_map(|t| &t.created).map(Name::to_string).collect(),
            image: self.log.image,
            error,
            revision_id,
            warnings: self.warnings,
            request_id: self.log.request_id,
            steps: timings.iter().map(|t| step(t, status)).collect(),
            created_at: self.created_at,
            updated_at: self.completed_at.or_else(|| timings.last().map(|t| t.started_at)).unwrap_or(self.created_at),
            completed_at: self.completed_at,
        }
    }
}

/// Returns a step as the API shows it.
fn step(timing: &Timing, status: DeploymentStatus) -> DeploymentStep {
    let of_step = match (timing.completed_at, status) {
        (Some(_), _) => "SUCCEEDED",
        // The last step.
        (None, DeploymentStatus::Undoing | DeploymentStatus::Failed) => "FAILED",
        (None, _) if timing.step == Position::PLAN => "PENDING",
        (None, _) => "RUNNING",
    };
    DeploymentStep {
        step: timing.step.name(),
        status: of_step,
        started_at: timing.started_at,
        completed_at: timing.completed_at,
    }
}
