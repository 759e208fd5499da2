//! Converts messages to records and back. Parsing is strict: a message that the model would not accept is an
//! [`Code::InvalidArgument`](hoistway_model::Code) naming its field.

mod agents;
mod budgets;
mod builds;
mod config;
mod egress;
mod logs;
mod metrics;
mod page;
mod revisions;
/// Records of the tool registry, and its two messages with separate credentials.
pub mod tools;
mod usage;

pub use page::{page_query, part};
pub use revisions::derive_request;

use crate::common::v1 as common;
use hoistway_model::{
    DeploymentId, Digest, Error, Name, Operation, OperationId, Result, image::StoredImage, tool::BoundTool,
};
use std::str::FromStr;

/// Returns a required message member.
pub fn required<T>(field: &str, value: Option<T>) -> Result<T> {
    value.ok_or_else(|| Error::field(field, "is required"))
}

/// Parses a text.
pub fn parsed<T: FromStr>(field: &str, text: &str) -> Result<T>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e| Error::field(field, e))
}

/// Parses a name.
pub fn name(field: &str, text: &str) -> Result<Name> {
    Name::parse(field, text)
}

/// Returns a text, or `None` if it is empty.
fn optional(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

fn digest(field: &str, text: Option<String>) -> Result<Option<Digest>> {
    text.map(|t| parsed(field, &t)).transpose()
}

impl From<Operation> for common::Operation {
    fn from(o: Operation) -> Self {
        Self {
            id: o.id.to_string(),
            deployment_id: o.deployment.map(|d| d.to_string()).unwrap_or_default(),
            epoch: o.epoch,
        }
    }
}

impl TryFrom<common::Operation> for Operation {
    type Error = Error;

    fn try_from(o: common::Operation) -> Result<Self> {
        Ok(Self {
            id: parsed::<OperationId>("operation.id", &o.id)?,
            deployment: optional(o.deployment_id)
                .map(|d| parsed::<DeploymentId>("operation.deployment_id", &d))
                .transpose()?,
            epoch: o.epoch,
        })
    }
}

impl From<BoundTool> for common::BoundTool {
    fn from(t: BoundTool) -> Self {
        Self { name: t.name.into(), url: t.url }
    }
}

impl TryFrom<common::BoundTool> for BoundTool {
    type Error = Error;

    fn try_from(t: common::BoundTool) -> Result<Self> {
        Ok(Self { name: name("tools.name", &t.name)?, url: t.url })
    }
}

impl From<StoredImage> for common::StoredImage {
    fn from(i: StoredImage) -> Self {
        Self { repository: i.repository, digest: i.digest.to_string() }
    }
}

impl TryFrom<common::StoredImage> for StoredImage {
    type Error = Error;

    fn try_from(i: common::StoredImage) -> Result<Self> {
        Ok(Self { digest: parsed("images.digest", &i.digest)?, repository: i.repository })
    }
}
