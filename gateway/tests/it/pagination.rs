//! Pages of lists that are ordered by name.

use crate::test_gateway::TestGateway;
use serde_json::json;

#[tokio::test]
async fn lists_are_paged_by_name() {
    let gateway = TestGateway::start().await;
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
