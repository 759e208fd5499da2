//! A network of an agent's own, and the connections that lead into it and out of it.

mod agent_network;
pub(super) mod egress_forwarder;
mod invoke_forwarder;
mod relay;

pub(super) use agent_network::AgentNetwork;
pub(super) use invoke_forwarder::{InvokeForwarder, Target};
