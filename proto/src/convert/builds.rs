use super::{name, optional, parsed, required};
use crate::builds::v1 as pb;
use hoistway_model::{
    Error, Operation, Result, Secret,
    build::{
        Build, BuildQuery, BuildRequest, BuildSource, BuildStatus, BuildStep, BuiltImage, Collected, RebuildRequest,
    },
};

impl From<(Operation, BuildRequest)> for pb::BuildRequest {
    fn from((operation, r): (Operation, BuildRequest)) -> Self {
        Self {
            operation: Some(operation.into()),
            attempt_id: r.attempt.to_string(),
            agent: r.agent.into(),
            files: r.source.files.into_map().into_iter().collect(),
            entry_point: r.source.entry_point,
            requirements: r.source.requirements.map(|r| r.text().to_owned()),
            refresh: r.refresh,
            mask: r.mask.iter().map(|s| s.expose().to_owned()).collect(),
        }
    }
}

impl TryFrom<pb::BuildRequest> for (Operation, BuildRequest) {
    type Error = Error;

    fn try_from(r: pb::BuildRequest) -> Result<Self> {
        let request = BuildRequest {
            attempt: parsed("attempt_id", &r.attempt_id)?,
            agent: name("agent", &r.agent)?,
            source: BuildSource::parse(r.files.into_iter().collect(), Some(&r.entry_point), r.requirements.as_deref())?,
            refresh: r.refresh,
            mask: r.mask.into_iter().map(Secret::new).collect(),
        };
        Ok((required("operation", r.operation)?.try_into()?, request))
    }
}

impl From<(Operation, RebuildRequest)> for pb::RebuildImageRequest {
    fn from((operation, r): (Operation, RebuildRequest)) -> Self {
        Self {
            operation: Some(operation.into()),
            attempt_id: r.attempt.to_string(),
            agent: r.agent.into(),
            digest: r.digest.to_string(),
            mask: r.mask.iter().map(|s| s.expose().to_owned()).collect(),
        }
    }
}

impl TryFrom<pb::RebuildImageRequest> for (Operation, RebuildRequest) {
    type Error = Error;

    fn try_from(r: pb::RebuildImageRequest) -> Result<Self> {
        let request = RebuildRequest {
            attempt: parsed("attempt_id", &r.attempt_id)?,
            agent: name("agent", &r.agent)?,
            digest: parsed("digest", &r.digest)?,
            mask: r.mask.into_iter().map(Secret::new).collect(),
        };
        Ok((required("operation", r.operation)?.try_into()?, request))
    }
}

impl From<BuiltImage> for pb::BuiltImage {
    fn from(i: BuiltImage) -> Self {
        Self {
            build_id: i.build_id,
            repository: i.repository,
            tag: i.tag,
            digest: i.digest.to_string(),
            entry_point: i.entry_point,
        }
    }
}

impl TryFrom<pb::BuiltImage> for BuiltImage {
    type Error = Error;

    fn try_from(i: pb::BuiltImage) -> Result<Self> {
        Ok(Self {
            digest: parsed("image.digest", &i.digest)?,
            build_id: i.build_id,
            repository: i.repository,
            tag: i.tag,
            entry_point: i.entry_point,
        })
    }
}

impl From<Build> for pb::Build {
    fn from(b: Build) -> Self {
        Self {
            id: b.id,
            agent: b.agent.into(),
            status: b.status.as_str().into(),
            image: b.image.map(Into::into),
            error: b.error.unwrap_or_default(),
            created_at: b.created_at,
            completed_at: b.completed_at,
            attempt_id: b.attempt.to_string(),
            request_id: b.request_id.unwrap_or_default(),
            steps: b.steps.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Build> for Build {
    type Error = Error;

    fn try_from(b: pb::Build) -> Result<Self> {
        Ok(Self {
            agent: name("build.agent", &b.agent)?,
            status: required("build.status", BuildStatus::parse(&b.status))?,
            image: b.image.map(TryInto::try_into).transpose()?,
            error: optional(b.error),
            id: b.id,
            created_at: b.created_at,
            completed_at: b.completed_at,
            attempt: parsed("build.attempt_id", &b.attempt_id)?,
            request_id: optional(b.request_id),
            steps: b.steps.into_iter().map(Into::into).collect(),
        })
    }
}

impl From<Collected> for pb::CollectImagesResponse {
    fn from(Collected { images, blobs, bytes }: Collected) -> Self {
        Self { images, blobs, bytes }
    }
}

impl From<pb::CollectImagesResponse> for Collected {
    fn from(pb::CollectImagesResponse { images, blobs, bytes }: pb::CollectImagesResponse) -> Self {
        Self { images, blobs, bytes }
    }
}

impl From<BuildStep> for pb::BuildStep {
    fn from(s: BuildStep) -> Self {
        Self { step: s.step, started_at: s.started_at, completed_at: s.completed_at }
    }
}

impl From<pb::BuildStep> for BuildStep {
    fn from(s: pb::BuildStep) -> Self {
        Self { step: s.step, started_at: s.started_at, completed_at: s.completed_at }
    }
}

impl From<BuildQuery> for pb::ListBuildsRequest {
    fn from(q: BuildQuery) -> Self {
        Self {
            limit: q.limit,
            agent: q.agent.map(Into::into).unwrap_or_default(),
            before: q.before.unwrap_or_default(),
        }
    }
}

impl TryFrom<pb::ListBuildsRequest> for BuildQuery {
    type Error = Error;

    fn try_from(q: pb::ListBuildsRequest) -> Result<Self> {
        let agent = optional(q.agent).map(|a| name("agent", &a)).transpose()?;
        Ok(Self { agent, before: optional(q.before), limit: q.limit })
    }
}
