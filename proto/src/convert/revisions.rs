use super::{config, digest, name, optional, parsed, required};
use crate::agents::v1 as pb;
use hoistway_model::{
    Error, Result, RevisionId,
    revision::{Change, Derivation, Diff, NewImage, Reason, Revision, RevisionState, SpecChanges},
};

/// Makes the request for a derivation from an earlier revision, without its operation.
pub fn derive_request(revision: RevisionId, derivation: Derivation) -> pb::DeriveRevisionRequest {
    let Derivation { agent, from, reason, changes } = derivation;
    pb::DeriveRevisionRequest {
        operation: None,
        revision_id: revision.to_string(),
        agent: agent.into(),
        from_revision_id: from.to_string(),
        reason: reason.as_str().into(),
        image: changes.image.map(|i| pb::NewImage {
            image: i.image.to_string(),
            build_id: i.build_id.unwrap_or_default(),
            entry_point: i.entry_point.unwrap_or_default(),
        }),
        tools: changes.tools.map(|tools| pb::BoundTools { tools: tools.into_iter().map(Into::into).collect() }),
        fingerprint: changes.fingerprint.map(Into::into),
        ..changes.config.into()
    }
}

impl TryFrom<pb::DeriveRevisionRequest> for Derivation {
    type Error = Error;

    fn try_from(mut r: pb::DeriveRevisionRequest) -> Result<Self> {
        let image = |i: pb::NewImage| -> Result<NewImage> {
            Ok(NewImage {
                image: parsed("image.image", &i.image)?,
                build_id: optional(i.build_id),
                entry_point: optional(i.entry_point),
            })
        };
        let config = config::of_derivation(&mut r)?;
        Ok(Self {
            agent: name("agent", &r.agent)?,
            from: parsed("from_revision_id", &r.from_revision_id)?,
            reason: required("reason", Reason::parse(&r.reason))?,
            changes: SpecChanges {
                image: r.image.map(image).transpose()?,
                tools: r.tools.map(|t| t.tools.into_iter().map(TryInto::try_into).collect()).transpose()?,
                config,
                fingerprint: digest("fingerprint", r.fingerprint)?,
            },
        })
    }
}

impl From<Revision> for pb::Revision {
    fn from(r: Revision) -> Self {
        Self {
            id: r.id.to_string(),
            number: r.number,
            spec: Some(r.spec.into()),
            image_digest: r.image_digest.map(Into::into),
            reason: r.reason.as_str().into(),
            deployment_id: r.deployment.map(|d| d.to_string()),
            of: r.of,
            state: r.state.as_str().into(),
            message: r.message,
            current: r.current,
            needs_rebuild: r.needs_rebuild,
            created_at: r.created_at,
            served_at: r.served_at,
        }
    }
}

impl TryFrom<pb::Revision> for Revision {
    type Error = Error;

    fn try_from(r: pb::Revision) -> Result<Self> {
        Ok(Self {
            id: parsed("revision.id", &r.id)?,
            number: r.number,
            spec: required("revision.spec", r.spec)?.try_into()?,
            image_digest: digest("revision.image_digest", r.image_digest)?,
            reason: required("revision.reason", Reason::parse(&r.reason))?,
            deployment: r.deployment_id.map(|d| parsed("revision.deployment_id", &d)).transpose()?,
            of: r.of,
            state: required("revision.state", RevisionState::parse(&r.state))?,
            message: r.message,
            current: r.current,
            needs_rebuild: r.needs_rebuild,
            created_at: r.created_at,
            served_at: r.served_at,
        })
    }
}

impl From<Diff> for pb::DiffRevisionsResponse {
    fn from(d: Diff) -> Self {
        let change = |c: Change| pb::Change { field: c.field, from: c.from, to: c.to };
        Self {
            from_revision_id: d.from.map(|(id, _)| id.to_string()),
            from_number: d.from.map(|(_, number)| number),
            to_revision_id: d.to.0.to_string(),
            to_number: d.to.1,
            changes: d.changes.into_iter().map(change).collect(),
        }
    }
}

impl TryFrom<pb::DiffRevisionsResponse> for Diff {
    type Error = Error;

    fn try_from(d: pb::DiffRevisionsResponse) -> Result<Self> {
        let from = match (d.from_revision_id, d.from_number) {
            (Some(id), Some(number)) => Some((parsed("from_revision_id", &id)?, number)),
            _ => None,
        };
        let change = |c: pb::Change| Change { field: c.field, from: c.from, to: c.to };
        Ok(Self {
            from,
            to: (parsed("to_revision_id", &d.to_revision_id)?, d.to_number),
            changes: d.changes.into_iter().map(change).collect(),
        })
    }
}
