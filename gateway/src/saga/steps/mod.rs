//! The steps of a deployment in their order, one file each, action and undo side by side. [`STEPS`] drives the
//! planning, running, undoing and timing of deployments: a step is added by its file and one line there.

mod apply_tools;
mod bind_waiting_agents;
mod build_image;
pub mod plan;
pub mod saga_log;
mod start_revision;
pub mod switch_route;

use crate::deploy::{kind::DeploymentKind, request::DeployRequest};
use async_trait::async_trait;
use hoistway_kit::secrets::MasterKey;
use hoistway_model::{
    AgentService, BuildService, DeploymentId, Operation, OperationId, Result, ToolRegistry, tool::ToolPlan,
};
use saga_log::SagaLog;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::{borrow::Cow, fmt, sync::Arc};

/// All steps in the order in which they run. They are undone in the opposite order.
static STEPS: [&dyn Step; 6] = [
    &plan::Plan,
    &apply_tools::ApplyTools,
    &build_image::BuildImage,
    &start_revision::StartRevision,
    &switch_route::SwitchRoute,
    &bind_waiting_agents::BindWaitingAgents,
];

/// Returns their names in their order.
pub fn names() -> impl Iterator<Item = &'static str> {
    STEPS.iter().map(|step| step.name())
}

/// One step of a deployment. Action and undo are stateless and idempotent: everything that they need is in the request
/// and the log, every id was created before, and repeating them changes nothing.
#[async_trait]
pub trait Step: Send + Sync {
    /// The name in the journal, in answers and in logs. It is stored, so a released one does not change.
    fn name(&self) -> &'static str;

    /// Whether the step has anything to do, as far as the log knows.
    fn has_work(&self, log: &SagaLog) -> bool;

    /// Performs the step and writes its output into `log`.
    async fn run(&self, ctx: &Context<'_>, log: &mut SagaLog) -> Result<()>;

    /// Reverses what the step did or may have done.
    async fn undo(&self, _: &Context<'_>) -> Result<()> {
        Ok(())
    }

    /// Whether it reads the source of the request, which is then in memory until it has ended.
    fn reads_source(&self) -> bool {
        false
    }

    /// Whether it is the point of no return: it cannot be undone, so the deployment can then only go on.
    fn commits(&self) -> bool {
        false
    }

    /// Whether a request to stop the agent cancels a deployment in this step.
    fn yields_to_stop(&self) -> bool {
        false
    }
}

/// The position of a deployment: the step whose intent is written and which may have happened, or the end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(usize);

impl Position {
    /// Accepted; the plan is not made yet.
    pub const PLAN: Self = Self(0);
    /// Nothing left to do.
    pub const DONE: Self = Self(STEPS.len());

    /// Returns the position with this name.
    pub fn named(name: &str) -> Option<Self> {
        let step = STEPS.iter().position(|step| step.name() == name).map(Self);
        step.or_else(|| (name == Self::DONE.name()).then_some(Self::DONE))
    }

    /// Returns the name in the journal, in answers and in logs.
    pub fn name(self) -> &'static str {
        self.step().map_or("done", Step::name)
    }

    /// Returns the step at this position; `None` at the end.
    pub fn step(self) -> Option<&'static dyn Step> {
        STEPS.get(self.0).copied()
    }

    /// Returns the next position with work to do.
    pub fn next(self, log: &SagaLog) -> Self {
        let mut later = (self.0 + 1..STEPS.len()).map(Self);
        later.find(|next| next.step().is_some_and(|step| step.has_work(log))).unwrap_or(Self::DONE)
    }

    /// Returns the steps to undo after a failure at this position, in order. The failed step is the first: its effects
    /// are unknown.
    pub fn undone(self, log: &SagaLog) -> impl Iterator<Item = &'static dyn Step> {
        let begun = STEPS.iter().take(self.0 + 1).rev().copied();
        begun.filter(|step| step.has_work(log))
    }

    /// Whether the deployment's tools are complete.
    pub fn has_tools(self) -> bool {
        Some(self) > Self::named(apply_tools::ApplyTools.name())
    }

    /// Whether the source of the request is still needed.
    pub fn needs_source(self) -> bool {
        STEPS.iter().skip(self.0).any(|step| step.reads_source())
    }

    /// Whether the point of no return may have been passed.
    pub fn may_have_committed(self) -> bool {
        STEPS.iter().take(self.0 + 1).any(|step| step.commits())
    }

    /// Whether the point of no return has been passed.
    pub fn has_committed(self) -> bool {
        STEPS.iter().take(self.0).any(|step| step.commits())
    }

    /// Whether a request to stop the agent cancels a deployment that is here.
    pub fn yields_to_stop(self) -> bool {
        self.step().is_some_and(Step::yields_to_stop)
    }
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Position {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = Cow::<'de, str>::deserialize(deserializer)?;
        Self::named(&name).ok_or_else(|| de::Error::custom(format!("unknown step {name}")))
    }
}

