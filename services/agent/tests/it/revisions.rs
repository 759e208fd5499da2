//! Start, switch, undo, delete.

use crate::fake_runtime::{Done, FAILS, SLOW, TestService, failure, name, spec, with_prompt};
use hoistway_agent::runtime::State;
use hoistway_model::{
    Code, Operation, RevisionId, agent::Phase, image::ImageRef, log::LogQuery, page::PageQuery, redact::MASK,
};
use std::time::Duration;

#[tokio::test]
async fn a_new_agent_comes_up_and_is_routed_to() {
    let stack = TestService::start().await;
    let (image, layers) = stack.push("1");
    let spec = spec("a", &image);
    let mut routes = stack.routes().await;
    let (_, revision) = stack.start_revision(&spec).await;
    let waiting = stack.agent(&spec.agent).await;
    assert_eq!((waiting.phase, waiting.revision), (Phase::Pending, revision));

    let agent = tokio::join!(stack.switch(&spec.agent, revision), async {
        let (version, route) = routes.see(|r| r.ready).await;
        let target = route.target.unwrap();
        assert_eq!((target.revision, route.needs_caller_identity), (revision, false));
        assert_eq!(target.token, stack.runtime.instance(&revision).unwrap().invoke_token);
        routes.ack(version).await;
    })
    .0;
    assert_eq!((agent.phase, agent.message.as_str(), agent.isolation.as_str()), (Phase::Running, "", "not sandboxed"));
    assert_eq!(agent.image_digest, image.digest);
    assert_eq!(agent.spec.config.env[0].value.expose(), MASK);
    assert!(agent.shown_env.contains(&("KEY".into(), MASK.into())));
    assert!(agent.shown_env.contains(&("USER_ENTRY_POINT".into(), "agent.py".into())));
    assert_eq!(stack.agents.list_agents(PageQuery::FIRST).await.unwrap().items, [agent]);

    let instance = stack.runtime.instance(&revision).unwrap();
    let get = |n: &str| instance.env.iter().find(|(name, _)| name == n).map(|(_, value)| value.expose());
    assert_eq!((get("KEY"), get("AGENT_NAME"), get("SYSTEM_PROMPT")), (Some("hunter2"), Some("a"), Some("Be kind.")));
    assert!(!instance.proven);
    let hoistway_agent::runtime::Program::Unpacked { app_dir, site_dirs, runner, .. } = instance.program else {
        panic!("another program");
    };
    assert_eq!(std::fs::read_to_string(app_dir.join("agent.py")).unwrap(), "1");
    assert!(site_dirs.len() == 1 && site_dirs[0].join("dep.py").is_file() && runner.is_file());
    assert!(std::fs::metadata(&app_dir).unwrap().permissions().readonly());
    assert_eq!(layers.len(), 3);
}

#[tokio::test]
async fn a_repeated_start_joins_or_gets_the_outcome() {
    let stack = TestService::start().await;
    let spec = with_prompt(&spec("a", &stack.push("1").0), SLOW);
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    let start = || stack.agents.start_revision(operation.clone(), revision, spec.clone());
    let (first, second, ()) = tokio::join!(start(), start(), async {
        stack.runtime.wait_for(|d| matches!(d, Done::Applied(_))).await;
        stack.runtime.set(&revision, State::Ready);
    });
    assert_eq!(first.unwrap(), second.unwrap());
    assert_eq!(start().await.unwrap().phase, Phase::Running);
    assert_eq!(stack.runtime.applied(), 1);

    let other = with_prompt(&spec, "other");
    let e = stack.agents.start_revision(Operation::new(), revision, other).await.unwrap_err();
    assert_eq!(e.code, Code::Conflict);
}

#[tokio::test]
async fn a_caller_that_goes_away_cancels_nothing() {
    let stack = TestService::start().await;
    let spec = with_prompt(&spec("a", &stack.push("1").0), SLOW);
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    let start = stack.agents.start_revision(operation.clone(), revision, spec.clone());
    tokio::select! {
        _ = start => panic!("it is not ready"),
        () = stack.runtime.wait_for(|d| matches!(d, Done::Applied(_))) => {}
    }
    stack.runtime.set(&revision, State::Ready);
    let status = stack.agents.start_revision(operation, revision, spec).await.unwrap();
    assert_eq!((status.phase, stack.runtime.applied()), (Phase::Running, 1));
}

