//! Chat completions of the OpenAI API at Amazon Bedrock.

use super::*;

fn claude(base_url: &str, key: ModelKey) -> ModelPolicy {
    let (origin, prefix) = Origin::of_url(base_url).unwrap();
    let (protocol, key) = (Protocol::Bedrock, Some(key));
    let server = ModelServer {
        name: name("aws"),
        protocol,
        origin,
        prefix,
        key,
        allow_private: false,
        timeout: None,
        retries: 0,
    };
    model(LlmRole::Chat, "claude:0", ModelBackend::Server(Arc::new(server)))
}

fn access_key() -> ModelKey {
    ModelKey::Aws(AwsKey {
        access_key_id: Secret::new("AKIDEXAMPLE"),
        secret_access_key: Secret::new("s3cret"),
        session_token: None,
        region: "eu-west-1".into(),
    })
}

fn hello() -> Value {
    json!({"model": "claude:0", "messages": [{"role": "user", "content": "hello"}]})
}

const PATH: &str = "/canned/model/claude%3A0/converse";

fn answer() -> String {
    let message = json!({"role": "assistant", "content": [{"text": "Hi!"}]});
    json!({"output": {"message": message}, "stopReason": "end_turn", "usage": {}}).to_string()
}

#[tokio::test]
async fn an_access_key_signs_requests_and_is_not_sent() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/canned", access_key())]).await;
    tool_server.cans(200, &[("content-type", "application/json"), ("x-amzn-requestid", "r-1")], answer());
    let mut request = post(CHAT, hello().to_string());
    request.headers_mut().insert("authorization", "Bearer hoistway-placeholder".parse().unwrap());
    let answer = egress.send(&agent, request).await;
    let told = answer.json();
    assert_eq!((&told["choices"][0]["message"]["content"], &told["model"]), (&json!("Hi!"), &json!("claude:0")));
    assert_eq!((&told["id"], &answer.headers["x-request-id"]), (&json!("chatcmpl-r-1"), &"r-1".parse().unwrap()));
    let seen = tool_server.seen(PATH).remove(0);
    let signature = seen["headers"]["authorization"].as_str().unwrap();
    assert!(signature.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"), "{signature}");
    assert!(signature.contains("/eu-west-1/bedrock/aws4_request, "), "{signature}");
    assert!(signature.contains("host;") && signature.contains("x-amz-date"), "{signature}");
    assert!(!seen.to_string().contains("s3cret"), "{seen}");
}

#[tokio::test]
async fn an_api_key_is_sent_as_it_is() {
    let key = ModelKey::ApiKey(Secret::new("bedrock-api-key"));
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/canned", key)]).await;
    tool_server.cans(200, &[], answer());
    assert_eq!(chat(&egress, &agent, hello()).await.status, StatusCode::OK);
    let seen = tool_server.seen(PATH).remove(0);
    assert_eq!(seen["headers"]["authorization"], "Bearer bedrock-api-key");
    assert_eq!(seen["headers"].get("x-amz-date"), None);
}

#[tokio::test]
async fn other_apis_than_chat_completions_are_refused_with_what_works() {
    let (egress, agent, tool_server) = egress(vec![claude("https://llm.test/v1", access_key())]).await;
    for api in ["messages", "responses", "embeddings", "completions"] {
        let answer = egress.send(&agent, post(&format!("/v1/{api}"), r#"{"model": "claude:0"}"#)).await;
        let text = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(answer.status == StatusCode::BAD_REQUEST && text.ends_with("/v1/chat/completions"), "{api}: {text}");
    }
    assert_eq!(tool_server.connections(), 0);
}
