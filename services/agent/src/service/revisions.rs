//! Revisions as users see them, and what differs between them.

use super::{Service, revision_supervisor::RevisionHealth, view::masked};
use crate::store::{AgentRecord, ImageFacts, Revision, StoredPhase};
use hoistway_model::{
    Name, Result,
    limits::MAX_LOOK_UP,
    redact::MASK,
    revision::{self as shown, Change, Diff, RevisionRef, RevisionState},
};
use std::collections::BTreeMap;

impl Service {
    pub(super) async fn list_revisions(
        &self,
        agent: Name,
        before: Option<RevisionRef>,
        limit: u32,
    ) -> Result<Vec<shown::Revision>> {
        let record = self.record(&agent).await?;
        let before = match before {
            // A number need not be kept any more to count back from.
            Some(RevisionRef::Number(number)) => Some(number),
            Some(other) => Some(self.store.find_revision(&record, other).await?.number),
            None => None,
        };
        let revisions = self.store.revisions(&record, before, limit.min(MAX_LOOK_UP)).await?;
        Ok(revisions.into_iter().map(|revision| self.shown_as_revision(&record, revision)).collect())
    }

    pub(super) async fn diff(&self, agent: Name, from: Option<RevisionRef>, to: RevisionRef) -> Result<Diff> {
        let record = self.record(&agent).await?;
        let to = self.store.find_revision(&record, to).await?;
        let from = match from {
            Some(from) => Some(self.store.find_revision(&record, from).await?),
            None => self.store.numbered_before(&record, to.number).await?,
        };
        Ok(Diff {
            changes: changes(from.as_ref().map(fields).unwrap_or_default(), fields(&to)),
            from: from.map(|revision| (revision.public, revision.number)),
            to: (to.public, to.number),
        })
    }

    pub(super) fn shown_as_revision(&self, agent: &AgentRecord, revision: Revision) -> shown::Revision {
        let (state, message) = self.state(agent, &revision);
        let image = self.image(&revision);
        shown::Revision {
            needs_rebuild: self.needs_rebuild(&revision.spec, image.as_ref()),
            image_digest: image.map(|image| image.digest).or(revision.spec.image.digest),
            id: revision.public,
            number: revision.number,
            spec: masked(revision.spec),
            reason: revision.reason,
            deployment: revision.deployment,
            of: revision.of,
            state,
            message,
            current: agent.desired == Some(revision.id),
            created_at: revision.created_at,
            served_at: revision.served_at,
        }
    }

    fn image(&self, revision: &Revision) -> Option<ImageFacts> {
        let running = self.supervisor(&revision.id).and_then(|supervisor| supervisor.condition().image);
        running.or_else(|| revision.image.clone())
    }

    fn state(&self, agent: &AgentRecord, revision: &Revision) -> (RevisionState, String) {
        let current = agent.desired == Some(revision.id) || agent.active == Some(revision.id);
        if agent.stopped && current {
            return (RevisionState::Stopped, String::new());
        }
        if agent.active == Some(revision.id) {
            return (RevisionState::Serving, String::new());
        }
        if revision.phase == StoredPhase::Retired {
            return (RevisionState::Superseded, String::new());
        }
        let now = self.supervisor(&revision.id).map(|supervisor| supervisor.condition().life);
        match (now, &revision.failure) {
            (Some(RevisionHealth::Failed { message, .. }), _) => (RevisionState::Failed, message),
            (Some(RevisionHealth::Waiting { why }), _) => (RevisionState::Starting, why),
            (None, Some((_, message, _))) if revision.phase == StoredPhase::Failed => {
                (RevisionState::Failed, message.clone())
            }
            _ => (RevisionState::Starting, revision.message.clone()),
        }
    }
}

/// The shown value of a field, and the value by which it is compared.
type Fields = BTreeMap<String, (String, Vec<u8>)>;

/// Everything that can differ between two revisions. Values of variables are compared, and shown only if they are no
/// secrets.
fn fields(revision: &Revision) -> Fields {
    let mut fields = Fields::new();
    let mut put = |field: String, value: &str| {
        fields.insert(field, (value.to_owned(), value.as_bytes().to_vec()));
    };
    let spec = &revision.spec;
    put("image".to_owned(), &spec.image.display_tagged());
    let digest = revision.image.as_ref().map(|image| image.digest).or(spec.image.digest);
    for (field, value) in [
        ("image_digest", digest.map(|digest| digest.to_string())),
        ("build_id", spec.build_id.clone()),
        ("entry_point", spec.entry_point.clone()),
        ("python", revision.image.as_ref().map(|image| image.python.clone())),
    ] {
        if let Some(value) = value {
            put(field.to_owned(), &value);
        }
    }
    for (field, value) in spec.config.texts() {
        put(field, &value);
    }
    for tool in &spec.tools {
        put(format!("required_tools[{}]", tool.name), tool.name.as_str());
    }
    for model in &spec.config.llm {
        put(format!("llm_configs[{}].provider", model.role.as_str()), &model.provider);
        put(format!("llm_configs[{}].model", model.role.as_str()), &model.model);
    }
    for var in &spec.config.env {
        let (value, shown) = (var.value.expose(), var.is_shown());
        let shown = if shown { value } else { MASK }.to_owned();
        let meaning = format!("{:?} {value}", var.secret).into_bytes();
        fields.insert(format!("env[{}]", var.name), (shown, meaning));
    }
    fields
}

fn changes(from: Fields, to: Fields) -> Vec<Change> {
    let mut names: Vec<&String> = from.keys().chain(to.keys()).collect();
    names.sort();
    names.dedup();
    let differs = names.into_iter().filter(|name| from.get(*name).map(|v| &v.1) != to.get(*name).map(|v| &v.1));
    let shown = |side: &Fields, name: &String| side.get(name).map(|(shown, _)| shown.clone());
    differs.map(|name| Change { field: name.clone(), from: shown(&from, name), to: shown(&to, name) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(of: &[(&str, &str, &str)]) -> Fields {
        let each = |(name, shown, value): &(&str, &str, &str)| {
            ((*name).to_owned(), ((*shown).to_owned(), value.as_bytes().to_vec()))
        };
        of.iter().map(each).collect()
    }

    #[test]
    fn values_that_are_not_shown_are_compared() {
        let from = fields(&[("env[A]", MASK, "1"), ("env[B]", MASK, "2"), ("env[C]", MASK, "3"), ("image", "x", "x")]);
        let to =
            fields(&[("env[A]", MASK, "1"), ("env[B]", MASK, "changed"), ("env[D]", MASK, "4"), ("image", "y", "y")]);
        let change = |field: &str, from: Option<&str>, to: Option<&str>| Change {
            field: field.into(),
            from: from.map(Into::into),
            to: to.map(Into::into),
        };
        assert_eq!(
            changes(from, to),
            [
                change("env[B]", Some(MASK), Some(MASK)),
                change("env[C]", Some(MASK), None),
                change("env[D]", None, Some(MASK)),
                change("image", Some("x"), Some("y")),
            ]
        );
    }
}
