//! The deploy's steps, one file each. An action and its undo are stateless and idempotent: everything they need is in
//! the request and the log, every id was minted before, and repeating them changes nothing.

pub mod bind;
pub mod build;
pub mod start;
pub mod switch;
pub mod tools;

use crate::{
    deploy::{kind::Work, request::DeployRequest},
    saga::log::Log,
};
use hoistway_kit::secrets::MasterKey;
use hoistway_model::{AgentService, BuildService, DeploymentId, Operation, OperationId, ToolRegistry, tool::ToolPlan};
use std::sync::Arc;

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

/// What an action sees of its deployment.
pub struct Context<'a> {
    pub services: &'a Services,
    pub key: &'a MasterKey,
    pub id: DeploymentId,
    pub work: &'a Work,
    pub log: &'a Log,
}

impl Context<'_> {
    /// The operation `id` on behalf of this deployment.
    fn operation(&self, id: OperationId) -> Operation {
        Operation::of(self.id, id)
    }

    /// The tools to make sure of and those to bind: a deploy says so itself, others have what the plan found.
    fn tool_plan(&self) -> ToolPlan {
        match self.work {
            Work::Deploy(request) => tool_plan(request),
            Work::Rollback(_) | Work::Config(_) | Work::Rebuild(_) => ToolPlan {
                agent: self.work.agent().clone(),
                create: Vec::new(),
                bind: self.log.tools.iter().flat_map(|found| &found.tools).map(|tool| tool.name.clone()).collect(),
            },
        }
    }
}

/// The request's tools as the registry wants them.
pub fn tool_plan(request: &DeployRequest) -> ToolPlan {
    ToolPlan {
        agent: request.agent.clone(),
        create: request.tools_to_create.clone(),
        bind: request.required_tools.clone(),
    }
}
