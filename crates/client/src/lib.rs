//! gRPC clients that implement the model's service traits, so that no other crate handles messages or statuses.
//!
//! Each client takes a [`Transport`]: a channel to another process, or the service's own server in this one.

mod agents;
mod builds;
mod egress;
mod tools;

pub use agents::AgentClient;
pub use builds::BuildClient;
pub use egress::{AgentIdentitiesClient, EgressClient, ToolCredentialsClient};
pub use hoistway_kit::grpc::Transport;
pub use tools::ToolRegistryClient;

use hoistway_kit::grpc::status;
use hoistway_model::Result;
use std::time::Duration;
use tonic::{Request, Response, Status};

/// The deadline of requests for a service's metrics or state: a scrape or a probe has no more time itself.
const METRICS_DEADLINE: Duration = Duration::from_secs(5);

/// Returns the message of a call, or its status as the model's error.
fn answer<T>(result: Result<Response<T>, Status>) -> Result<T> {
    result.map(Response::into_inner).map_err(status::from_status)
}

/// Returns a required member of a response.
fn member<T>(name: &str, value: Option<T>) -> Result<T> {
    hoistway_proto::convert::required(name, value)
}

/// Makes a request with a deadline of its own.
fn with_deadline<T>(message: T, deadline: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}