/// The services that steps act on.
#[derive(Debug, Clone)]
pub struct Services {
    /// Tools and bindings.
    pub tools: Arc<dyn ToolRegistry>,
    /// Images.
    pub builds: Arc<dyn BuildService>,
    /// Revisions and routes.
    pub agents: Arc<dyn AgentService>,
}

/// The data of a step's deployment.
pub struct Context<'a> {
    pub services: &'a Services,
    pub key: &'a MasterKey,
    pub id: DeploymentId,
    pub work: &'a DeploymentKind,
    /// The log before the step.
    pub log: &'a SagaLog,
}

impl Context<'_> {
    /// Returns the operation `id` on behalf of this deployment.
    fn operation(&self, id: OperationId) -> Operation {
        Operation::of(self.id, id)
    }

    /// Returns the tools to register and those to bind: from the request of a deploy, otherwise from the plan.
    fn tool_plan(&self) -> ToolPlan {
        match self.work {
            DeploymentKind::Deploy(request) => tool_plan(request),
            DeploymentKind::Rollback(_) | DeploymentKind::Config(_) | DeploymentKind::Rebuild(_) => ToolPlan {
                agent: self.work.agent().clone(),
                create: Vec::new(),
                bind: self.log.tools.iter().flat_map(|found| &found.tools).map(|tool| tool.name.clone()).collect(),
            },
        }
    }
}

/// Returns the request's tools in the registry's form.
fn tool_plan(request: &DeployRequest) -> ToolPlan {
    ToolPlan {
        agent: request.agent.clone(),
        create: request.tools_to_create.clone(),
        bind: request.required_tools.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::revision::Reason;

    fn log(builds: bool, changes_tools: bool, changes_agent: bool) -> SagaLog {
        SagaLog { changes_tools, changes_agent, ..SagaLog::accepted(Reason::Deploy, builds, 0) }
    }

    fn path(mut log: SagaLog) -> Vec<&'static str> {
        let mut names = Vec::new();
        while log.step != Position::DONE {
            log.advance(0);
            names.push(log.step.name());
        }
        names
    }

    #[test]
    fn steps_without_work_are_left_out() {
        assert_eq!(path(log(true, true, true)), ["tools", "build", "start", "switch", "bind", "done"]);
        assert_eq!(path(log(true, false, true)), ["build", "start", "switch", "done"]);
        assert_eq!(path(log(false, true, true)), ["tools", "start", "switch", "bind", "done"]);
        assert_eq!(path(log(false, false, true)), ["start", "switch", "done"]);
        assert_eq!(path(log(true, true, false)), ["tools", "switch", "bind", "done"]);
        assert_eq!(path(log(true, false, false)), ["done"]);
    }

    #[test]
    fn the_failed_step_is_undone_first_and_steps_without_work_are_not() {
        let undone =
            |at: &str, log: &SagaLog| -> Vec<_> { Position::named(at).unwrap().undone(log).map(Step::name).collect() };
        assert_eq!(undone("start", &log(true, true, true)), ["start", "build", "tools", "plan"]);
        assert_eq!(undone("start", &log(false, false, true)), ["start", "plan"]);
        assert_eq!(undone("tools", &log(true, true, false)), ["tools", "plan"]);
    }

    #[test]
    fn every_position_is_read_back_from_its_name_in_the_journal() {
        for position in (0..=STEPS.len()).map(Position) {
            let text = serde_json::to_string(&position).unwrap();
            assert_eq!(serde_json::from_str::<Position>(&text).unwrap(), position, "{text}");
        }
        assert!(serde_json::from_str::<Position>("\"dance\"").is_err());
    }

    #[test]
    fn there_is_one_point_of_no_return() {
        assert_eq!(STEPS.iter().filter(|step| step.commits()).count(), 1);
        let switch = Position::named("switch").unwrap();
        assert!(switch.may_have_committed() && !switch.has_committed());
    }
}
