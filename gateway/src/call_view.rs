//! Agents' outbound calls as lists and events show them.

use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Name, RevisionId,
    egress::{Call, CallTarget},
};
use serde::Serialize;
use utoipa::ToSchema;

/// An outbound call of an agent, carried out or refused. Never a body, a header or a query.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Call)]
pub struct CallOut {
    /// Its id; later records have greater numbers.
    #[schema(examples("1042"))]
    id: String,
    /// When it began.
    #[schema(format = DateTime)]
    time: String,
    /// The agent; null where none could be recognised.
    #[schema(value_type = Option<String>, examples("hello"))]
    agent: Option<Name>,
    /// The agent's revision.
    #[schema(value_type = Option<String>)]
    revision: Option<RevisionId>,
    /// The tool; null for what is no tool, and where the call was refused before that was known.
    #[schema(value_type = Option<String>, examples("stripe-api"))]
    tool: Option<Name>,
    /// The model provider.
    #[schema(value_type = Option<String>)]
    model_provider: Option<Name>,
    /// The method.
    #[schema(examples("GET"))]
    method: String,
    /// `http` or `https`; null where the address was not understood.
    #[schema(examples("https"))]
    scheme: Option<String>,
    /// The host, with the port where the scheme does not mean it.
    #[schema(examples("api.stripe.com"))]
    host: Option<String>,
    /// The path, without a query.
    #[schema(examples("/v1/charges"))]
    path: String,
    /// The status that the agent got.
    #[schema(examples(200))]
    status: Option<u16>,
    /// Milliseconds until the head of the answer.
    #[schema(examples(84))]
    latency_ms: Option<u64>,
    /// Milliseconds until the end.
    #[schema(examples(91))]
    duration_ms: u64,
    /// Bytes of the request's body.
    bytes_sent: u64,
    /// Bytes of the answer's body.
    bytes_received: u64,
    /// Why egress refused the call or could not carry it out, in one word; null when the host answered.
    #[schema(examples("host_not_allowed"))]
    refused: Option<String>,
    /// The same in words, as the agent was told.
    error: Option<String>,
    /// Why it ended early after the answer had begun, in one word.
    broken: Option<String>,
}

impl CallOut {
    /// Returns its id.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl From<Call> for CallOut {
    fn from(call: Call) -> Self {
        let (tool, model_provider) = match call.target {
            Some(CallTarget::Tool(name)) => (Some(name), None),
            Some(CallTarget::ModelProvider(name)) => (None, Some(name)),
            None => (None, None),
        };
        let (scheme, host) = call.origin.split_once("://").unzip();
        Self {
            id: call.id.to_string(),
            time: rfc3339(call.at),
            agent: call.agent,
            revision: call.revision,
            tool,
            model_provider,
            scheme: scheme.map(str::to_owned),
            host: host.map(str::to_owned),
            method: call.method,
            path: call.path,
            latency_ms: call.status.map(|_| call.first_byte_ms),
            status: call.status,
            duration_ms: call.duration_ms,
            bytes_sent: call.bytes_up,
            bytes_received: call.bytes_down,
            refused: call.refused,
            error: call.error,
            broken: call.broken,
        }
    }
}
