//! Whom a tool is told that an agent works for: whoever the gateway has stated, and nobody else.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, TestEgress, get, name, tool},
};
use hoistway_kit::{
    invoke_statement::{InvokeStatement, InvokeStatementKey},
    time::now_ms,
    token::ServiceToken,
};

async fn start() -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let tools = [vec![tool("api", "https://api.test")]];
    let (egress, [agent]) = TestEgress::start(&ca, tools, |config| config.resolve = resolve).await;
    (egress, agent, tool_server)
}

fn of(user: &str) -> InvokeStatement {
    InvokeStatement { user: Some(user.into()), ..InvokeStatement::default() }
}

#[tokio::test]
async fn a_tool_is_told_the_user_whom_the_gateway_has_stated() {
    let (egress, agent, _standin) = start().await;
    let key = InvokeStatementKey::new(&egress.token).unwrap();
    let mut request = get("/x");
    request.headers_mut().insert("x-end-user-id", "eve".parse().unwrap());
    let statement = key.issue(&agent.policy.agent, &of("ada@example.com"), now_ms() + 60_000).unwrap();
    request.headers_mut().insert("x-hoistway-end-user", statement.parse().unwrap());
    let told = egress.call(&agent, "api.test", request).await.json();
    assert_eq!(told["headers"]["x-end-user-id"], "ada@example.com");
    assert!(!told.to_string().contains("hwi_"), "{told}");
}

#[tokio::test]
async fn statements_that_are_old_foreign_doubled_or_made_up_name_nobody() {
    let (egress, agent, _standin) = start().await;
    let (key, now) = (InvokeStatementKey::new(&egress.token).unwrap(), now_ms());
    let foreign = InvokeStatementKey::new(&ServiceToken::generate().unwrap()).unwrap();
    let own = &agent.policy.agent;
    let good = key.issue(own, &of("ada"), now + 60_000).unwrap();
    let rows = [
        vec![key.issue(own, &of("ada"), now - 1).unwrap()],
        vec![key.issue(&name("another"), &of("ada"), now + 60_000).unwrap()],
        vec![foreign.issue(own, &of("ada"), now + 60_000).unwrap()],
        vec![good.clone(), key.issue(own, &of("bob"), now + 60_000).unwrap()],
        vec!["ada".to_owned()],
        vec![good[..good.len() - 1].to_owned()],
    ];
    for statements in rows {
        let mut request = get("/x");
        request.headers_mut().insert("x-end-user-id", "ada".parse().unwrap());
        for statement in &statements {
            request.headers_mut().append("x-hoistway-end-user", statement.parse().unwrap());
        }
        let told = egress.call(&agent, "api.test", request).await.json();
        assert_eq!(told["headers"].get("x-end-user-id"), None, "{statements:?}: {told}");
    }
}
