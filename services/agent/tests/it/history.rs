//! Revisions: numbered, kept, compared, gone back to.

use crate::fake_runtime::{Done, FAILS, SLOW, StoreLimits, TestService, name, spec, with_prompt};
use hoistway_agent::runtime::State;
use hoistway_model::{
    Code, DeploymentId, Digest, Name, Operation, OperationId, RevisionId, Secret,
    agent::{AgentConfig, AgentConfigChange, AgentSpec, EnvVar, LlmConfig, LlmRole, Phase},
    page::PageQuery,
    redact::MASK,
    revision::{Derivation, Reason, Revision, RevisionRef, RevisionState, SpecChanges},
    tool::BoundTool,
};

fn back_to(agent: &Name, from: RevisionId) -> Derivation {
    Derivation { agent: agent.clone(), from, reason: Reason::Rollback, changes: SpecChanges::default() }
}

impl TestService {
    async fn derive(&self, derivation: &Derivation) -> RevisionId {
        let revision = RevisionId::mint();
        self.agents.derive_revision(Operation::new(), revision, derivation.clone()).await.unwrap();
        self.switch(&derivation.agent, revision).await;
        revision
    }

    async fn kept(&self, agent: &Name) -> Vec<Revision> {
        self.agents.list_revisions(agent.clone(), None, 100).await.unwrap()
    }

    async fn one(&self, agent: &Name, wanted: RevisionRef) -> Revision {
        self.agents.get_revision(agent.clone(), wanted).await.unwrap()
    }
}

fn summary(revisions: &[Revision]) -> Vec<(u64, RevisionState, bool)> {
    revisions.iter().map(|r| (r.number, r.state, r.current)).collect()
}

#[tokio::test]
async fn revisions_are_numbered_and_the_numbers_of_failed_ones_are_not_used_again() {
    use RevisionState::*;
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    let deployment = DeploymentId::mint();
    let first = RevisionId::mint();
    let operation = Operation::of(deployment, OperationId::mint());
    let status = stack.agents.start_revision(operation, first, a.clone()).await.unwrap();
    assert_eq!((status.revision, status.number), (first, 1));
    assert_eq!(summary(&stack.kept(&a.agent).await), [(1, Starting, false)]);
    stack.switch(&a.agent, first).await;

    let bad = with_prompt(&a, FAILS);
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    stack.agents.start_revision(operation.clone(), revision, bad).await.unwrap_err();
    assert_eq!(summary(&stack.kept(&a.agent).await), [(2, Failed, false), (1, Serving, true)]);
    stack.agents.undo_start(operation.id, a.agent.clone(), revision).await.unwrap();

    let third = stack.deploy(&spec("a", &stack.push("2").0)).await;
    let kept = stack.kept(&a.agent).await;
    assert_eq!(summary(&kept), [(3, Serving, true), (1, Superseded, false)]);
    assert_eq!((kept[0].id, kept[0].reason, kept[0].of), (third, Reason::Deploy, None));
    assert_eq!((kept[1].id, kept[1].deployment), (first, Some(deployment)));
    assert!(kept.iter().all(|r| r.served_at.is_some() && r.spec.config.env[0].value.expose() == MASK));
    assert_eq!(stack.agent(&a.agent).await.revision_number, 3);

    let older = stack.agents.list_revisions(a.agent.clone(), Some(RevisionRef::Number(3)), 100).await.unwrap();
    assert_eq!(summary(&older), [(1, Superseded, false)]);
    let by_id = stack.agents.list_revisions(a.agent.clone(), Some(RevisionRef::Id(third)), 100).await.unwrap();
    assert_eq!(by_id, older);
    assert_eq!(stack.agents.list_revisions(a.agent.clone(), None, 1).await.unwrap().len(), 1);
    // The other agent counts for itself.
    stack.deploy(&spec("b", &a.image)).await;
    assert_eq!(summary(&stack.kept(&name("b")).await), [(1, Serving, true)]);
}

