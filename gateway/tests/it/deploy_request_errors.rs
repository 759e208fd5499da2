//! The errors of the body and the query of `POST /api/deploy`.

use crate::test_gateway::TestGateway;
use serde_json::{Value, json};

fn with(more: Value) -> String {
    let mut body = json!({"agent_name": "a", "image": "x"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn source(more: Value) -> String {
    let mut body = json!({"agent_name": "a", "source_files": {"agent.py": "def handler(r, c): return {}\n"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body.to_string()
}

fn tool(more: Value) -> String {
    let mut tool = json!({"name": "t", "base_url": "https://a.example"});
    tool.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    with(json!({"tools_to_create": [tool]}))
}

fn llm(configs: Value) -> String {
    with(json!({"llm_configs": configs}))
}

fn env(vars: Value) -> String {
    with(json!({"env": vars}))
}

const NAME: &str = "is not a valid name: use at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit";

/// Sends each body and expects a 400 with the text, and that nothing is deployed.
async fn refused(cases: Vec<(String, String)>) {
    let gateway = TestGateway::start().await;
    for (body, want) in cases {
        let answer = gateway.call("POST", "/api/deploy", body.clone()).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {want}"), "{body:.200}");
        assert_eq!(answer.header("content-type"), "application/json");
    }
    assert!(gateway.deployer.accepted.borrow().is_empty());
}

#[tokio::test]
async fn a_body_that_is_no_json_object_is_invalid() {
    refused(vec![
        ("".into(), "the body is empty; a JSON object is expected".into()),
        ("{nope".into(), "the body is not valid JSON: key must be a string at line 1 column 2".into()),
        ("[1]".into(), "the body must be a JSON object, not a list".into()),
    ])
    .await;
}

#[tokio::test]
async fn agent_name_is_required() {
    refused(vec![
        ("{}".into(), "agent_name is required".into()),
        (json!({"agent_name": "  "}).to_string(), "agent_name is required".into()),
        (json!({"agent_name": null}).to_string(), "agent_name is required".into()),
        (json!({"tools_to_create": [{}]}).to_string(), "agent_name is required".into()),
    ])
    .await;
}

#[tokio::test]
async fn an_invalid_agent_name_is_refused_with_one_that_would_do() {
    refused(vec![
        (json!({"agent_name": 5, "image": "x"}).to_string(), "agent_name: must be a string, not a number".into()),
        (with(json!({"agent_name": "Bad Name!"})), format!("agent_name: \"Bad Name!\" {NAME}; \"bad-name\" would do")),
        (
            with(json!({"agent_name": "a".repeat(64)})),
            format!("agent_name: \"{0}\" {NAME}; \"{1}\" would do", "a".repeat(64), "a".repeat(63)),
        ),
    ])
    .await;
}

#[tokio::test]
async fn image_or_source_files_is_required() {
    refused(vec![
        (json!({"agent_name": "a"}).to_string(), "either image or source_files is required".into()),
        (json!({"agent_name": "a", "source_files": {}}).to_string(), "either image or source_files is required".into()),
        (
            json!({"agent_name": "a", "tools_to_create": [{}]}).to_string(),
            "either image or source_files is required".into(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn a_tool_without_name_or_base_url_is_refused() {
    let good_tool = json!({"name": "fine", "base_url": "https://a.example"});
    let second = |t: Value| with(json!({"tools_to_create": [good_tool.clone(), t]}));
    let tools =
        |missing: &str| format!("tool name and base_url are required [\"tools_to_create[1].{missing} is missing\"]");
    refused(vec![
        (second(json!({"name": "a"})), tools("base_url")),
        (second(json!({"base_url": "https://a.example"})), tools("name")),
        (second(json!({})), tools("name")),
        (second(json!({"name": "", "base_url": "https://a.example"})), tools("name")),
        (second(json!({"name": "a", "base_url": ""})), tools("base_url")),
    ])
    .await;
}

#[tokio::test]
async fn tools_to_create_names_the_wrong_member() {
    refused(vec![
        (tool(json!({"auth_type": "Magic"})), "tools_to_create[0].auth_type: \"Magic\" is not one of None, APIKey, OAuth2".into()),
        (tool(json!({"port": 70000})), "tools_to_create[0].port: 70000 is not a port; 1 to 65535 are".into()),
        (tool(json!({"port": "443"})), "tools_to_create[0].port: must be a whole number, not a string".into()),
        (tool(json!({"base_url": "https://a.example:9000", "port": 9001})), "tools_to_create[0].port: 9001 contradicts the base URL, which says 9000".into()),
        (tool(json!({"scheme": "FTP"})), "tools_to_create[0].scheme: \"FTP\" is not one of HTTP, HTTPS".into()),
        (tool(json!({"scheme": "HTTP"})), "tools_to_create[0].scheme: HTTP contradicts the base URL, which says HTTPS".into()),
        (tool(json!({"base_url": "not a url"})), "tools_to_create[0].base_url: \"not a url\" is not a URL: it has spaces or backslashes".into()),
        (tool(json!({"base_url": "file:///etc/passwd"})), "tools_to_create[0].base_url: \"file:///etc/passwd\" is not a URL that begins with http:// or https://".into()),
        (with(json!({"tools_to_create": [{"name": "dup", "base_url": "https://a.example"}, {"name": "dup", "base_url": "https://b.example"}]})), "tools_to_create[1].name: \"dup\" is given twice".into()),
    ])
    .await;
}

#[tokio::test]
async fn a_list_beyond_its_limit_is_refused_by_name() {
    let tool = |n: usize| json!({"name": format!("t{n}"), "base_url": "https://a.example"});
    let model = json!({"provider": "openai", "model": "m"});
    refused(vec![
        (
            with(json!({"tools_to_create": (0..257).map(tool).collect::<Vec<_>>()})),
            "tools_to_create: 257 elements are too many, 256 is the limit".into(),
        ),
        (
            with(json!({"required_tools": (0..257).map(|n| format!("t{n}")).collect::<Vec<_>>()})),
            "required_tools: more than 256 tools are too many".into(),
        ),
        (llm(json!(vec![model; 5])), "llm_configs[1].role: llm_configs[0] has the role chat already".into()),
        (env(json!(vec![json!({}); 1_001])), "env: 1001 elements are too many, 1000 is the limit".into()),
    ])
    .await;
}

#[tokio::test]
async fn required_tools_must_be_names() {
    refused(vec![(
        with(json!({"required_tools": ["fine", "not_fine"]})),
        format!("required_tools[1]: \"not_fine\" {NAME}; \"not-fine\" would do"),
    )])
    .await;
}

#[tokio::test]
async fn an_unknown_identity_provider_is_refused() {
    refused(vec![
        (with(json!({"identity_provider": "no-such-idp"})), "identity_provider: \"no-such-idp\" is not a registered identity provider [\"`POST /api/identity-providers` registers one\"]".into()),
    ])
    .await;
}

#[tokio::test]
async fn llm_configs_names_the_wrong_member() {
    refused(vec![
        (llm(json!([{"provider": "openai"}])), "llm_configs[0].model: is required".into()),
        (llm(json!([{"model": "m"}])), "llm_configs[0].provider: is required".into()),
        (llm(json!([{"provider": "openai", "model": 4}])), "llm_configs[0].model: must be a string, not a number".into()),
        (llm(json!([{"provider": "skynet", "model": "m"}])), "llm_configs[0].provider: \"skynet\" is not one of openai, anthropic, bedrock, ollama or a registered model provider".into()),
        (llm(json!([{"provider": "openai", "model": "m", "role": "juggling"}])), "llm_configs[0].role: \"juggling\" is not one of chat, embedding, classify, reranking".into()),
        (llm(json!([{"provider": "openai", "model": "a"}, {"provider": "openai", "model": "b", "role": "chat"}])), "llm_configs[1].role: llm_configs[0] has the role chat already".into()),
        (with(json!({"llm_configs": [{"provider": "openai", "model": "a"}], "llm_config": {"provider": "openai", "model": "b"}})), "llm_config: contradicts llm_configs[0], which has another model for chat".into()),
    ])
    .await;
}

#[tokio::test]
async fn env_names_the_wrong_variable() {
    refused(vec![
        (env(json!([{"value": "1"}])), "env[0].name: is required".into()),
        (env(json!([{"name": "A"}])), "env[0].value: is required".into()),
        (env(json!([{"name": "A", "value": 1}])), "env[0].value: must be a string, not a number".into()),
        (
            env(json!([{"name": "A=B", "value": "1"}])),
            "env[0].name: \"A=B\" is not a variable's name: letters, digits, '_', '-' and '.', the first no digit"
                .into(),
        ),
        (
            env(json!([{"name": "A", "value": "a\0b"}])),
            "env[0].value: contains a NUL character, which no variable can hold".into(),
        ),
        (
            env(json!([{"name": "A", "value": "a".repeat(140_000)}])),
            "env[0].value: A=… has 140003 bytes, 131072 is the most that a variable can have".into(),
        ),
        (
            env(json!([{"name": "LD_PRELOAD", "value": "x"}])),
            "env[0].name: \"LD_PRELOAD\" is reserved for the platform".into(),
        ),
        (
            env(json!([{"name": "DUP", "value": "1"}, {"name": "DUP", "value": "2"}])),
            "env[1].name: \"DUP\" is given twice".into(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn source_files_names_the_wrong_file() {
    refused(vec![
        (
            source(json!({"source_files": {"../evil.py": "x"}})),
            "source_files[\"../evil.py\"]: the name contains '..'; names are normalised and stay inside".into(),
        ),
        (source(json!({"source_files": {"": "x"}})), "source_files[\"\"]: a file needs a name".into()),
        (source(json!({"source_files": {"a\0.py": "x"}})), "source_files[\"a\\0.py\"]: the name contains NUL".into()),
    ])
    .await;
}

#[tokio::test]
async fn an_unknown_or_missing_entry_point_is_refused() {
    refused(vec![
        (
            source(json!({"entry_point": "nope.py"})),
            "entry_point: \"nope.py\" is not among the source_files; the .py files are: agent.py".into(),
        ),
        (
            source(json!({"source_files": {"one.py": "", "two.py": ""}})),
            "entry_point: say which file to start; the .py files are: one.py, two.py".into(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn requirements_names_the_wrong_line() {
    let pre =
        "asks for pre-releases of everything: leave the line out, and name one where you need it, as in `name>=2.0rc1`";
    refused(vec![
        (source(json!({"requirements": "--pre"})), format!("requirements: line 1: \"--pre\" {pre}")),
        (
            source(json!({"requirements": "-e ."})),
            "requirements: line 1: \"-e .\" is the source itself, which is there and not installed: leave the line out"
                .into(),
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_unsupported_member_is_refused_with_an_alternative() {
    refused(vec![
        (source(json!({"policies": ["p"]})), "policies is not supported [\"name the tools that the agent may call in required_tools\"]".into()),
        (source(json!({"artifact_id": "x"})), "artifact_id is not supported [\"send the files as source_files, or push an image and name it as image\"]".into()),
        (source(json!({"draft_id": "x"})), "draft_id is not supported [\"send the files as source_files\"]".into()),
        (source(json!({"tool_url_mappings": {"a": "b"}})), "tool_url_mappings is not supported [\"give tools their addresses as base_url, in tools_to_create or with PUT /api/tools/NAME\"]".into()),
    ])
    .await;
}

#[tokio::test]
async fn a_wrong_query_parameter_is_refused_by_name() {
    let gateway = TestGateway::start().await;
    for (query, want) in [
        ("wait=later", "wait: \"later\" is not one of ready, built, none"),
        ("timeout=901", "timeout: \"901\" is not a whole number from 0 to 900"),
        ("timeout=-1", "timeout: \"-1\" is not a whole number from 0 to 900"),
        ("strict=maybe", "strict: \"maybe\" is not true or false"),
    ] {
        let answer = gateway.call("POST", &format!("/api/deploy?{query}"), with(json!({}))).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {want}"));
    }
    let wish = with(json!({"required_tools": ["not-yet"]}));
    let answer = gateway.call("POST", "/api/deploy?strict=true", wish).await;
    assert_eq!(answer.error(), "400 invalid_argument required_tools[0]: no tool \"not-yet\" is registered");
}
