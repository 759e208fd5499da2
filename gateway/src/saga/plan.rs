//! Looks everything up that a deploy names, and decides which steps have work to do. Changes nothing.

use super::{
    log::{Log, ToolsOutput},
    steps::{Services, tool_plan},
};
use crate::api::deploy_request::{DeployRequest, Source};
use hoistway_kit::secrets::MasterKey;
use hoistway_model::{
    Code, Digest, Error, Result,
    agent::{Agent, Phase},
    build::BuiltImage,
    tool::Resolved,
};

/// What the look-ups found.
pub struct Findings {
    resolved: Resolved,
    agent: Option<Agent>,
    image_digest: Option<Digest>,
}

/// Asks the services about everything that `request` names.
pub async fn look_up(services: &Services, request: &DeployRequest) -> Result<Findings> {
    let providers = request.unknown_providers().into_iter().map(|(_, name)| name).collect();
    let resolve = services.tools.resolve(tool_plan(request), providers, request.identity_provider.clone());
    let agent = async {
        match services.agents.get_agent(request.agent.clone()).await {
            Ok(agent) => Ok(Some(agent)),
            Err(e) if e.code == Code::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    };
    let (resolved, agent) = tokio::try_join!(resolve, agent)?;
    Ok(Findings { resolved, agent, image_digest: None })
}

/// Checks that every name may be used as the request uses it; answers with warnings.
pub fn check(findings: &Findings, request: &DeployRequest, strict: bool) -> Result<Vec<String>> {
    request.check_lookups(&findings.resolved, strict)
}

/// For an image deploy: asks which manifest the tag stands for now, so that a moved tag is a change.
pub async fn pin_image(services: &Services, request: &DeployRequest, findings: &mut Findings) -> Result<()> {
    if let Source::Image(image) = &request.source {
        findings.image_digest =
            match image.digest {
                Some(digest) => Some(digest),
                None => services.agents.resolve_image(image.clone()).await.map_err(|e| {
                    if e.code == Code::ImageNotFound { e.prefixed("failed to create agent: ") } else { e }
                })?,
            };
    }
    Ok(())
}

/// Writes the decision into the log and moves it to its first step; to `Done` when nothing is to be done.
pub fn decide(key: &MasterKey, request: &DeployRequest, findings: Findings, log: &mut Log, now: i64) {
    let Findings { resolved, agent, image_digest } = findings;
    log.image_digest = image_digest;
    log.changes_tools = resolved.changed;
    let agent = agent.filter(|agent| {
        !request.refresh
            && agent.spec.fingerprint == fingerprint(key, request, image_digest)
            && agent.spec.tools == resolved.tools
            && agent.phase != Phase::Failed
    });
    log.tools = Some(ToolsOutput {
        created: Vec::new(),
        tools: resolved.tools.into_iter().map(Into::into).collect(),
        rebind: Vec::new(),
    });
    if let Some(agent) = agent {
        log.changes_agent = false;
        log.image = built_image(&agent).map(Into::into);
        log.pending = (agent.phase == Phase::Pending).then_some(agent.message);
    }
    log.advance(log.next(), now);
}

/// The build that an agent's revision came from.
fn built_image(agent: &Agent) -> Option<BuiltImage> {
    Some(BuiltImage {
        build_id: agent.spec.build_id.clone()?,
        repository: agent.spec.image.repository.clone(),
        tag: agent.spec.image.tag.clone()?,
        digest: agent.spec.image.digest?,
        entry_point: agent.spec.entry_point.clone()?,
    })
}

/// A keyed hash of everything that makes the request's revision; keyed, because env values are in it.
pub fn fingerprint(key: &MasterKey, request: &DeployRequest, image_digest: Option<Digest>) -> Digest {
    let mut meaning = request.canonical_revision();
    meaning.extend_from_slice(image_digest.map(|d| d.to_string()).unwrap_or_default().as_bytes());
    key.fingerprint("revision", &meaning)
}

/// A 503 while nothing has been changed: which service did not answer.
pub fn not_ready(error: Error) -> Error {
    match error.code {
        Code::DeadlineExceeded => Error::new(Code::Unavailable, error.message.clone()).with_source(error),
        _ => error,
    }
}
