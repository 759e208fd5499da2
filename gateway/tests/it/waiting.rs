//! Deployments that wait for an earlier one of their agent.

use crate::{
    saga::Whole,
    world::{Fault, When},
};
use hoistway_model::Code;
use serde_json::{Value, json};

fn deploy(prompt: &str, source_bytes: usize) -> Value {
    let files = json!({"agent.py": "def handler(m):\n    return m\n", "data.txt": "x".repeat(source_bytes)});
    json!({"agent_name": "a", "system_prompt": prompt, "source_files": files})
}

/// An agent whose deployment goes on and on: all that come after it wait.
async fn held() -> Whole {
    let whole = Whole::start().await;
    for _ in 0..20 {
        whole.world.fail(Fault { call: "switch_route", when: When::Before, code: Code::Unavailable });
    }
    let accepted = whole.call("POST", "/api/deploy?wait=none", deploy("first", 1)).await;
    assert_eq!(accepted.status, 202, "{}", accepted.text);
    while whole.world.count("switch_route") == 0 {
        tokio::task::yield_now().await;
    }
    whole
}

#[tokio::test]
async fn what_waited_is_carried_out_in_order_after_a_restart() {
    let whole = held().await;
    for (prompt, bytes) in [("second", 9 << 20), ("third", 1), ("fourth", 5 << 20)] {
        let accepted = whole.call("POST", "/api/deploy?wait=none", deploy(prompt, bytes)).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        // The same again joins the one that waits.
        let again = whole.call("POST", "/api/deploy?wait=none", deploy(prompt, bytes)).await;
        assert_eq!(again.header("hoistway-deployment"), accepted.header("hoistway-deployment"));
    }
    let pending = whole.call("GET", "/api/deployments?status=pending", json!({})).await.json();
    assert_eq!(pending.as_array().map(Vec::len), Some(3), "{pending}");

    let whole = whole.restart().await;
    // What waits is known again by what it is.
    let last = whole.call("POST", "/api/deploy?wait=none", deploy("fourth", 5 << 20)).await;
    assert_eq!(last.header("hoistway-deployment"), pending[0]["id"].as_str().unwrap());
    whole.world.no_more_faults();
    whole.ended().await;
    let prompts: Vec<String> =
        whole.world.revisions().into_iter().skip(2).map(|r| r.spec.config.system_prompt).collect();
    assert_eq!(prompts, ["first", "second", "third", "fourth"]);
}

#[tokio::test]
async fn large_requests_wait_up_to_a_bound_and_small_ones_beside_them() {
    let whole = held().await;
    let mut statuses = Vec::new();
    for n in 0..5 {
        let answer = whole.call("POST", "/api/deploy?wait=none", deploy(&n.to_string(), 30 << 20)).await;
        statuses.push(answer.status);
        if answer.status == 429 {
            assert!(answer.text.contains("that wait for an earlier deployment of their agent"), "{}", answer.text);
        }
    }
    assert_eq!(statuses, [202, 202, 202, 202, 429]);
    let small = whole.call("POST", "/api/deploy?wait=none", deploy("small", 1)).await;
    assert_eq!(small.status, 202, "{}", small.text);
}

#[tokio::test]
async fn what_does_not_end_in_time_for_a_deletion_or_a_stop_is_told_apart() {
    // Past its point of no return a deployment goes on: the deletion gives up and has changed nothing.
    let deleted = async {
        let whole = held().await;
        let answer = whole.call("DELETE", "/api/agents/a", json!({})).await;
        assert_eq!((answer.status, answer.json()["code"].as_str()), (409, Some("conflict")), "{}", answer.text);
        assert!(answer.text.contains("nothing was changed"), "{}", answer.text);
        whole.world.no_more_faults();
        whole.ended().await;
        assert_eq!(whole.world.revisions().last().unwrap().spec.config.system_prompt, "first");
    };
    // Before it, the deployment ends, but its undo takes longer than the answer may.
    let stopped = async {
        let whole = Whole::start().await;
        for call in ["start_revision", "undo_start"] {
            for _ in 0..20 {
                whole.world.fail(Fault { call, when: When::Before, code: Code::Unavailable });
            }
        }
        let accepted = whole.call("POST", "/api/deploy?wait=none", deploy("first", 1)).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        let answer = whole.call("POST", "/api/agents/a/stop", json!({})).await;
        assert_eq!(answer.status, 504, "{}", answer.text);
        assert!(answer.text.contains("was cancelled and takes long to end"), "{}", answer.text);
        whole.world.no_more_faults();
        whole.ended().await;
        let id = accepted.header("hoistway-deployment").to_owned();
        let deployment = whole.call("GET", &format!("/api/deployments/{id}"), json!({})).await;
        assert!(deployment.text.contains("the agent was stopped while it started"), "{}", deployment.text);
    };
    tokio::join!(deleted, stopped);
}
