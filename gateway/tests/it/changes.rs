//! Changing tools, providers and credentials, and what refuses to be deleted.

use crate::{fakes::name, harness::Gateway};
use hoistway_model::tool::BoundTool;
use serde_json::{Value, json};

async fn put(gateway: &Gateway, path: &str, body: Value) -> crate::harness::Answer {
    gateway.call("PUT", path, body.to_string()).await
}

#[tokio::test]
async fn a_tool_is_replaced_by_put_and_merged_by_patch() {
    let gateway = Gateway::start().await;
    let body = json!({"name": "t", "base_url": "https://a.example", "description": "d", "auth_type": "APIKey", "labels": {"a": "b"}});
    assert_eq!(gateway.post("/api/tools", body).await.status, 201);
    // Somebody else changes it at the same moment: the change is made again, from what there is then.
    *gateway.tools.meanwhile.lock().unwrap() = 2;
    let patched = gateway.call("PATCH", "/api/tools/t", r#"{"description": "new"}"#).await;
    let shape = patched.json();
    assert_eq!((patched.status, &shape["spec"]["description"]), (200, &json!("new")));
    assert_eq!(
        (&shape["labels"], &shape["spec"]["connection"]["authentication"]),
        (&json!({"a": "b"}), &json!({"type": "APIKey"}))
    );
    // What was answered can be sent back.
    let same = put(&gateway, "/api/v1/tools/t", shape.clone()).await;
    assert_eq!((same.status, same.json()), (200, shape));
    let replaced = put(&gateway, "/api/tools/t", json!({"base_url": "https://b.example"})).await.json();
    assert_eq!((&replaced["labels"], &replaced["spec"]["description"]), (&json!({}), &json!("")));
    assert_eq!(replaced["spec"]["connection"]["authentication"], json!({"type": "None"}));

    assert_eq!(
        put(&gateway, "/api/tools/no", json!({"base_url": "https://b.example"})).await.error(),
        "404 not_found tool \"no\" not found"
    );
    assert_eq!(
        put(&gateway, "/api/tools/t", json!({})).await.error(),
        "400 invalid_argument tool name and base_url are required [\"base_url is missing\"]"
    );
    *gateway.tools.meanwhile.lock().unwrap() = 100;
    assert_eq!(put(&gateway, "/api/tools/t", json!({"base_url": "https://b.example"})).await.status, 409);
}

#[tokio::test]
async fn a_tool_that_moves_takes_its_agents_along() {
    let gateway = Gateway::start().await;
    gateway.agents.add("a");
    gateway.post("/api/tools", json!({"name": "echo-tool", "base_url": "http://old.example"})).await;
    let mut bound = gateway.agents.bound.subscribe();
    bound.wait_for(|bound| bound.len() == 1).await.unwrap();
    let at = |url: &str| BoundTool { name: name("echo-tool"), url: Some(url.into()) };
    gateway.agents.agents.lock().unwrap().get_mut(&name("a")).unwrap().spec.tools = vec![at("http://older.example")];
    put(&gateway, "/api/tools/echo-tool", json!({"base_url": "http://new.example"})).await;
    let seen = bound.wait_for(|bound| bound.len() == 3).await.unwrap().clone();
    assert_eq!(seen[1..], [at("http://new.example"), at("http://new.example")]);
    let replaced = gateway.agents.replaced.lock().unwrap()[1..].to_vec();
    assert_eq!(replaced, [Some("http://old.example".to_owned()), Some("http://older.example".to_owned())]);
    // A new description moves nobody.
    gateway.call("PATCH", "/api/tools/echo-tool", r#"{"description": "x"}"#).await;
    assert_eq!(gateway.agents.bound.borrow().len(), 3);
}

#[tokio::test]
async fn credentials_are_taken_and_never_shown() {
    let gateway = Gateway::start().await;
    let tool = json!({"name": "t", "base_url": "https://a.example", "auth_type": "APIKey"});
    gateway.post("/api/tools", tool).await;
    gateway.post("/api/model-providers", json!({"name": "m", "provider": "openai"})).await;
    for path in ["/api/tools/t", "/api/model-providers/m"] {
        let credentials = format!("{path}/credentials");
        for body in [json!({"api_key": "s3cr3t"}), json!({"credentials": {"api_key": "s3cr3t"}})] {
            let answer = put(&gateway, &credentials, body).await;
            assert!(answer.status == 200 && !answer.text.contains("s3cr3t"), "{}", answer.text);
            let stored = json!({"stored": true, "setAt": "1970-01-01T00:00:00.000Z"});
            let status = json!({"phase": "Ready", "message": "", "credentials": stored});
            assert_eq!((&answer.json()["status"], &gateway.get(path).await.json()["status"]), (&status, &status));
        }
        let wrong = put(&gateway, &credentials, json!({"apikey": "s3cr3t"})).await.error();
        assert!(wrong.starts_with("400 invalid_argument ") && wrong.contains("api_key: is required"), "{wrong}");
        assert_eq!(gateway.call("DELETE", &credentials, "").await.text, r#"{"status":"deleted"}"#);
        assert_eq!(gateway.get(path).await.json()["status"]["phase"], "Pending");
    }
}

#[tokio::test]
async fn providers_are_put_and_not_deleted_under_their_users() {
    let gateway = Gateway::start().await;
    let mine = json!({"provider": "ollama", "endpoint": "http://10.0.0.1:11434"});
    assert_eq!(put(&gateway, "/api/model-providers/mine", mine.clone()).await.status, 201);
    assert_eq!(put(&gateway, "/api/model-providers/mine", mine).await.status, 200);
    assert_eq!(
        gateway.get("/api/model-providers/mine").await.json()["status"]["phase"],
        "Ready",
        "ollama needs no key"
    );
    assert_eq!(put(&gateway, "/api/model-providers/Bad", json!({"provider": "ollama"})).await.status, 400);

    let sso = json!({"name": "sso", "spec": {"host": "a.example", "userIDClaim": "sub",
        "identityProvider": {"issuer": "https://id.example", "jwksUri": "https://id.example/keys", "audiences": ["agents"]}}});
    let answer = gateway.post("/api/v1/identity-providers", sso.clone()).await;
    let mut shape = answer.json();
    assert_eq!((answer.status, shape["status"]["phase"].as_str()), (201, Some("Pending")));
    assert_eq!(gateway.post("/api/identity-providers", sso).await.status, 200);
    assert_eq!(gateway.get("/api/identity-providers").await.json(), json!([shape]));
    shape["spec"]["allowedDomains"] = json!(["example.com"]);
    let answer = put(&gateway, "/api/identity-providers/sso", shape.clone()).await;
    assert_eq!((answer.status, answer.json()), (200, shape.clone()));
    assert_eq!(put(&gateway, "/api/identity-providers/other", shape).await.status, 400, "it names itself otherwise");

    gateway.agents.add("a");
    {
        let mut agents = gateway.agents.agents.lock().unwrap();
        let spec = &mut agents.get_mut(&name("a")).unwrap().spec;
        spec.config.identity_provider = Some(name("sso"));
        spec.config.llm[0].provider = "mine".into();
    }
    for (path, kind) in [
        ("/api/model-providers/mine", "model provider \"mine\""),
        ("/api/identity-providers/sso", "identity provider \"sso\""),
    ] {
        let refused = gateway.call("DELETE", path, "").await.error();
        assert_eq!(refused, format!("409 conflict {kind} is used by the agent \"a\""));
        gateway.agents.agents.lock().unwrap().clear();
        assert_eq!(gateway.call("DELETE", path, "").await.text, r#"{"status":"deleted"}"#);
        gateway.agents.add("a");
        gateway.agents.agents.lock().unwrap().get_mut(&name("a")).unwrap().spec.config.identity_provider =
            Some(name("sso"));
    }
}

#[tokio::test]
async fn lists_come_in_parts() {
    let gateway = Gateway::start().await;
    for tool in ["a", "b", "c"] {
        gateway.post("/api/tools", json!({"name": tool, "base_url": "http://x.example"})).await;
    }
    let (mut path, mut names) = ("/api/tools?limit=2".to_owned(), Vec::new());
    loop {
        let answer = gateway.get(&path).await;
        names.push(
            answer
                .json()
                .as_array()
                .unwrap()
                .iter()
                .map(|t| t["name"].as_str().unwrap().to_owned())
                .collect::<Vec<_>>(),
        );
        let link = answer.header("link");
        let Some((next, "rel=\"next\"")) = link.split_once("; ") else { break };
        path = format!("/api/tools{}", next.trim_matches(['<', '>']));
    }
    assert_eq!(names, [vec!["a", "b"], vec!["c"]]);
    assert_eq!(gateway.get("/api/tools?after=b").await.json()[0]["name"], "c");
    assert_eq!(
        gateway.get("/api/tools?limit=0").await.error(),
        "400 invalid_argument limit: \"0\" is not a whole number from 1 to 1000"
    );
}

#[tokio::test]
async fn what_is_not_supported_says_so() {
    let gateway = Gateway::start().await;
    let policies =
        "404 not_found policies are not supported; instead, name the tools that an agent may use in required_tools";
    assert_eq!(gateway.get("/api/v1/policies").await.error(), policies);
    assert_eq!(gateway.post("/api/policies/translate", json!({})).await.error(), policies);
    assert!(gateway.post("/api/v1/analyze", json!({})).await.error().contains("deploy it"));
}
