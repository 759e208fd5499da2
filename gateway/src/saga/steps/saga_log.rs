//! The journal's log of one deployment besides its request: the plan, every id created before its call, the step whose
//! intent is written, and the output of each step before it.

use super::Position;
use hoistway_kit::telemetry;
use hoistway_model::{
    BuildAttemptId, Digest, Name, OperationId, RevisionId,
    build::BuiltImage,
    revision::Reason,
    tool::{AppliedTools, BoundTool},
};
use serde::{Deserialize, Serialize};

/// The state of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Waiting for its turn or running.
    Running,
    /// Failed; its effects are being undone.
    Undoing,
    /// The agent runs this deployment's revision (or waits for its image).
    Succeeded,
    /// Failed, and nothing of it is left.
    Failed,
}

impl State {
    /// Returns the text in the journal and in answers.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Running => "RUNNING",
            State::Undoing => "UNDOING",
            State::Succeeded => "SUCCEEDED",
            State::Failed => "FAILED",
        }
    }

    /// Reads the journal's text.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Running, Self::Undoing, Self::Succeeded, Self::Failed].into_iter().find(|s| s.as_str() == text)
    }
}

/// Every id that the deployment's calls carry, created before the first of them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Ids {
    pub tools: OperationId,
    pub build: OperationId,
    pub attempt: BuildAttemptId,
    pub start: OperationId,
    pub revision: RevisionId,
    pub switch: OperationId,
}

impl Ids {
    pub fn mint() -> Self {
        Self {
            tools: OperationId::mint(),
            build: OperationId::mint(),
            attempt: BuildAttemptId::mint(),
            start: OperationId::mint(),
            revision: RevisionId::mint(),
            switch: OperationId::mint(),
        }
    }
}

/// The output of the tools step, or the plan's result when that step has no work.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToolsOutput {
    /// The tools created by this deployment.
    pub created: Vec<Name>,
    /// The required tools.
    pub tools: Vec<BoundTool>,
    /// The calls that bind the tools to agents which have been waiting for them: the waiting agents may be the first
    /// users of a created or adopted tool.
    pub rebind: Vec<(Name, OperationId)>,
}

impl From<AppliedTools> for ToolsOutput {
    fn from(AppliedTools { created, tools }: AppliedTools) -> Self {
        let mut there: Vec<Name> = created.clone();
        there.extend(tools.iter().filter(|t| t.url.is_some()).map(|t| t.name.clone()));
        there.sort();
        there.dedup();
        Self { created, tools, rebind: there.into_iter().map(|name| (name, OperationId::mint())).collect() }
    }
}

/// The times of a step.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Timing {
    pub step: Position,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// `None` while it runs.
    pub completed_at: Option<i64>,
}

/// The default of logs of earlier versions, which have no reason: all were deploys.
const fn deploy() -> Reason {
    Reason::Deploy
}

/// The log of one deployment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SagaLog {
    /// The step whose intent is written.
    pub step: Position,
    /// Whether an image is to be built.
    pub builds: bool,
    /// Whether the tool registry has anything to change.
    pub changes_tools: bool,
    /// Whether the agent needs a new revision.
    pub changes_agent: bool,
    pub ids: Ids,
    /// The reason of the revision.
    #[serde(default = "deploy")]
    pub reason: Reason,
    /// The revision that the new one is derived from: id and number.
    #[serde(default)]
    pub from: Option<(RevisionId, u64)>,
    /// The revision that this deployment made, or found up to date: id and number.
    #[serde(default)]
    pub made: Option<(RevisionId, u64)>,
    /// For an image deploy: the digest of its tag when the deploy was planned.
    pub image_digest: Option<Digest>,
    /// For a deploy: the fingerprint that a later one is compared with. Its source may no longer be in memory by then.
    #[serde(default)]
    pub fingerprint: Option<Digest>,
    pub tools: Option<ToolsOutput>,
    pub image: Option<BuiltImage>,
    /// The reason that the started revision is not ready yet.
    pub pending: Option<String>,
    pub timings: Vec<Timing>,
    /// The HTTP request that caused it.
    #[serde(default)]
    pub request_id: Option<String>,
    /// The span of that request, a W3C `traceparent`, which the deployment goes on with also after a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

impl SagaLog {
    /// Returns the log of a deployment that has just been accepted.
    pub fn accepted(reason: Reason, builds: bool, now: i64) -> Self {
        Self {
            step: Position::PLAN,
            builds,
            changes_tools: true,
            changes_agent: true,
            ids: Ids::mint(),
            reason,
            from: None,
            made: None,
            image_digest: None,
            fingerprint: None,
            tools: None,
            image: None,
            pending: None,
            timings: vec![Timing { step: Position::PLAN, started_at: now, completed_at: None }],
            request_id: telemetry::request_id().map(|id| id.to_string()),
            traceparent: telemetry::traceparent(),
        }
    }

    /// Ends the present step and intends the next one with work to do.
    pub fn advance(&mut self, now: i64) {
        let step = self.step.next(self);
        if let Some(last) = self.timings.last_mut() {
            last.completed_at = Some(now);
        }
        if step != Position::DONE {
            self.timings.push(Timing { step, started_at: now, completed_at: None });
        }
        self.step = step;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn logs_that_earlier_versions_wrote_are_read_and_written_alike() {
        let id = "01a22606-85f4-77f6-ae00-77dd510c3d1a";
        let digest = Digest::of(b"x");
        let text = format!(
            r#"{{"step":"tools","builds":true,"changes_tools":true,"changes_agent":true,"ids":{{"tools":"{id}","build":"{id}","attempt":"{id}","start":"{id}","revision":"{id}","switch":"{id}"}},"reason":"rollback","from":["{id}",3],"made":null,"image_digest":"{digest}","fingerprint":null,"tools":{{"created":["t"],"tools":[{{"name":"t","url":"http://t"}}],"rebind":[["t","{id}"]]}},"image":{{"build_id":"build-1","repository":"a","tag":"1","digest":"{digest}","entry_point":"agent.py"}},"pending":null,"timings":[{{"step":"plan","started_at":7,"completed_at":8}},{{"step":"tools","started_at":8,"completed_at":null}}],"request_id":null}}"#
        );
        let log: SagaLog = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&log).unwrap(), text);
        let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let traced =
            text.replace(r#""request_id":null"#, &format!(r#""request_id":"r","traceparent":"{traceparent}""#));
        let log: SagaLog = serde_json::from_str(&traced).unwrap();
        assert_eq!((log.traceparent.as_deref(), serde_json::to_string(&log).unwrap()), (Some(traceparent), traced));
        let first =
            text.replace(r#""reason":"rollback","from":["#, r#""from_was":["#).replace(r#","request_id":null"#, "");
        assert_eq!(serde_json::from_str::<SagaLog>(&first).unwrap().reason, Reason::Deploy);
    }
}
