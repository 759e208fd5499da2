//! Deployments that wait for an earlier one of their agent.

use crate::{
    fake_services::{Fault, When},
    saga::SagaGateway,
};
use hoistway_model::Code;
use serde_json::{Value, json};

fn deploy(prompt: &str, source_bytes: usize) -> Value {
    let files = json!({"agent.py": "def handler(m):\n    return m\n", "data.txt": "x".repeat(source_bytes)});
    json!({"agent_name": "a", "system_prompt": prompt, "source_files": files})
}

/// Returns a gateway with an agent whose deployment does not end: all later ones wait.
async fn blocked() -> SagaGateway {
    let gateway = SagaGateway::start().await;
    for _ in 0..20 {
        gateway.services.fail(Fault { call: "switch_route", when: When::Before, code: Code::Unavailable });
    }
    let accepted = gateway.call("POST", "/api/deploy?wait=none", deploy("first", 1)).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    while gateway.services.count("switch_route") == 0 {
        tokio::task::yield_now().await;
    }
    gateway
}

#[tokio::test]
async fn waiting_deployments_run_in_order_after_a_restart() {
    let gateway = blocked().await;
    for (prompt, bytes) in [("second", 9 << 20), ("third", 1), ("fourth", 5 << 20)] {
        let accepted = gateway.call("POST", "/api/deploy?wait=none", deploy(prompt, bytes)).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        // The same request joins the waiting deployment.
        let again = gateway.call("POST", "/api/deploy?wait=none", deploy(prompt, bytes)).await;
        assert_eq!(again.header("hoistway-deployment"), accepted.header("hoistway-deployment"));
    }
    let pending = gateway.call("GET", "/api/deployments?status=pending", json!({})).await.json();
    assert_eq!(pending.as_array().map(Vec::len), Some(3), "{pending}");

    let gateway = gateway.restart().await;
    // A waiting deployment is recognised by its content.
    let last = gateway.call("POST", "/api/deploy?wait=none", deploy("fourth", 5 << 20)).await;
    assert_eq!(last.header("hoistway-deployment"), pending[0]["id"].as_str().unwrap());
    gateway.services.no_more_faults();
    gateway.ended().await;
    let prompts: Vec<String> =
        gateway.services.revisions().into_iter().skip(2).map(|r| r.spec.config.system_prompt).collect();
    assert_eq!(prompts, ["first", "second", "third", "fourth"]);
}

#[tokio::test]
async fn waiting_requests_are_limited_by_size() {
    let gateway = blocked().await;
    let mut statuses = Vec::new();
    for n in 0..5 {
        let answer = gateway.call("POST", "/api/deploy?wait=none", deploy(&n.to_string(), 30 << 20)).await;
        statuses.push(answer.status);
        if answer.status == 429 {
            assert!(answer.text.contains("that wait for an earlier deployment of their agent"), "{}", answer.text);
        }
    }
    assert_eq!(statuses, [202, 202, 202, 202, 429]);
    let small = gateway.call("POST", "/api/deploy?wait=none", deploy("small", 1)).await;
    assert_eq!(small.status, 202, "{}", small.text);
}

#[tokio::test]
async fn a_deletion_or_stop_that_waits_too_long_is_409_or_504() {
    // A deployment goes on past its point of no return: the deletion gives up and changes nothing.
    let deleted = async {
        let gateway = blocked().await;
        let answer = gateway.call("DELETE", "/api/agents/a", json!({})).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("conflict")), "{}", answer.text);
        assert!(answer.text.contains("nothing was changed"), "{}", answer.text);
        gateway.services.no_more_faults();
        gateway.ended().await;
        assert_eq!(gateway.services.revisions().last().unwrap().spec.config.system_prompt, "first");
    };
    // A deployment ends before its point of no return, but its undo takes longer than the answer may.
    let stopped = async {
        let gateway = SagaGateway::start().await;
        for call in ["start_revision", "undo_start"] {
            for _ in 0..20 {
                gateway.services.fail(Fault { call, when: When::Before, code: Code::Unavailable });
            }
        }
        let accepted = gateway.call("POST", "/api/deploy?wait=none", deploy("first", 1)).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        let answer = gateway.call("POST", "/api/agents/a/stop", json!({})).await;
        assert_eq!(answer.status, 504, "{}", answer.text);
        assert!(answer.text.contains("was cancelled and takes long to end"), "{}", answer.text);
        gateway.services.no_more_faults();
        gateway.ended().await;
        let id = accepted.header("hoistway-deployment").to_owned();
        let deployment = gateway.call("GET", &format!("/api/deployments/{id}"), json!({})).await;
        assert!(deployment.text.contains("the agent was stopped while it started"), "{}", deployment.text);
    };
    tokio::join!(deleted, stopped);
}