#[tokio::test]
async fn a_revision_is_made_of_an_earlier_one_with_its_secrets_and_without_its_registry() {
    let mut stack = TestService::start().await;
    let old = AgentSpec { fingerprint: Digest::of(b"old"), ..spec("a", &stack.push("1").0) };
    let first = stack.deploy(&old).await;
    let env = vec![EnvVar { name: "KEY".into(), value: Secret::new("other"), secret: None }];
    let mut other = spec("a", &stack.push("2").0);
    other.config.env = env;
    stack.deploy(&other).await;
    stack.registry.stop().await;

    let (operation, third) = (Operation::new(), RevisionId::mint());
    let tools = vec![BoundTool { name: name("crm"), url: Some("http://crm.example".into()) }];
    let changes = SpecChanges { tools: Some(tools.clone()), ..SpecChanges::default() };
    let derivation = Derivation { changes, ..back_to(&old.agent, first) };
    for _ in 0..2 {
        let derived = stack.agents.derive_revision(operation.clone(), third, derivation.clone()).await.unwrap();
        assert_eq!((derived.phase, derived.number), (Phase::Running, 3));
    }
    let agent = stack.switch(&old.agent, third).await;
    assert_eq!(
        (agent.revision_number, agent.image_digest, agent.spec.fingerprint),
        (3, old.image.digest, old.fingerprint)
    );
    let instance = stack.runtime.instance(&third).unwrap();
    let get = |n: &str| instance.env.iter().find(|(name, _)| name == n).map(|(_, value)| value.expose());
    assert_eq!((get("KEY"), get("TOOL_URL_CRM")), (Some("hunter2"), Some("http://crm.example")));
    let made = stack.one(&old.agent, RevisionRef::Current).await;
    assert_eq!((made.reason, made.of, made.spec.tools), (Reason::Rollback, Some(1), tools));
    // Also after a restart, with the registry away all the time.
    let stack = stack.restart().await;
    let fourth = stack.derive(&back_to(&old.agent, first)).await;
    assert_eq!(stack.agent(&old.agent).await.revision, fourth);
}

#[tokio::test]
async fn a_derived_revision_that_does_not_start_leaves_the_present_one() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    let first = stack.deploy(&a).await;
    let config = AgentConfigChange { system_prompt: Some(FAILS.into()), ..AgentConfigChange::default() };
    let changes = SpecChanges { config, ..SpecChanges::default() };
    let derivation = Derivation { reason: Reason::Config, changes, ..back_to(&a.agent, first) };
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    for _ in 0..2 {
        let derived = stack.agents.derive_revision(operation.clone(), revision, derivation.clone()).await;
        assert_eq!(derived.unwrap_err().code, Code::AgentStartFailed);
    }
    for _ in 0..2 {
        stack.agents.undo_start(operation.id, a.agent.clone(), revision).await.unwrap();
    }
    let derived = stack.agents.derive_revision(operation, revision, derivation).await;
    assert_eq!(derived.unwrap_err().code, Code::Aborted);
    let agent = stack.agent(&a.agent).await;
    assert_eq!((agent.revision, agent.phase), (first, Phase::Running));
}

#[tokio::test]
async fn a_derivation_repeated_after_its_base_is_gone_gets_its_outcome() {
    let stack = TestService::keeping(StoreLimits { revisions: 0, agents: 9 }).await;
    let a = spec("a", &stack.push("1").0);
    let first = stack.deploy(&a).await;
    let (operation, second) = (Operation::new(), RevisionId::mint());
    let derive = || stack.agents.derive_revision(operation.clone(), second, back_to(&a.agent, first));
    derive().await.unwrap();
    stack.switch(&a.agent, second).await;
    assert_eq!(summary(&stack.kept(&a.agent).await), [(2, RevisionState::Serving, true)]);
    assert_eq!(derive().await.unwrap().number, 2);
    let gone = stack.agents.derive_revision(Operation::new(), RevisionId::mint(), back_to(&a.agent, first)).await;
    let gone = gone.unwrap_err();
    assert_eq!(
        (gone.code, gone.message),
        (Code::NotFound, format!("revision {first} of agent \"a\" is not kept; kept are 2"))
    );
}

