use super::{name, optional, parsed, required};
use crate::builds::v1 as pb;
use hoistway_model::{
    Error, Operation, Result, Secret,
    build::{Build, BuildRequest, BuildSource, BuildStatus, BuiltImage, Collected},
};

impl From<(Operation, BuildRequest)> for pb::BuildRequest {
    fn from((operation, r): (Operation, BuildRequest)) -> Self {
        Self {
            operation: Some(operation.into()),
            attempt_id: r.attempt.to_string(),
            agent: r.agent.into(),
            files: r.source.files.into_iter().collect(),
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
