//! Builds: source to image. Records of the build service and its trait.

use crate::{
    BuildAttemptId, Digest, Name, Operation, OperationId, Result, Secret,
    image::StoredImage,
    log::{LogPieces, LogQuery},
    metric::Metrics,
    source::{self, Requirements, RequiresPython, SourceFiles, declared::Declared},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, pin::Pin};

/// An agent's source, checked: made only by [`BuildSource::parse`].
#[derive(Debug, Clone, PartialEq)]
pub struct BuildSource {
    /// The files.
    pub files: SourceFiles,
    /// The entry file, one of `files`.
    pub entry_point: String,
    /// What to install; `None` means: what the imports say.
    pub requirements: Option<Requirements>,
    /// The Python that `pyproject.toml` or the entry file asks for.
    pub requires_python: Option<RequiresPython>,
}

impl BuildSource {
    /// Checks what a request gives.
    pub fn parse(
        files: BTreeMap<String, impl Into<Vec<u8>>>,
        entry_point: Option<&str>,
        requirements: Option<&str>,
    ) -> Result<Self> {
        Self::parse_with_warnings(files, entry_point, requirements, &mut Vec::new())
    }

    /// The same, and what is not done as the source says.
    pub fn parse_with_warnings(
        files: BTreeMap<String, impl Into<Vec<u8>>>,
        entry_point: Option<&str>,
        requirements: Option<&str>,
        warnings: &mut Vec<String>,
    ) -> Result<Self> {
        let files = SourceFiles::parse(files)?;
        let entry_point = source::entry_point(&files, entry_point)?;
        let Declared { requirements, requires_python } = Declared::read(&files, &entry_point, requirements, warnings)?;
        Ok(Self { files, entry_point, requirements, requires_python })
    }
}

/// What is to be built.
#[derive(Debug, Clone, PartialEq)]
pub struct BuildRequest {
    /// The attempt's id, minted by the caller.
    pub attempt: BuildAttemptId,
    /// The agent that it is for; also the repository's name.
    pub agent: Name,
    /// Files, entry point and requirements.
    pub source: BuildSource,
    /// Resolve the requirements anew although nothing changed.
    pub refresh: bool,
    /// Values that logs and errors must not show.
    pub mask: Vec<Secret>,
}

/// An image that is to be built again out of its own source and requirements.
#[derive(Debug, Clone, PartialEq)]
pub struct RebuildRequest {
    /// The attempt's id, minted by the caller.
    pub attempt: BuildAttemptId,
    /// The agent that it is for, whose repository has the image.
    pub agent: Name,
    /// The image's manifest digest.
    pub digest: Digest,
    /// Values that logs and errors must not show.
    pub mask: Vec<Secret>,
}

/// How far a build is, in the public API's spelling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildStatus {
    /// Accepted, waiting for its turn.
    Pending,
    /// Running.
    Building,
    /// The image is in the registry.
    Succeeded,
    /// It ended without an image.
    Failed,
}

impl BuildStatus {
    /// The public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            BuildStatus::Pending => "PENDING",
            BuildStatus::Building => "BUILDING",
            BuildStatus::Succeeded => "SUCCEEDED",
            BuildStatus::Failed => "FAILED",
        }
    }

    /// Reads the public spelling.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Building, Self::Succeeded, Self::Failed].into_iter().find(|s| s.as_str() == text)
    }
}

/// One build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// `build-<hex>`: of the image once there is one, of the attempt before and when it failed.
    pub id: String,
    /// The agent.
    pub agent: Name,
    /// How far it is.
    pub status: BuildStatus,
    /// The image, once there is one.
    pub image: Option<BuiltImage>,
    /// The public text of the failure.
    pub error: Option<String>,
    /// Milliseconds since the epoch.
    pub created_at: i64,
    /// Milliseconds since the epoch.
    pub completed_at: Option<i64>,
    /// The attempt; attempts are in the order of their beginning.
    pub attempt: BuildAttemptId,
    /// The HTTP request that caused it.
    pub request_id: Option<String>,
    /// Its parts in their order.
    pub steps: Vec<BuildStep>,
}

