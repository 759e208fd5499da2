//! A connection of an agent, as its requests see it.

use crate::{
    Egress,
    agent_limits::{AgentLimits, Permit},
    forward::refusal::Refusal,
    forward::target::Mode,
};
use hoistway_kit::connection_limits::Connection;
use hoistway_model::{Name, RevisionId};
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

/// Who speaks on a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Identity {
    /// Each request says it, with a token.
    PerRequest,
    /// The connection has said it.
    Known(RevisionId),
    /// The connection has shown a token that is none.
    Rejected,
}

/// A connection as its requests see it. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct AgentConnection {
    pub(crate) egress: Arc<Egress>,
    pub(crate) identity: Identity,
    pub(crate) mode: Mode,
    pub(crate) local: Option<SocketAddr>,
    /// The permits that the connection holds until its end, also when it becomes a tunnel.
    pub(crate) held: Arc<Held>,
}

/// A connection's place: a stranger's until it is known whose it is, and one of that agent's from then on.
#[derive(Debug)]
pub(crate) struct Held {
    connection: Connection,
    place: OnceLock<Permit>,
}

impl Held {
    /// A stranger's.
    pub(crate) fn new(connection: Connection) -> Self {
        Self { connection, place: OnceLock::new() }
    }

    /// Counts the connection as the agent's, if it is nobody's yet.
    pub(crate) fn by(&self, agents: &AgentLimits, agent: &Name) -> Result<(), Refusal> {
        if self.place.get().is_none() {
            // Of two requests that come here at once, one gives its place back.
            let _ = self.place.set(agents.connection(agent)?);
            self.connection.mark_authenticated(agent.as_str());
        }
        Ok(())
    }
}
