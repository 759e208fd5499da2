//! Images that cannot be pulled yet.

use crate::{
    fake_registry::Registry,
    fake_runtime::{Done, TestService, name, spec},
};
use hoistway_kit::token::ServiceToken;
use hoistway_model::{Operation, RevisionId, agent::Phase};

async fn with_registry_down() -> TestService {
    let token = ServiceToken::generate().unwrap();
    let registry = Registry::down(Some(token.secret().expose())).await;
    TestService::with(registry, token).await
}

#[tokio::test]
async fn a_waiting_agent_starts_once_the_registry_is_back() {
    let mut stack = with_registry_down().await;
    let spec = spec("a", &stack.push("1").0);
    assert_eq!(
        stack
            .agents
            .resolve_image(hoistway_model::image::ImageRef { digest: None, ..spec.image.clone() })
            .await
            .unwrap(),
        None
    );
    let (operation, revision) = (Operation::new(), RevisionId::mint());
    let status = stack.agents.start_revision(operation.clone(), revision, spec.clone()).await.unwrap();
    assert!(status.phase == Phase::Pending && status.message.contains("cannot be asked"), "{status:?}");
    let agent = stack.switch(&spec.agent, revision).await;
    assert_eq!((agent.phase, agent.message), (Phase::Pending, status.message.clone()));
    assert!(agent.shown_env.iter().any(|(n, _)| n == "OPENAI_BASE_URL"));
    let again = stack.agents.start_revision(operation, revision, spec.clone()).await.unwrap();
    assert_eq!(again, status);

    let mut routes = stack.routes().await;
    routes.see(|r| !r.ready && r.message == status.message).await;
    stack.registry.up().await;
    routes.see(|r| r.ready).await;
    assert_eq!(stack.status(&spec.agent).await, (Phase::Running, String::new()));
}

#[tokio::test]
async fn over_a_running_agent_the_old_revision_serves_on() {
    let mut stack = TestService::start().await;
    let old = stack.deploy(&spec("a", &stack.push("1").0)).await;
    let newer = spec("a", &stack.push("2").0);
    stack.registry.stop().await;
    let (_, new) = stack.start_revision(&newer).await;
    let agent = stack.switch(&newer.agent, new).await;
    assert_eq!((agent.phase, agent.revision), (Phase::Running, new));
    assert!(agent.message.contains("a newer revision waits for its image"), "{}", agent.message);
    let mut routes = stack.routes().await;
    routes.see(|r| r.ready && r.target.as_ref().unwrap().revision == old).await;

    let stack = {
        let mut stack = stack.restart().await;
        let mut routes = stack.routes().await;
        routes.see(|r| r.ready && r.target.as_ref().unwrap().revision == old).await;
        stack.registry.up().await;
        let (version, _) = routes.see(|r| r.ready && r.target.as_ref().unwrap().revision == new).await;
        routes.ack(version).await;
        stack
    };
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == old)).await;
    assert_eq!(stack.status(&name("a")).await, (Phase::Running, String::new()));
}

#[tokio::test]
async fn a_waiting_revision_can_be_replaced_and_undone() {
    let mut stack = with_registry_down().await;
    let far = spec("a", &stack.push("1").0);
    let waiting = stack.deploy(&far).await;
    stack.registry.up().await;
    let there = spec("a", &stack.push("2").0);
    let new = stack.deploy(&there).await;
    stack.runtime.wait_for(|d| matches!(d, Done::Removed(r, _) if *r == waiting)).await;
    let agent = stack.agent(&far.agent).await;
    assert_eq!((agent.revision, agent.phase), (new, Phase::Running));

    stack.registry.stop().await;
    let third = spec("a", &stack.push("3").0);
    let (operation, third_id) = stack.start_revision(&third).await;
    stack.agents.undo_start(operation.id, third.agent.clone(), third_id).await.unwrap();
    assert_eq!(stack.status(&far.agent).await, (Phase::Running, String::new()));
}