#[tokio::test]
async fn a_failed_start_says_why_again_and_again_until_it_is_undone() {
    let stack = TestService::start().await;
    let spec = with_prompt(&spec("a", &stack.push("1").0), FAILS);
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    for _ in 0..2 {
        let e = stack.agents.start_revision(operation.clone(), revision, spec.clone()).await.unwrap_err();
        assert_eq!((e.code, e.message.as_str()), (Code::AgentStartFailed, "RuntimeError: kaboom"));
        assert_eq!(e.details.len(), 2);
    }
    assert_eq!(stack.runtime.applied(), 1);
    assert_eq!(stack.status(&spec.agent).await.0, Phase::Failed);
    let stack = stack.restart().await;
    let e = stack.agents.start_revision(operation.clone(), revision, spec.clone()).await.unwrap_err();
    assert_eq!((e.code, stack.runtime.applied()), (Code::AgentStartFailed, 0));

    for _ in 0..2 {
        stack.agents.undo_start(operation.id, spec.agent.clone(), revision).await.unwrap();
        assert_eq!(stack.agents.get_agent(spec.agent.clone()).await.unwrap_err().code, Code::NotFound);
    }
    assert!(stack.runtime.done.borrow().contains(&Done::Forgot(spec.agent.clone())));
    let e = stack.agents.start_revision(operation, revision, spec).await.unwrap_err();
    assert_eq!(e.code, Code::Aborted);
}

