//! Agents come back.

use crate::fake_runtime::{Done, TestService, name, spec};
use hoistway_model::{Code, Operation, agent::Phase};

#[tokio::test]
async fn running_agents_restart_without_the_registry() {
    let mut stack = TestService::start().await;
    let (image, _) = stack.push("1");
    let (a, b) = (stack.deploy(&spec("a", &image)).await, stack.deploy(&spec("b", &image)).await);
    stack.registry.stop().await;
    let stack = stack.restart().await;
    let mut routes = stack.routes().await;
    for (agent, revision) in [("a", a), ("b", b)] {
        // Each may be in the snapshot already.
        if stack.status(&name(agent)).await.0 != Phase::Running {
            routes.see(|r| r.ready && r.agent == name(agent)).await;
        }
        assert_eq!(stack.agent(&name(agent)).await.revision, revision);
        assert!(stack.runtime.instance(&revision).unwrap().proven);
    }
}

#[tokio::test]
async fn missing_layers_are_pulled_again() {
    let stack = TestService::start().await;
    let (image, layers) = stack.push("1");
    stack.deploy(&spec("a", &image)).await;
    let digest = hoistway_model::Digest::of(&layers[2].blob);
    let layer = stack.dir.path().join("agent/layers").join(digest.hex());
    for dir in [layer.clone(), layer.join("app")] {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    }
    std::fs::remove_dir_all(layer).unwrap();
    let stack = stack.restart().await;
    stack.routes().await.see(|r| r.ready).await;
    assert_eq!(stack.registry.sent("echo", &digest), 2);
}

#[tokio::test]
async fn a_deploy_that_a_restart_interrupted_goes_on() {
    let stack = TestService::start().await;
    let spec = spec("a", &stack.push("1").0);
    let (operation, revision) = stack.start_revision(&spec).await;
    let stack = stack.restart().await;
    assert_eq!(stack.status(&spec.agent).await.0, Phase::Pending);
    assert_eq!(stack.runtime.applied(), 0, "nobody has asked for it yet");
    let status = stack.agents.start_revision(operation, revision, spec.clone()).await.unwrap();
    assert_eq!(status.phase, Phase::Running);
    let stack = stack.restart().await;
    assert_eq!(stack.switch(&spec.agent, revision).await.phase, Phase::Running);
}

#[tokio::test]
async fn a_shutdown_stops_the_runtime_and_refuses_changes() {
    let stack = TestService::start().await;
    let spec = spec("a", &stack.push("1").0);
    stack.deploy(&spec).await;
    stack.service.shutdown().await;
    assert!(stack.runtime.done.borrow().contains(&Done::ShutDown));
    let e = stack.agents.delete_agent(Operation::new(), spec.agent).await.unwrap_err();
    assert_eq!(e.code, Code::Unavailable);
}