#[tokio::test]
async fn as_many_as_set_are_kept_with_their_layers_and_images() {
    let stack = TestService::keeping(StoreLimits { revisions: 2, agents: 9 }).await;
    let mut layers = Vec::new();
    let mut digests = Vec::new();
    for n in 1..=5 {
        let (image, of) = stack.push(&n.to_string());
        digests.push(image.digest.unwrap());
        layers.push(Digest::of(&of[2].blob));
        let before = stack.runtime.done.borrow().len();
        stack.deploy(&spec("a", &image)).await;
        if n > 1 {
            let mut done = stack.runtime.done.subscribe();
            done.wait_for(|d| d[before..].iter().any(|d| matches!(d, Done::Removed(..)))).await.unwrap();
        }
    }
    let a = name("a");
    let numbers: Vec<u64> = stack.kept(&a).await.iter().map(|r| r.number).collect();
    assert_eq!(numbers, [5, 4, 3]);
    let mut used: Vec<_> = stack.agents.images_in_use().await.unwrap().into_iter().map(|i| i.digest).collect();
    used.sort();
    let mut want = digests[2..].to_vec();
    want.sort();
    assert_eq!(used, want);
    let e = stack.agents.get_revision(a.clone(), RevisionRef::Number(2)).await.unwrap_err();
    assert_eq!(
        (e.code, e.message.as_str()),
        (Code::NotFound, "revision 2 of agent \"a\" is not kept; kept are 5, 4, 3")
    );
    // A restart and a shutdown wait for what sweeps.
    let stack = stack.restart().await;
    stack.service.shutdown().await;
    let there = |i: usize| stack.dir.path().join("agent/layers").join(layers[i].hex()).exists();
    assert_eq!([0, 1, 2, 3, 4].map(there), [false, false, true, true, true]);
}

#[tokio::test]
async fn the_previous_one_is_the_one_that_served_before() {
    let stack = TestService::start().await;
    let a = name("a");
    let first = stack.deploy(&spec("a", &stack.push("1").0)).await;
    let e = stack.agents.get_revision(a.clone(), RevisionRef::Previous).await.unwrap_err();
    assert_eq!(e.message, "agent \"a\" has no earlier revision that served and is kept; kept are 1");
    let second = stack.deploy(&spec("a", &stack.push("2").0)).await;
    assert_eq!(stack.one(&a, RevisionRef::Previous).await.id, first);
    stack.derive(&back_to(&a, first)).await;
    assert_eq!(stack.one(&a, RevisionRef::Previous).await.id, second);
    let e = stack.agents.get_revision(name("nobody"), RevisionRef::Current).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::NotFound, "agent \"nobody\" not found"));
}