impl Build {
    /// Whether `id` is its own or its attempt's.
    pub fn has_id(&self, id: &str) -> bool {
        self.id == id || self.attempt.to_string() == id
    }
}

/// A part of a build that took time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// Databases have it as an array; both forms are read.
#[serde(into = "(String, i64, Option<i64>)")]
pub struct BuildStep {
    /// `queue`, `requirements`, `dependencies`, `image` or `publish`.
    pub step: String,
    /// Milliseconds since the epoch.
    pub started_at: i64,
    /// Milliseconds since the epoch; absent while it runs.
    pub completed_at: Option<i64>,
}

impl From<BuildStep> for (String, i64, Option<i64>) {
    fn from(BuildStep { step, started_at, completed_at }: BuildStep) -> Self {
        (step, started_at, completed_at)
    }
}

/// Which builds are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BuildQuery {
    /// Only those of this agent.
    pub agent: Option<Name>,
    /// Only those older than this one: an attempt's id, or a build's.
    pub before: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// Builds that began or ended, as it happens.
pub type BuildEvents = Pin<Box<dyn futures_core::Stream<Item = Result<Build>> + Send>>;

/// An image in the platform's registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuiltImage {
    /// `build-<hex>`.
    pub build_id: String,
    /// Repository in the platform's registry.
    pub repository: String,
    /// Tag; the hex of `build_id`. Never moved.
    pub tag: String,
    /// Manifest digest.
    pub digest: Digest,
    /// The entry file.
    pub entry_point: String,
}

/// What garbage collection removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Collected {
    /// Images.
    pub images: u64,
    /// Blobs, those of the images among them that no other image has.
    pub blobs: u64,
    /// The sizes of the blobs together.
    pub bytes: u64,
}

/// The build service.
#[async_trait]
pub trait BuildService: fmt::Debug + Send + Sync + 'static {
    /// Builds and pushes, and answers when that is done. The same operation again joins the running build or gets
    /// its outcome. The build goes on when the caller goes away.
    async fn build(&self, operation: Operation, request: BuildRequest) -> Result<BuiltImage>;

    /// Builds an image again for the interpreter and the base that there are now, as [`BuildService::build`] does.
    /// Versions are kept where they still fit. One that the registry does not have is
    /// [`crate::Code::ImageNotFound`], one that does not say what it was made of [`crate::Code::UnsupportedImage`].
    async fn rebuild(&self, operation: Operation, request: RebuildRequest) -> Result<BuiltImage>;

    /// Ends the operation's build if it still runs and keeps it from happening later. What it made stays for garbage
    /// collection.
    async fn undo_build(&self, built: OperationId) -> Result<()>;

    /// The build of a public id, or of an attempt: that id stays the same when the build succeeds.
    async fn get_build(&self, id: String) -> Result<Build>;

    /// Builds, newest first.
    async fn list_builds(&self, query: BuildQuery) -> Result<Vec<Build>>;

    /// The log of a build. Following it ends with the build.
    async fn build_logs(&self, id: String, query: LogQuery) -> Result<LogPieces>;

    /// Builds that begin or end from now on.
    async fn build_events(&self) -> Result<BuildEvents>;

    /// What the service measured.
    async fn build_metrics(&self) -> Result<Metrics>;

    /// Keeps images because an agent is going to use them; [`crate::Code::ImageNotFound`] when one is not in the
    /// registry. They stay for an hour at least, then for as long as [`BuildService::collect_images`] is told of them.
    /// Repeating it changes nothing.
    async fn keep_images(&self, images: Vec<StoredImage>) -> Result<()>;

    /// Removes what nobody needs any more. `in_use` are all images of the registry that agents' revisions name; it
    /// may be old by as much as a deploy takes. Images that somebody pushed and tagged stay in any case.
    async fn collect_images(&self, in_use: Vec<StoredImage>) -> Result<Collected>;
}
