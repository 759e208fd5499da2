//! Looks up everything that a deployment refers to, and decides which steps have work to do. Changes nothing.

use super::{
    Context, Services, Step,
    saga_log::{SagaLog, ToolsOutput},
    tool_plan,
};
use crate::deploy::{
    kind::DeploymentKind,
    providers::{self, chosen_by_name},
    request::{DeployRequest, Source, not_registered},
};
use async_trait::async_trait;
use hoistway_kit::secrets::MasterKey;
use hoistway_model::{
    Code, Digest, Error, Name, Result,
    agent::{Agent, AgentSpec, LlmConfig, Phase},
    build::BuiltImage,
    revision::{Revision, RevisionRef},
    tool::{Resolved, ToolPlan},
};

pub struct Plan;

#[async_trait]
impl Step for Plan {
    fn name(&self) -> &'static str {
        "plan"
    }

    fn has_work(&self, _: &SagaLog) -> bool {
        true
    }

    async fn run(&self, ctx: &Context<'_>, log: &mut SagaLog) -> Result<()> {
        let mut findings = look_up(ctx.services, ctx.work).await?;
        check(&findings, ctx.work, false)?;
        pin_image(ctx.services, ctx.work, &mut findings).await?;
        decide(ctx.key, ctx.work, findings, log);
        Ok(())
    }
}

/// The results of the look-ups.
pub struct Findings {
    resolved: Resolved,
    agent: Option<Agent>,
    image_digest: Option<Digest>,
    /// The revision to return to.
    base: Option<Revision>,
    /// Warnings about models that several providers serve equally well.
    choices: Vec<String>,
}

/// Asks the services about everything that the work refers to.
pub async fn look_up(services: &Services, work: &DeploymentKind) -> Result<Findings> {
    match work {
        DeploymentKind::Deploy(request) => deploy(services, request).await,
        DeploymentKind::Rollback(_) | DeploymentKind::Rebuild(_) => {
            let to = if let DeploymentKind::Rollback(rollback) = work { rollback.to } else { RevisionRef::Current };
            let agent = services.agents.get_agent(work.agent().clone());
            let base = services.agents.get_revision(work.agent().clone(), to);
            let (agent, base) = tokio::try_join!(agent, base)?;
            let tools = base.spec.tools.iter().map(|tool| tool.name.clone()).collect();
            let (plan, providers) = (only_bind(work, tools), base.spec.config.llm.iter().map(|m| m.provider.clone()));
            let unknown = providers.filter(|provider| !providers::is_known(provider)).collect();
            let resolved = services.tools.resolve(plan, unknown, base.spec.config.identity_provider.clone()).await?;
            Ok(Findings { resolved, agent: Some(agent), image_digest: None, base: Some(base), choices: Vec::new() })
        }
        DeploymentKind::Config(change) => {
            let agent = services.agents.get_agent(change.agent.clone()).await?;
            let providers = change.unknown_providers().into_iter().map(|(_, name)| name).collect();
            let identity_provider = change.config.identity_provider.clone().flatten();
            let plan = only_bind(work, change.tools_of(&agent));
            let resolve = services.tools.resolve(plan, providers, identity_provider);
            let (resolved, choices) = tokio::try_join!(resolve, choices(services, change.named_models()))?;
            Ok(Findings { resolved, agent: Some(agent), image_digest: None, base: None, choices })
        }
    }
}

async fn deploy(services: &Services, request: &DeployRequest) -> Result<Findings> {
    let providers = request.unknown_providers().into_iter().map(|(_, name)| name).collect();
    let resolve = services.tools.resolve(tool_plan(request), providers, request.config.identity_provider.clone());
    let agent = async {
        match services.agents.get_agent(request.agent.clone()).await {
            Ok(agent) => Ok(Some(agent)),
            Err(e) if e.code == Code::NotFound => {
                services.agents.check_room(request.agent.clone()).await?;
                Ok(None)
            }
            Err(e) => Err(e),
        }
    };
    let choices = choices(services, request.named_models());
    let (resolved, agent, choices) = tokio::try_join!(resolve, agent, choices)?;
    Ok(Findings { resolved, agent, image_digest: None, base: None, choices })
}

/// Returns warnings about models whose provider is a protocol that several registered providers speak.
async fn choices(services: &Services, models: Vec<(String, &LlmConfig)>) -> Result<Vec<String>> {
    if !models.iter().any(|(_, model)| providers::is_known(&model.provider)) {
        return Ok(Vec::new());
    }
    Ok(chosen_by_name(models, &services.tools.list_model_providers().await?))
}

fn only_bind(work: &DeploymentKind, bind: Vec<Name>) -> ToolPlan {
    ToolPlan { agent: work.agent().clone(), create: Vec::new(), bind }
}

