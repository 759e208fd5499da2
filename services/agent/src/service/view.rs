//! Agents as the API shows them.

use super::{
    Service,
    failed_wake::IDLE,
    revision_supervisor::{RevisionCondition, RevisionHealth},
};
use crate::store::{AgentRecord, ImageFacts, Revision, StoredPhase};
use hoistway_kit::time::now_ms;
use hoistway_model::{
    Error, Result, RevisionId, Secret,
    agent::{Agent, AgentSpec, Phase},
    redact::MASK,
};

pub(super) const STARTING: &str = "the agent is starting";
const UNFINISHED: &str = "the agent's first deploy is not finished yet";

impl Service {
    /// An agent as the API shows it.
    pub(super) async fn view(&self, mut record: AgentRecord) -> Result<Agent> {
        loop {
            if let Some(shown) = self.store.shown_revision(&record).await? {
                return Ok(self.render(record, shown));
            }
            // Another instance may have taken the place of its own between the two reads.
            let not_found = || Error::not_found("agent", &record.name);
            let now = self.store.agent(&record.name).await?.ok_or_else(not_found)?;
            if now.desired == record.desired {
                return Err(not_found());
            }
            record = now;
        }
    }

    pub(super) fn render(&self, record: AgentRecord, shown: Revision) -> Agent {
        let wanted = self.condition(&shown.id);
        let (phase, message) = self.phase(&record, &shown, wanted.as_ref());
        let running = record.active.filter(|active| *active != shown.id).and_then(|active| self.condition(&active));
        let image = running.or(wanted).and_then(|c| c.image).or(shown.image);
        let entry_point = image.as_ref().and_then(|i| i.entry_point.as_deref());
        let life = record.active.and_then(|active| self.condition(&active)).map(|condition| condition.life);
        let idle = match life {
            Some(life) => !record.stopped && matches!(life, RevisionHealth::Idle),
            // One that was just marked has no supervisor yet.
            None => record.idle && !record.stopped,
        };
        let needs_rebuild = self.needs_rebuild(&shown.spec, image.as_ref());
        let isolation = self.runtime.isolation();
        Agent {
            name: record.name,
            revision: shown.public,
            revision_number: shown.number,
            shown_env: self.environment.shown(&shown.spec, entry_point),
            phase,
            message,
            idle,
            image_digest: image.map(|i| i.digest).or(shown.spec.image.digest),
            needs_rebuild,
            isolation: isolation.enforced,
            network: isolation.network,
            limits: isolation.limits,
            created_at: record.created_at,
            updated_at: record.updated_at,
            spec: masked(shown.spec),
        }
    }

    /// Whether an image that was built here is for another Python than there is now, has no base where agents run in
    /// containers, or has packages that were put together by an older Hoistway.
    pub(super) fn needs_rebuild(&self, spec: &AgentSpec, image: Option<&ImageFacts>) -> bool {
        let suits = |image: &ImageFacts| match self.runtime.runs_images() {
            // An image that runs as it is has its own Python. One that is not known to have a base ran as a process.
            true => image.has_base == Some(true),
            false => self.interpreter.suits(&image.python).is_ok(),
        };
        let outdated = |image: &ImageFacts| !suits(image) || image.has_former_packages();
        spec.build_id.is_some() && image.is_some_and(outdated)
    }

    pub(super) fn phase(
        &self,
        record: &AgentRecord,
        shown: &Revision,
        wanted: Option<&RevisionCondition>,
    ) -> (Phase, String) {
        if record.stopped {
            return (Phase::Stopped, stopped(record));
        }
        let Some(active) = &record.active else { return first_phase(record, shown, wanted) };
        let serving = self.supervisor(active);
        let (phase, message) = match serving.as_ref().map(|serving| serving.condition().life) {
            Some(RevisionHealth::Ready) => (Phase::Running, String::new()),
            Some(RevisionHealth::Idle) => {
                let message = serving.as_ref().map_or_else(|| IDLE.to_owned(), |serving| serving.idle_message());
                (Phase::Running, message)
            }
            None if record.idle => (Phase::Running, IDLE.to_owned()),
            // Invokes are held as before, so that it stays what it was.
            Some(RevisionHealth::Starting) if serving.as_ref().is_some_and(|serving| serving.for_invoke) => {
                (Phase::Running, STARTING.to_owned())
            }
            Some(RevisionHealth::Waiting { why }) => (Phase::Pending, why),
            Some(RevisionHealth::Down { why, restarts, next_try_ms, .. }) => {
                (Phase::Failed, down(&why, restarts, next_try_ms))
            }
            Some(RevisionHealth::Failed { message, .. }) => (Phase::Failed, message),
            Some(RevisionHealth::Starting | RevisionHealth::Gone) | None => (Phase::Pending, STARTING.to_owned()),
        };
        if *active == shown.id {
            return (phase, message);
        }
        let newer = match wanted.map(|c| &c.life) {
            Some(RevisionHealth::Waiting { why }) => {
                format!("a newer revision waits for its image ({why}); the one before it is kept")
            }
            Some(RevisionHealth::Failed { message, .. }) => {
                format!("a newer revision could not be started ({message}); the one before it is kept")
            }
            _ => "a newer revision is starting".to_owned(),
        };
        (phase, if message.is_empty() { newer } else { format!("{message}; {newer}") })
    }

    pub(super) fn condition(&self, id: &RevisionId) -> Option<RevisionCondition> {
        self.supervisor(id).map(|supervisor| supervisor.condition())
    }
}

/// Of an agent that has never served.
fn first_phase(record: &AgentRecord, shown: &Revision, wanted: Option<&RevisionCondition>) -> (Phase, String) {
    match wanted.map(|c| &c.life) {
        Some(RevisionHealth::Waiting { why }) => (Phase::Pending, why.clone()),
        Some(RevisionHealth::Failed { message, .. }) => (Phase::Failed, message.clone()),
        Some(RevisionHealth::Down { why, restarts, next_try_ms, .. }) => {
            (Phase::Failed, down(why, *restarts, *next_try_ms))
        }
        Some(RevisionHealth::Starting) => (Phase::Pending, STARTING.to_owned()),
        Some(RevisionHealth::Ready | RevisionHealth::Idle | RevisionHealth::Gone) | None => {
            match (shown.phase, &shown.failure) {
                (StoredPhase::Failed, Some((_, message, _))) => (Phase::Failed, message.clone()),
                (StoredPhase::PendingImage, _) => (Phase::Pending, shown.message.clone()),
                _ if record.desired.is_some() => (Phase::Pending, STARTING.to_owned()),
                _ => (Phase::Pending, UNFINISHED.to_owned()),
            }
        }
    }
}

pub(super) fn stopped(record: &AgentRecord) -> String {
    format!("the agent is stopped; POST /api/agents/{}/start starts it", record.name)
}

fn down(why: &str, restarts: u32, next_try_ms: Option<i64>) -> String {
    let next = match next_try_ms {
        None => "it is being started again".to_owned(),
        Some(at) => format!("next start in {} s", (at - now_ms()).max(0).saturating_add(999) / 1000),
    };
    format!("crashed: {why}; {next} (restarts so far: {restarts})")
}

pub(super) fn masked(mut spec: AgentSpec) -> AgentSpec {
    for var in spec.config.env.iter_mut().filter(|var| !var.is_shown()) {
        var.value = Secret::new(MASK);
    }
    spec
}
