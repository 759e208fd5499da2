//! The deploy's steps, one file each. An action and its undo are stateless and idempotent: everything they need is in
//! the request and the log, every id was minted before, and repeating them changes nothing.

pub mod bind;
pub mod build;
pub mod start;
pub mod switch;
pub mod tools;

use crate::{api::deploy_request::DeployRequest, saga::log::Log};
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
    pub request: &'a DeployRequest,
    pub log: &'a Log,
}

impl Context<'_> {
    /// The operation `id` on behalf of this deployment.
    fn operation(&self, id: OperationId) -> Operation {
        Operation::of(self.id, id)
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