#[tokio::test]
async fn differences_are_told_field_by_field_and_show_values_only_of_what_is_no_secret() {
    let stack = TestService::start().await;
    let (one, _) = stack.push("1");
    let (two, _) = stack.push("2");
    let var = |name: &str, value: &str| EnvVar { name: name.into(), value: Secret::new(value), secret: None };
    let model = |role, model: &str| LlmConfig { role, provider: "openai".into(), model: model.into() };
    let tool = |text: &str| BoundTool { name: name(text), url: None };
    let before = AgentSpec {
        config: AgentConfig {
            env: vec![var("SAME", "1"), var("CHANGED", "2"), var("GONE", "3"), var("SHOWN", "5")],
            llm: vec![model(LlmRole::Chat, "small")],
            ..spec("a", &one).config
        },
        tools: vec![tool("crm"), tool("erp")],
        ..spec("a", &one)
    };
    let open = EnvVar { secret: Some(false), ..var("SHOWN", "5") };
    let after = AgentSpec {
        config: AgentConfig {
            env: vec![var("NEW", "4"), var("CHANGED", "22"), var("SAME", "1"), open],
            llm: vec![model(LlmRole::Chat, "large")],
            system_prompt: "Be brief.".into(),
            framework: Some("flask".into()),
            identity_provider: Some(name("staff")),
            ..AgentConfig::default()
        },
        tools: vec![tool("crm"), BoundTool { url: Some("http://mail".into()), ..tool("mail") }],
        ..spec("a", &two)
    };
    let (first, second) = (stack.deploy(&before).await, stack.deploy(&after).await);
    let diff = stack.agents.diff_revisions(name("a"), None, RevisionRef::Number(2)).await.unwrap();
    assert_eq!((diff.from, diff.to), (Some((first, 1)), (second, 2)));
    let digest = |image: &hoistway_model::image::ImageRef| image.digest.unwrap().to_string();
    let (old, new) = (digest(&one), digest(&two));
    let told: Vec<_> = diff.changes.iter().map(|c| (c.field.as_str(), c.from.as_deref(), c.to.as_deref())).collect();
    assert_eq!(
        told,
        [
            ("env[CHANGED]", Some(MASK), Some(MASK)),
            ("env[GONE]", Some(MASK), None),
            ("env[NEW]", None, Some(MASK)),
            ("env[SHOWN]", Some(MASK), Some("5")),
            ("framework", None, Some("flask")),
            ("identity_provider", None, Some("staff")),
            ("image_digest", Some(old.as_str()), Some(new.as_str())),
            ("llm_configs[chat].model", Some("small"), Some("large")),
            ("required_tools[erp]", Some("erp"), None),
            ("required_tools[mail]", None, Some("mail")),
            ("system_prompt", Some("Be kind."), Some("Be brief.")),
        ]
    );
    let (to, against) = (RevisionRef::Id(first), Some(RevisionRef::Current));
    let back = stack.agents.diff_revisions(name("a"), against, to).await.unwrap();
    assert_eq!((back.from, back.to, back.changes.len()), (Some((second, 2)), (first, 1), told.len()));
    let whole = stack.agents.diff_revisions(name("a"), None, to).await.unwrap();
    assert!(whole.from.is_none() && whole.changes.iter().all(|c| c.from.is_none()), "{whole:?}");
}

#[tokio::test]
async fn there_are_no_more_agents_than_are_allowed() {
    let stack = TestService::keeping(StoreLimits { revisions: 10, agents: 1 }).await;
    let (image, _) = stack.push("1");
    let first = spec("a", &image);
    stack.agents.check_room(name("a")).await.unwrap();
    stack.deploy(&first).await;
    stack.deploy(&first).await;
    stack.agents.check_room(name("a")).await.unwrap();
    let message =
        "there are 1 agents, which is as many as HOISTWAY_AGENT_MAX_AGENTS allows: delete one, or raise the setting";
    let e = stack.agents.check_room(name("b")).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::ResourceExhausted, message));
    let other = spec("b", &image);
    let start = || stack.agents.start_revision(Operation::new(), RevisionId::mint(), other.clone());
    assert_eq!(start().await.unwrap_err().message, message);
    assert_eq!(stack.agents.list_agents(PageQuery::FIRST).await.unwrap().items.len(), 1);
    stack.agents.delete_agent(Operation::new(), name("a")).await.unwrap();
    start().await.unwrap();
}

#[tokio::test]
async fn a_revision_on_its_way_is_starting_until_it_serves() {
    let stack = TestService::start().await;
    let a = spec("a", &stack.push("1").0);
    stack.deploy(&a).await;
    let slow = with_prompt(&a, SLOW);
    let revision = RevisionId::mint();
    let start = stack.agents.start_revision(Operation::new(), revision, slow);
    let ((), started) = tokio::join!(
        async {
            stack.runtime.wait_for(|d| *d == Done::Applied(revision)).await;
            let seen = stack.one(&a.agent, RevisionRef::Id(revision)).await;
            assert_eq!((seen.number, seen.state, seen.current), (2, RevisionState::Starting, false));
            stack.runtime.set(&revision, State::Ready);
        },
        start
    );
    assert_eq!(started.unwrap().number, 2);
}
