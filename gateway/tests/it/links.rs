//! Addresses in answers are below the prefix of the request.

use crate::{fakes::image, test_gateway::TestGateway};
use hoistway_gateway::deploy::{Outcome, Progress};
use serde_json::json;

#[tokio::test]
async fn answers_under_v1_lead_to_v1() {
    let gateway = TestGateway::start().await;
    gateway.agents.add("a");
    for base in ["/api", "/api/v1"] {
        let body = json!({"agent_name": "a", "source_files": {"agent.py": "x = 1\n"}});
        let progress = Progress { tools_done: true, image: Some(image()), ..Progress::default() };
        gateway.deployer.progress.send_replace(Progress { done: Some(Ok(Outcome::default())), ..progress });
        let deployed = gateway.post(&format!("{base}/deploy"), body.clone()).await;
        assert_eq!((deployed.status, deployed.header("location")), (201, format!("{base}/agents/a").as_str()));
        let accepted = gateway.post(&format!("{base}/deploy?wait=none"), body).await;
        let location = format!("{base}/deployments/{}", gateway.deployer.id);
        assert_eq!((accepted.status, accepted.header("location")), (202, location.as_str()));

        let changed = json!({"system_prompt": "changed"}).to_string();
        let changed = gateway.call("PATCH", &format!("{base}/agents/a/config?wait=none"), changed).await;
        assert_eq!((changed.status, changed.header("location")), (202, location.as_str()));
        let back = gateway.post(&format!("{base}/agents/a/rollback?wait=none"), json!({})).await;
        assert_eq!((back.status, back.header("location")), (202, location.as_str()));

        let key = gateway.post(&format!("{base}/keys"), json!({"name": "k", "scopes": ["read"]})).await;
        let id = key.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(key.header("location"), format!("{base}/keys/{id}"));

        let next = format!("<{base}/agents/a/revisions?limit=1&before=3>; rel=\"next\"");
        assert_eq!(gateway.get(&format!("{base}/agents/a/revisions?limit=1")).await.header("link"), next);
        for list in ["keys", "builds", "audit"] {
            let page = gateway.get(&format!("{base}/{list}?limit=1")).await;
            assert!(page.header("link").starts_with(&format!("<{base}/{list}?limit=1&before=")), "{:?}", page.headers);
        }
    }
}
