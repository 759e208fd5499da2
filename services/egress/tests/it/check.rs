//! Checks of tools: what is sent, and what people are told.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{TestEgress, header_key, name, tool},
};
use hoistway_client::{EgressClient, Transport};
use hoistway_egress::{
    ToolPolicy,
    policy::{Credential, KeyPlace, OAuth2Client},
};
use hoistway_model::{
    Code, EgressService, Result, Secret,
    egress::{Check, CheckKind},
};
use serde_json::json;
use std::sync::Arc;

const KEY: &str = "sk-of-the-check-41c8";

impl TestEgress {
    async fn check(&self, tool: &str) -> Result<Check> {
        let egress = EgressClient::new(Transport::connect("egress", &self.grpc, &self.token).unwrap());
        let check = egress.check_tool(name(tool)).await;
        assert!(!format!("{check:?}").contains(KEY), "{check:?}");
        check
    }

    /// The status, and each part of the check: its name, then `ok` or what is wrong.
    async fn found(&self, tool: &str) -> (Option<u16>, Vec<(&'static str, String)>) {
        let Check { status, steps, .. } = self.check(tool).await.unwrap();
        let part = |ok, message| if ok { "ok".to_owned() } else { message };
        (status, steps.into_iter().map(|s| (s.check.as_str(), part(s.ok, s.message))).collect())
    }
}

fn keyed(at: &str, base_url: &str) -> ToolPolicy {
    ToolPolicy { credential: header_key("x-key", "Key ", KEY), ..tool(at, base_url) }
}

fn ok(check: &'static str) -> (&'static str, String) {
    (check, "ok".to_owned())
}

#[tokio::test]
async fn a_tool_is_checked_as_agents_call_it() {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let query =
        Credential::ApiKey { place: KeyPlace::Query("key".into()), prefix: String::new(), value: Secret::new(KEY) };
    let tools = vec![
        keyed("api", "https://api.test/v1"),
        tool("open", "https://api.test"),
        ToolPolicy { credential: query, ..tool("query", "https://api.test/q") },
        keyed("gone", "https://api.test/status/404"),
        keyed("refuses", "https://api.test/status/403"),
        tool("wants-key", "https://api.test/status/401"),
        tool("redirect", "https://api.test/redirect"),
        ToolPolicy {
            credential: Credential::Unavailable("has no credential yet: PUT /api/tools/NAME/credentials stores one"),
            ..tool("bare", "https://api.test/bare")
        },
    ];
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let (egress, [_]) = TestEgress::start(&ca, [tools], |config| config.resolve = resolve).await;

    assert_eq!(egress.found("api").await, (Some(200), vec![ok("address"), ok("tls"), ok("credential")]));
    let asked = tool_server.seen("/v1").remove(0);
    assert_eq!((&asked["method"], &asked["headers"]["x-key"]), (&json!("GET"), &json!(format!("Key {KEY}"))));
    assert!(egress.check("api").await.unwrap().latency_ms.is_some());
    assert_eq!(egress.found("open").await, (Some(200), vec![ok("address"), ok("tls")]));
    assert_eq!(egress.found("query").await.0, Some(200));
    assert_eq!(tool_server.seen("/q")[0]["query"], format!("key={KEY}"));
    // Any other status shows that the tool is there. Redirects are not followed.
    assert_eq!(egress.found("gone").await, (Some(404), vec![ok("address"), ok("tls"), ok("credential")]));
    assert_eq!(egress.found("redirect").await, (Some(302), vec![ok("address"), ok("tls")]));

    let refused =
        "the tool answered 403: the credential was not accepted; PUT /api/tools/refuses/credentials stores another one";
    assert_eq!(
        egress.found("refuses").await,
        (Some(403), vec![ok("address"), ok("tls"), ("credential", refused.to_owned())])
    );
    let wants = "the tool answered 401 and is registered without a credential: change its auth_type";
    assert_eq!(egress.found("wants-key").await.1[2], ("credential", wants.to_owned()));
    let missing = "the tool \"bare\" has no credential yet: PUT /api/tools/bare/credentials stores one";
    assert_eq!(
        egress.found("bare").await,
        (Some(200), vec![ok("address"), ok("tls"), ("credential", missing.to_owned())])
    );
    assert_eq!(egress.check("nothing").await.unwrap_err().code, Code::NotFound);
}

#[tokio::test]
async fn a_failed_check_names_the_failed_step() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let untrusted = MockTool::tls(&other, "untrusted.test").await;
    let slow = MockTool::plain().await;
    // Its backlog accepts connections that nobody ever reads from.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tools = vec![
        keyed("untrusted", "https://untrusted.test"),
        keyed("closed", "http://closed.test"),
        keyed("private", "http://10.0.0.1"),
        tool("slow", "http://slow.test/hang"),
        tool("no-tls", "https://slow.test"),
        tool("silent", "https://silent.test"),
        keyed("unknown", "http://no-such-host.invalid"),
    ];
    let resolve = vec![
        format!("untrusted.test:443={}", untrusted.address),
        format!("closed.test:80={closed}"),
        format!("slow.test:80={}", slow.address),
        format!("slow.test:443={}", slow.address),
        format!("silent.test:443={}", silent.local_addr().unwrap()),
    ];
    let (egress, [_]) = TestEgress::start(&ca, [tools], |config| {
        config.resolve = resolve;
        config.limits.first_byte_ms = 2_000;
        config.limits.connect_ms = 1_000;
    })
    .await;
    let (status, parts) = egress.found("untrusted").await;
    assert_eq!((status, &parts[0]), (None, &ok("address")));
    assert!(parts[1].0 == "tls" && parts[1].1.starts_with("no TLS: invalid peer certificate: "), "{parts:?}");
    assert_eq!(parts.len(), 2, "a credential that was not sent is not checked");
    assert!(parts[1].1.ends_with("once it stands in the file of egress' setting extra_ca_file"), "{parts:?}");
    for (tool, why) in
        [("no-tls", "no TLS: received corrupt message"), ("silent", "no TLS: the handshake is not answered")]
    {
        let (status, parts) = egress.found(tool).await;
        assert_eq!((status, parts.len(), &parts[0], parts[1].0), (None, 2, &ok("address"), "tls"), "{parts:?}");
        assert!(parts[1].1.starts_with(why) && parts[1].1.ends_with("register it with http://"), "{parts:?}");
    }
    for (tool, why) in [
        ("closed", "http://closed.test: no connection: Connection refused"),
        (
            "private",
            "http://10.0.0.1: it is on this machine or in a private network, which its registration does not allow: an operator \
             allows domains with the setting private_domains of egress",
        ),
        ("slow", "http://slow.test did not answer within 2 s"),
        ("unknown", "http://no-such-host.invalid: its name cannot be resolved: "),
    ] {
        let (status, parts) = egress.found(tool).await;
        assert_eq!((status, parts.len(), parts[0].0), (None, 1, "address"), "{tool}: {parts:?}");
        assert!(parts[0].1.starts_with(why), "{tool}: {parts:?}");
    }
}