/// Checks that the work may use everything that it refers to; returns warnings.
pub fn check(findings: &Findings, work: &DeploymentKind, strict: bool) -> Result<Vec<String>> {
    let resolved = &findings.resolved;
    match work {
        DeploymentKind::Deploy(request) => {
            let mut warnings = request.check_lookups(resolved, strict)?;
            warnings.extend_from_slice(&findings.choices);
            Ok(warnings)
        }
        DeploymentKind::Rollback(_) | DeploymentKind::Rebuild(_) => {
            let Some(base) = &findings.base else { return Ok(Vec::new()) };
            let number = base.number;
            if let Some(name) =
                base.spec.config.identity_provider.as_ref().filter(|_| !resolved.identity_provider_known)
            {
                let message = format!(
                    "revision {number} needs the identity provider \"{name}\", which is not registered any more"
                );
                return Err(Error::new(Code::Conflict, message));
            }
            let mut warnings: Vec<String> = not_registered(resolved).collect();
            let providers = base.spec.config.llm.iter().map(|model| &model.provider);
            let gone = providers.filter(|p| !providers::is_known(p) && !resolved.providers.contains(p));
            warnings.extend(gone.map(|p| format!("the model provider \"{p}\" is not registered any more")));
            Ok(warnings)
        }
        DeploymentKind::Config(change) => {
            if findings.agent.as_ref().is_some_and(|agent| agent.phase == Phase::Stopped) {
                let name = &change.agent;
                let message = format!("agent \"{name}\" is stopped; POST /api/agents/{name}/start, then change it");
                return Err(Error::new(Code::Conflict, message));
            }
            for (path, provider) in change.unknown_providers() {
                if !resolved.providers.contains(&provider) {
                    return Err(providers::unknown_provider(&path, &provider));
                }
            }
            if let Some(Some(name)) =
                change.config.identity_provider.as_ref().filter(|_| !resolved.identity_provider_known)
            {
                let message = format!("\"{name}\" is not a registered identity provider");
                let remedy = "`POST /api/identity-providers` registers one".to_owned();
                return Err(Error::field("identity_provider", message).with_details([remedy]));
            }
            let mut warnings = findings.choices.clone();
            if change.required_tools.is_some() {
                warnings.extend(not_registered(resolved));
            }
            Ok(warnings)
        }
    }
}

/// For an image deploy: looks up the tag's current manifest, so that a moved tag is a change.
pub async fn pin_image(services: &Services, work: &DeploymentKind, findings: &mut Findings) -> Result<()> {
    if let DeploymentKind::Deploy(request) = work
        && let Source::Image(image) = &request.source
    {
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

/// Writes into the log which steps have work to do, and their initial data.
pub fn decide(key: &MasterKey, work: &DeploymentKind, findings: Findings, log: &mut SagaLog) {
    let Findings { resolved, agent, image_digest, base, choices: _ } = findings;
    log.image_digest = image_digest;
    log.fingerprint = match work {
        DeploymentKind::Deploy(request) => Some(fingerprint(key, request, image_digest)),
        _ => None,
    };
    log.changes_tools = resolved.changed;
    // The image to be built again, not the resulting one.
    let outdated = match (work, &base, &agent) {
        (DeploymentKind::Config(_), _, Some(agent)) if agent.needs_rebuild => agent.image_digest,
        (DeploymentKind::Rollback(_), Some(base), _) if base.needs_rebuild => base.image_digest,
        (DeploymentKind::Rebuild(_), Some(base), _) => base.image_digest,
        _ => None,
    };
    let agent = agent.filter(|agent| {
        let same = match (work, &base) {
            (DeploymentKind::Deploy(request), _) if request.refresh || agent.needs_rebuild => false,
            (DeploymentKind::Deploy(_), _) => log.fingerprint == Some(agent.spec.fingerprint),
            (DeploymentKind::Rollback(_), Some(base)) => is_current(agent, base),
            (DeploymentKind::Rollback(_), None) => false,
            // The agent was deployed or stopped meanwhile, or the old interpreter came back.
            (DeploymentKind::Rebuild(rebuild), _) => {
                return !agent.needs_rebuild || agent.phase == Phase::Stopped && !rebuild.start;
            }
            (DeploymentKind::Config(change), _) => {
                log.from = Some((agent.revision, agent.revision_number));
                change.config.is_in(&agent.spec.config)
            }
        };
        // An agent that is down is tried again, except by a configuration that changes nothing.
        let up = matches!(work, DeploymentKind::Config(_)) || !matches!(agent.phase, Phase::Failed | Phase::Stopped);
        same && up && agent.spec.tools == resolved.tools
    });
    log.tools = Some(ToolsOutput { created: Vec::new(), tools: resolved.tools, rebind: Vec::new() });
    if let Some(base) = &base {
        log.from = Some((base.id, base.number));
        log.image = built_image(&base.spec);
    }
    if outdated.is_some() {
        (log.builds, log.image_digest, log.image) = (true, outdated, None);
    }
    if let Some(agent) = agent {
        log.changes_agent = false;
        log.image = built_image(&agent.spec);
        log.pending = (agent.phase == Phase::Pending).then_some(agent.message);
        log.made = Some((agent.revision, agent.revision_number));
    }
}

/// Whether an agent already runs the content of a revision.
fn is_current(agent: &Agent, base: &Revision) -> bool {
    agent.revision == base.id
        || agent.spec.fingerprint == base.spec.fingerprint && agent.image_digest == base.image_digest
}

/// Returns the build that a revision came from.
fn built_image(spec: &AgentSpec) -> Option<BuiltImage> {
    Some(BuiltImage {
        build_id: spec.build_id.clone()?,
        repository: spec.image.repository.clone(),
        tag: spec.image.tag.clone()?,
        digest: spec.image.digest?,
        entry_point: spec.entry_point.clone()?,
    })
}

/// Returns a hash of everything that determines the request's revision; it is keyed, because it includes environment
/// values.
pub fn fingerprint(key: &MasterKey, request: &DeployRequest, image_digest: Option<Digest>) -> Digest {
    let mut meaning = request.canonical_revision();
    meaning.extend_from_slice(image_digest.map(|d| d.to_string()).unwrap_or_default().as_bytes());
    key.fingerprint("revision", &meaning)
}

/// Returns the 503 error of a service that did not answer while nothing has been changed.
pub fn not_ready(error: Error) -> Error {
    match error.code {
        Code::DeadlineExceeded => Error::new(Code::Unavailable, error.message.clone()).with_source(error),
        _ => error,
    }
}
