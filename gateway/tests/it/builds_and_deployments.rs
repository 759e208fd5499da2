//! `/api/builds` and `/api/deployments`.

use crate::test_gateway::TestGateway;
use serde_json::json;

#[tokio::test]
async fn builds_and_deployments_are_listed_and_shown() {
    let gateway = TestGateway::start().await;
    let steps = json!([{"step": "image", "started_at": "1970-01-01T00:00:01.200Z", "completed_at": "1970-01-01T00:00:01.900Z", "duration_ms": 700}]);
    let mut builds = json!([
        {"id": "build-a1b2c3d4e5f6", "agent": "a", "status": "SUCCEEDED", "image": "127.0.0.1:5005/a:a1b2c3d4e5f6", "error": null,
         "created_at": "1970-01-01T00:00:01.000Z", "completed_at": "1970-01-01T00:00:02.000Z"},
        {"id": "build-0", "agent": "a", "status": "FAILED", "image": null, "error": "no such package",
         "created_at": "1970-01-01T00:00:01.000Z", "completed_at": "1970-01-01T00:00:02.000Z"},
    ]);
    let shown = gateway.get("/api/builds").await.json();
    for (i, build) in builds.as_array_mut().unwrap().iter_mut().enumerate() {
        (build["steps"], build["duration_ms"], build["request_id"]) = (steps.clone(), json!(1_000), json!("req-1"));
        build["attempt"] = shown[i]["attempt"].clone();
    }
    assert_eq!(shown, builds);
    assert_eq!(gateway.get("/api/builds?limit=1").await.json().as_array().unwrap().len(), 1);
    assert_eq!(gateway.get("/api/builds/build-0").await.json(), builds[1]);
    assert_eq!(gateway.get("/api/builds/build-0/logs?tail=2").await.text, "two\nthree\n");

    let id = gateway.deployer.id.to_string();
    let deployment = gateway.get(&format!("/api/deployments/{id}")).await.json();
    assert_eq!(
        deployment,
        json!({
            "id": id, "agent": "a", "kind": "deploy", "status": "SUCCEEDED", "step": "switch", "tools_created": ["t"],
            "build_id": "build-a1b2c3d4e5f6", "image_uri": "127.0.0.1:5005/a:a1b2c3d4e5f6", "error": null,
            "created_at": "1970-01-01T00:00:00.000Z", "updated_at": "1970-01-01T00:00:01.000Z", "completed_at": "1970-01-01T00:00:01.000Z",
            "duration_ms": 1_000, "kind": "deploy", "revision": 1, "revision_id": null, "warnings": ["careful"], "request_id": "req-1",
            "steps": [{"step": "switch", "status": "SUCCEEDED", "started_at": "1970-01-01T00:00:00.400Z",
                "completed_at": "1970-01-01T00:00:01.000Z", "duration_ms": 600}],
        })
    );
    assert_eq!(gateway.get("/api/deployments").await.json(), json!([deployment]));
    assert_eq!(gateway.get("/api/deployments?agent=b").await.json(), json!([]));
}

#[tokio::test]
async fn builds_and_deployments_are_paged_and_filtered() {
    let gateway = TestGateway::start().await;
    let first = gateway.get("/api/builds?limit=1&agent=a").await;
    let builds = first.json();
    assert_eq!((builds.as_array().unwrap().len(), &builds[0]["id"]), (1, &json!("build-a1b2c3d4e5f6")));
    assert_eq!((&builds[0]["duration_ms"], &builds[0]["request_id"]), (&json!(1_000), &json!("req-1")));
    assert_eq!(builds[0]["steps"][0]["duration_ms"], 700);
    let link = first.header("link");
    let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
    assert!(next.starts_with("/api/builds?limit=1&agent=a&before="), "{link}");
    let second = gateway.get(next).await;
    assert_eq!((&second.json()[0]["id"], second.header("link")), (&json!("build-0"), ""));

    let id = gateway.deployer.id;
    let deployment = gateway.get(&format!("/api/deployments/{id}")).await.json();
    assert_eq!((&deployment["steps"][0]["duration_ms"], &deployment["duration_ms"]), (&json!(600), &json!(1_000)));
    assert_eq!((&deployment["warnings"], &deployment["request_id"]), (&json!(["careful"]), &json!("req-1")));
    for (query, count) in
        [("?status=succeeded", 1), ("?status=FAILED", 0), (&*format!("?before={id}"), 0), ("?agent=b", 0)]
    {
        assert_eq!(gateway.get(&format!("/api/deployments{query}")).await.json().as_array().unwrap().len(), count);
    }
    let answer = gateway.get("/api/deployments?status=odd").await;
    let all = "PENDING, RUNNING, UNDOING, SUCCEEDED, FAILED";
    assert_eq!(answer.error(), format!("400 invalid_argument status: \"odd\" is not one of {all}"));
}
