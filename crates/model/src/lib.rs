//! The words that every Hoistway crate shares: ids, validated names, digests, errors, records, and one trait for
//! each service. Nothing here knows gRPC, HTTP servers or databases.

pub mod agent;
pub mod budget;
pub mod build;
pub mod digest;
pub mod egress;
pub mod env;
pub mod error;
pub mod framework;
pub mod ids;
pub mod image;
pub mod log;
pub mod metric;
pub mod model_api;
pub mod money;
pub mod name;
pub mod page;
pub mod redact;
pub mod revision;
pub mod source;
mod text_serde;
pub mod tool;
pub mod usage;
pub mod watch;

pub use agent::AgentService;
pub use build::BuildService;
pub use digest::Digest;
pub use egress::{AgentIdentities, EgressService, ToolCredentials};
pub use error::{Code, Error, Result};
pub use ids::{AuditId, BuildAttemptId, DeploymentId, KeyId, OperationId, RevisionId};
pub use money::{ModelPrice, ModelPrices, Money};
pub use name::Name;
pub use redact::Secret;
pub use tool::ToolRegistry;

/// The namespace that every agent is in, as the public API reports it.
pub const NAMESPACE: &str = "agent-system";

/// What every mutating call carries.
///
/// A service stores the answer under `id`: the same id with the same payload gets the stored answer again, also its
/// `created` flags; the same id with another payload is [`Code::Conflict`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Minted by the caller before the first attempt and kept for every retry.
    pub id: OperationId,
    /// The deployment on whose behalf the call is made; absent for direct calls (`POST /api/tools`).
    pub deployment: Option<DeploymentId>,
    /// The lease epoch of the gateway that runs the deployment. Not compared yet; see the .proto file.
    pub epoch: u64,
}

impl Operation {
    /// A new operation outside any deployment.
    pub fn new() -> Self {
        Self { id: OperationId::mint(), deployment: None, epoch: 0 }
    }

    /// The operation `id` of a deployment.
    pub fn of(deployment: DeploymentId, id: OperationId) -> Self {
        Self { id, deployment: Some(deployment), epoch: 0 }
    }
}

impl Default for Operation {
    fn default() -> Self {
        Self::new()
    }
}