#[tokio::test]
async fn an_undo_that_overtakes_its_start_wins() {
    let stack = TestService::start().await;
    let spec = spec("a", &stack.push("1").0);
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    stack.agents.undo_start(operation.id, spec.agent.clone(), revision).await.unwrap();
    let e = stack.agents.start_revision(operation, revision, spec.clone()).await.unwrap_err();
    assert_eq!(e.code, Code::Aborted);

    let slow = with_prompt(&spec, SLOW);
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    let (started, ()) = tokio::join!(stack.agents.start_revision(operation.clone(), revision, slow), async {
        stack.runtime.wait_for(|d| matches!(d, Done::Applied(_))).await;
        stack.agents.undo_start(operation.id, spec.agent.clone(), revision).await.unwrap();
    });
    assert_eq!(started.unwrap_err().code, Code::Aborted);
    assert!(stack.runtime.instance(&revision).is_none());
    assert_eq!(stack.agents.get_agent(spec.agent).await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn the_old_revision_goes_once_every_gateway_has_the_new_route() {
    let stack = TestService::start().await;
    let first = spec("a", &stack.push("1").0);
    let mut routes = stack.routes().await;
    let (_, old) = stack.start_revision(&first).await;
    let (_, (version, _)) = tokio::join!(stack.switch(&first.agent, old), async {
        let seen = routes.see(|r| r.ready).await;
        routes.ack(seen.0).await;
        seen
    });

    let second = spec("a", &stack.push("2").0);
    let (_, new) = stack.start_revision(&second).await;
    assert_eq!(stack.agent(&first.agent).await.revision, old);
    let (agent, later) = tokio::join!(stack.switch(&first.agent, new), async {
        let (later, route) = routes.see(|r| r.target.as_ref().is_some_and(|t| t.revision == new)).await;
        assert!(route.ready && stack.runtime.instance(&old).is_some(), "nobody has acknowledged it");
        routes.ack(later).await;
        later
    });
    assert!(later > version);
    assert_eq!(agent.revision, new);
    stack.runtime.wait_for(|d| *d == Done::Removed(old, Duration::from_secs(305))).await;
    assert!(stack.runtime.instance(&new).is_some());
}

#[tokio::test]
async fn a_switch_that_is_repeated_does_not_turn_back() {
    let stack = TestService::start().await;
    let first = spec("a", &stack.push("1").0);
    let (_, old) = stack.start_revision(&first).await;
    let operation = Operation::new();
    let switch = || stack.agents.switch_route(operation.clone(), first.agent.clone(), old);
    switch().await.unwrap();
    let new = stack.deploy(&spec("a", &stack.push("2").0)).await;
    assert_eq!(switch().await.unwrap().revision, new);
    let e = stack.agents.switch_route(Operation::new(), first.agent.clone(), old).await.unwrap_err();
    assert_eq!(e.code, Code::Conflict);
    let e = stack.agents.switch_route(Operation::new(), first.agent, RevisionId::mint()).await.unwrap_err();
    assert_eq!(e.code, Code::NotFound);
}

#[tokio::test]
async fn a_failed_redeploy_leaves_the_old_revision_serving() {
    let stack = TestService::start().await;
    let good = spec("a", &stack.push("1").0);
    let old = stack.deploy(&good).await;
    let bad = with_prompt(&good, FAILS);
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    stack.agents.start_revision(operation.clone(), revision, bad).await.unwrap_err();
    assert_eq!(stack.status(&good.agent).await, (Phase::Running, String::new()));
    let e = stack.agents.switch_route(Operation::new(), good.agent.clone(), revision).await.unwrap_err();
    assert_eq!(e.code, Code::AgentStartFailed);
    stack.agents.undo_start(operation.id, good.agent.clone(), revision).await.unwrap();
    let agent = stack.agent(&good.agent).await;
    assert_eq!((agent.revision, agent.phase), (old, Phase::Running));
    assert!(stack.runtime.instance(&old).is_some());
}

#[tokio::test]
async fn a_revision_that_was_switched_to_is_not_undone() {
    let stack = TestService::start().await;
    let spec = spec("a", &stack.push("1").0);
    let (operation, revision) = stack.start_revision(&spec).await;
    stack.switch(&spec.agent, revision).await;
    let e = stack.agents.undo_start(operation.id, spec.agent.clone(), revision).await.unwrap_err();
    assert_eq!(e.code, Code::Conflict);
    assert_eq!(stack.status(&spec.agent).await.0, Phase::Running);
}

#[tokio::test]
async fn a_crash_is_visible_and_heals() {
    let stack = TestService::start().await;
    let spec = spec("a", &stack.push("1").0);
    let mut routes = stack.routes().await;
    let (_, revision) = stack.start_revision(&spec).await;
    let switch = stack.switch(&spec.agent, revision);
    tokio::join!(switch, async {
        let (version, _) = routes.see(|r| r.ready).await;
        routes.ack(version).await;
    });
    let crash = failure("killed by SIGSEGV");
    stack.runtime.set(
        &revision,
        State::Crashed { failure: crash, out_of_memory: false, restarts: 2, next_try_ms: i64::MAX / 2 },
    );
    let (_, route) = routes.see(|r| !r.ready).await;
    assert!(route.message.contains("SIGSEGV") && route.target.is_some(), "{route:?}");
    let (phase, message) = stack.status(&spec.agent).await;
    assert!(phase == Phase::Failed && message.starts_with("crashed: killed by SIGSEGV; next start in "), "{message}");
    stack.runtime.set(&revision, State::Starting);
    stack.runtime.set(&revision, State::Ready);
    routes.see(|r| r.ready).await;
    assert_eq!(stack.status(&spec.agent).await, (Phase::Running, String::new()));
}

#[tokio::test]
async fn a_deleted_agent_leaves_nothing() {
    let stack = TestService::start().await;
    let (image, layers) = stack.push("1");
    let spec = spec("a", &image);
    let revision = stack.deploy(&spec).await;
    let operation = Operation::new();
    for _ in 0..2 {
        stack.agents.delete_agent(operation.clone(), spec.agent.clone()).await.unwrap();
    }
    assert!(stack.runtime.instance(&revision).is_none());
    assert!(stack.runtime.done.borrow().contains(&Done::Forgot(spec.agent.clone())));
    for code in [
        stack.agents.get_agent(spec.agent.clone()).await.unwrap_err().code,
        stack.agents.agent_logs(spec.agent.clone(), LogQuery::default()).await.err().unwrap().code,
        stack.agents.delete_agent(Operation::new(), spec.agent.clone()).await.unwrap_err().code,
    ] {
        assert_eq!(code, Code::NotFound);
    }
    stack.service.shutdown().await;
    let left = std::fs::read_dir(stack.dir.path().join("agent/layers")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!((left, layers.len()), (vec![".boot".into()], 3), "shutdown waits for the sweep");
}

#[tokio::test]
async fn layers_are_shared_and_pulled_once() {
    let stack = TestService::start().await;
    let (one, layers) = stack.push("1");
    let (two, _) = stack.push("2");
    let (a, b) = (spec("a", &one), spec("b", &two));
    tokio::join!(stack.deploy(&a), stack.deploy(&b));
    let digest = |i: usize| hoistway_model::Digest::of(&layers[i].blob);
    assert_eq!([0, 1, 2].map(|i| stack.registry.sent("echo", &digest(i))), [1, 1, 1]);
    stack.agents.delete_agent(Operation::new(), name("a")).await.unwrap();
    stack.service.shutdown().await;
    let there = |i: usize| stack.dir.path().join("agent/layers").join(digest(i).hex()).exists();
    assert_eq!([0, 1, 2].map(there), [true, true, false]);
}

#[tokio::test]
async fn missing_and_foreign_images_fail() {
    let stack = TestService::start().await;
    let (image, _) = stack.push("1");
    let missing = ImageRef { digest: None, tag: Some("v-ffff".into()), ..image.clone() };
    let foreign =
        crate::fake_image::Image::new(vec![crate::fake_image::layer(&[("bin/sh", "x")])], serde_json::json!({}));
    let digest = stack.registry.push("foreign", "1", &foreign);
    let foreign = ImageRef::platform("foreign", Some("1".into()), digest);
    let old = crate::fake_image::Image::ours(vec![crate::fake_image::layer(&[("app/agent.py", "x")])], "2.7");
    let old = ImageRef::platform("old", None, stack.registry.push("old", "1", &old));
    for (image, code, says) in [
        (missing, Code::ImageNotFound, "does not exist"),
        (foreign, Code::UnsupportedImage, "is not an image that Hoistway built"),
        (old, Code::UnsupportedImage, "built for Python 2.7"),
    ] {
        let e = stack.agents.start_revision(Operation::new(), RevisionId::mint(), spec("a", &image)).await.unwrap_err();
        assert!(e.code == code && e.message.contains(says), "{e}");
    }
    assert_eq!(stack.runtime.applied(), 0);
}