#[tokio::test]
async fn an_access_token_is_asked_for_as_for_agents() {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let guarded = |at: &str, token_url: &str| {
        let client = OAuth2Client {
            token_url: token_url.into(),
            client_id: "client".into(),
            client_secret: Secret::new(KEY),
            scopes: Vec::new(),
            audience: None,
        };
        ToolPolicy { credential: Credential::OAuth2(Arc::new(client)), ..tool(at, "https://api.test/guarded") }
    };
    let tools = vec![guarded("api", "https://api.test/token"), guarded("denied", "https://api.test/status/401")];
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let (egress, [_]) = TestEgress::start(&ca, [tools], |config| config.resolve = resolve).await;
    let why = "no access token for the tool \"denied\": the token endpoint answered 401".to_owned();
    // The tool itself was asked without a token, which it wants.
    assert_eq!(egress.found("denied").await, (Some(401), vec![ok("address"), ok("tls"), ("credential", why)]));

    tool_server.tokens([(200, json!({"access_token": "old"})), (200, json!({"access_token": "new"}))]);
    tool_server.wants("new");
    assert_eq!(egress.found("api").await, (Some(200), vec![ok("address"), ok("tls"), ok("credential")]));
    tool_server.wants("other");
    let check = egress.check("api").await.unwrap();
    let [_, _, credential] = &check.steps[..] else { panic!("{check:?}") };
    assert_eq!((check.status, check.is_ok(), credential.check), (Some(401), false, CheckKind::Credential));
}
