//! Calls that agents may make, and the requests that tools get.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, TestEgress, get, header_key, post, tool},
};
use hoistway_egress::{
    ToolPolicy,
    policy::{Capability, Credential, KeyPlace},
    request_path::PathPattern,
};
use hoistway_model::{Secret, egress::CallTarget};
use http::{Method, StatusCode};

const KEY: &str = "sk_test_planted_9f27";

fn stripe() -> ToolPolicy {
    let mut stripe = tool("stripe-api", "https://api.stripe.test/v1");
    stripe.credential = header_key("authorization", "Bearer ", KEY);
    stripe
}

async fn egress(tools: Vec<ToolPolicy>) -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.stripe.test").await;
    let resolve = vec![format!("api.stripe.test:443={}", tool_server.address)];
    let (egress, [agent]) = TestEgress::start(&ca, [tools], |config| config.resolve = resolve).await;
    (egress, agent, tool_server)
}

#[tokio::test]
async fn a_key_is_added_and_nothing_of_the_proxy_goes_on() {
    let (egress, agent, tool_server) = egress(vec![stripe()]).await;
    let mut request = post("/v1/charges?amount=1", "amount=1");
    let headers = request.headers_mut();
    for (name, value) in [
        ("authorization", "Bearer placeholder"),
        ("connection", "keep-alive, x-internal, authorization"),
        ("x-internal", "1"),
        ("proxy-authorization", "Basic x"),
        ("te", "trailers"),
        ("x-end-user-id", "eve"),
        ("x_end_user_id", "eve"),
        ("x_hoistway_end_user", "eve"),
        ("expect", "100-continue"),
        ("idempotency-key", "7"),
    ] {
        headers.append(name, value.parse().unwrap());
    }
    let answer = egress.call(&agent, "api.stripe.test", request).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(!answer.headers.contains_key("alt-svc"));
    let told = answer.json();
    assert_eq!((told["path"].as_str(), told["query"].as_str()), (Some("/v1/charges"), Some("amount=1")));
    assert_eq!((told["version"].as_str(), told["authority"].as_str()), (Some("2"), Some("api.stripe.test")));
    assert_eq!(told["length"], 8);
    let headers = told["headers"].as_object().unwrap();
    let mut names: Vec<&str> = headers.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["authorization", "content-length", "idempotency-key", "te"]);
    assert_eq!(headers["authorization"], format!("Bearer {KEY}"));
    assert_eq!(tool_server.connections(), 1);

    let record = egress.record().await;
    assert_eq!(record.target, Some(CallTarget::Tool("stripe-api".to_owned().try_into().unwrap())));
    assert_eq!((record.method.as_str(), record.origin.as_str()), ("POST", "https://api.stripe.test"));
    assert_eq!((record.path.as_str(), record.status), ("/v1/charges", Some(200)));
    assert_eq!((record.bytes_up, record.bytes_down), (8, answer.body.len() as u64));
    assert_eq!((record.refused, record.broken), (None, None));
    assert!(!format!("{record:?}").contains("planted"));
}

#[tokio::test]
async fn base_urls_lead_to_the_same_place() {
    let (egress, agent, tool_server) = egress(vec![stripe()]).await;
    let own = format!("http://{}", egress.address);
    let local = format!("http://localhost:{}", egress.address.port());
    for base in [&own, &local, ""] {
        let answer = egress.send(&agent, get(&format!("{base}/tools/stripe-api/charges?limit=3"))).await;
        let told = answer.json();
        assert_eq!(answer.status, StatusCode::OK, "{base} {told}");
        assert_eq!((told["path"].as_str(), told["query"].as_str()), (Some("/v1/charges"), Some("limit=3")));
        assert_eq!(told["headers"]["authorization"], format!("Bearer {KEY}"));
    }
    assert_eq!(egress.send(&agent, get("/tools/stripe-api?x")).await.json()["path"], "/v1");
    assert_eq!(tool_server.connections(), 1, "connections are kept");
    for (path, status, reason) in [
        ("/tools/other/x", 403, "tool_not_allowed"),
        ("/tools/stripe-api/../x", 400, "bad_request"),
        ("/tools/stripe-api/%2e%2e/x", 400, "bad_request"),
        ("/tools/stripe-apix/x", 403, "tool_not_allowed"),
        ("/tools/", 403, "tool_not_allowed"),
        ("/v1/chat/completions", 405, "method"),
        ("/", 404, "not_found"),
    ] {
        let answer = egress.send(&agent, get(path)).await;
        assert_eq!((answer.status.as_u16(), answer.reason().as_str()), (status, reason), "{path}");
    }
}

#[tokio::test]
async fn only_origins_of_the_agents_tools_are_reached() {
    let (egress, agent, tool_server) = egress(vec![stripe()]).await;
    for (authority, told) in [
        (
            "evil.test:443",
            "no tool is registered for https://evil.test: register one there and add it to required_tools",
        ),
        (
            "api.stripe.test:8443",
            "the tool \"stripe-api\" is at https://api.stripe.test, not at https://api.stripe.test:8443",
        ),
        ("169.254.169.254:443", "no tool is registered for https://169.254.169.254: register"),
        ("127.0.0.1:443", "no tool is registered for https://127.0.0.1: register"),
        ("[::1]:443", "no tool is registered for https://[::1]: register"),
    ] {
        let head = egress.tunnel(&agent, authority).await.unwrap_err();
        assert!(head.starts_with(&format!("HTTP/1.1 403 {told}")), "{head}");
        assert!(head.contains("x-hoistway-egress: host_not_allowed"));
        let record = egress.record().await;
        assert_eq!((record.method.as_str(), record.refused), ("CONNECT", Some("host_not_allowed")));
    }
    for authority in ["api.stripe.test", "api.stripe.test:", "api.stripe.test:0", "u@api.stripe.test:443"] {
        let head = egress.tunnel(&agent, authority).await.unwrap_err();
        assert!(head.starts_with("HTTP/1.1 400 "), "{authority} {head}");
    }
    let answer = egress.send(&agent, get("http://api.stripe.test/v1/x")).await;
    assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "host_not_allowed"));
    let answer = egress.send(&agent, get("https://API.stripe.test.:443/v1/x")).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(tool_server.connections(), 1);
}

#[tokio::test]
async fn capabilities_and_the_base_path_hold_whatever_the_spelling() {
    let covers = |methods: &[Method], path: &str| Capability {
        methods: methods.to_vec(),
        path: PathPattern::parse(path).unwrap(),
    };
    let mut stripe = stripe();
    stripe.capabilities = vec![covers(&[Method::GET], "/v1/charges/*"), covers(&[], "/v1/open/**")];
    let (egress, agent, tool_server) = egress(vec![stripe]).await;
    let status = async |method: Method, path: &str| {
        let mut request = get(path);
        *request.method_mut() = method;
        egress.call(&agent, "api.stripe.test", request).await.status.as_u16()
    };
    for path in ["/v1/charges/7", "/v1/charges/%37", "/v1/charges/7?x=/../y"] {
        assert_eq!(status(Method::GET, path).await, 200, "{path}");
    }
    for path in ["/v1/open", "/v1/open/a/b"] {
        assert_eq!(status(Method::DELETE, path).await, 200, "{path}");
    }
    let mut overriding = get("/v1/charges/7");
    for name in ["X-HTTP-Method-Override", "x_http_method_override", "X-Original-URL", "X-Rewrite-URL"] {
        overriding.headers_mut().append(http::HeaderName::try_from(name).unwrap(), "DELETE".parse().unwrap());
    }
    let told = egress.call(&agent, "api.stripe.test", overriding).await.json();
    assert!(!told.to_string().contains("DELETE"), "{told}");
    let seen = tool_server.connections();
    assert_eq!(status(Method::DELETE, "/v1/charges/7").await, 403);
    assert_eq!(status(Method::TRACE, "/v1/open").await, 405);
    for path in [
        "/v1/charges",
        "/v1/charges/7/8",
        "/v1/charges/7//",
        "/v1/charges/7;a=b",
        "/v1/charges/7%2f8",
        "/v2/x",
        "/",
        "/v1/open//x",
        "/v1/open/%2fadmin",
        "/v1/charges/%25",
    ] {
        assert_eq!(status(Method::GET, path).await, 403, "{path}");
    }
    for path in [
        "/v1/open/../admin",
        "/v1/open/%2e%2e/admin",
        "/v1/open/..;/admin",
        "/v1/open/%252e%252e/admin",
        "/v1/open/a%5c..%5cadmin",
        "/v1/open/%00",
    ] {
        assert_eq!(status(Method::GET, path).await, 400, "{path}");
    }
    assert_eq!(tool_server.connections(), seen);
}

#[tokio::test]
async fn the_closest_tool_at_a_host_answers() {
    let mut root = tool("root", "https://api.stripe.test");
    root.credential = header_key("x-api-key", "", "of-root");
    let (egress, agent, _) = egress(vec![root, stripe()]).await;
    let key = async |path: &str| egress.call(&agent, "api.stripe.test", get(path)).await.json()["headers"].clone();
    assert_eq!(key("/v1/x").await["authorization"], format!("Bearer {KEY}"));
    let other = key("/v2/x").await;
    assert_eq!((other["x-api-key"].as_str(), other["authorization"].as_str()), (Some("of-root"), None));
}

#[tokio::test]
async fn a_key_in_the_query_is_ours_alone() {
    let mut api = tool("api", "https://api.stripe.test");
    let place = KeyPlace::Query("key".into());
    api.credential = Credential::ApiKey { place, prefix: String::new(), value: Secret::new(KEY) };
    let (egress, agent, _) = egress(vec![api]).await;
    let answer = egress.call(&agent, "api.stripe.test", get("/x?key=mine&q=a%20b&%6bey=mine")).await;
    assert_eq!(answer.json()["query"], format!("q=a%20b&key={KEY}"));
    assert_eq!(egress.record().await.path, "/x");
}

#[tokio::test]
async fn private_addresses_need_the_registrations_word() {
    let ca = TestCa::new();
    let tool_server = MockTool::plain().await;
    let port = tool_server.address.port();
    let open = |name: &str, url: String, allow_private| ToolPolicy { allow_private, ..tool(name, &url) };
    let tools = vec![
        open("closed", format!("http://127.0.0.1:{port}/closed"), false),
        open("named", format!("http://localhost:{port}/named"), false),
        open("open", format!("http://127.0.0.1:{port}/open"), true),
        open("metadata", "http://169.254.169.254".into(), true),
    ];
    let (egress, [agent]) = TestEgress::start(&ca, [tools], |_| {}).await;
    assert_eq!(egress.send(&agent, get("/tools/open/x")).await.status, StatusCode::OK);
    assert_eq!(egress.record().await.refused, None);
    // The connection of one tool is not there for another one at the same address.
    for tool in ["closed", "named", "metadata"] {
        let answer = egress.send(&agent, get(&format!("/tools/{tool}/x"))).await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::FORBIDDEN, "private_address"), "{tool}");
        assert_eq!(egress.record().await.refused, Some("private_address"));
    }
    assert_eq!(tool_server.seen("/closed/x").len(), 0);
    assert_eq!(tool_server.connections(), 1);
}

#[tokio::test]
async fn redirects_are_the_clients_business() {
    let (egress, agent, tool_server) = egress(vec![tool("api", "https://api.stripe.test")]).await;
    let answer = egress.call(&agent, "api.stripe.test", get("/redirect")).await;
    assert_eq!(
        (answer.status, &answer.headers["location"]),
        (StatusCode::FOUND, &"http://127.0.0.1:1/private".parse().unwrap())
    );
    assert_eq!(tool_server.connections(), 1);
    let answer = egress.send(&agent, get("http://127.0.0.1:1/private")).await;
    assert_eq!(answer.reason(), "host_not_allowed");
}

#[tokio::test]
async fn a_tool_that_cannot_be_reached_is_said_so() {
    let ca = TestCa::new();
    let foreign = MockTool::tls(&TestCa::new(), "foreign.test").await;
    let resolve = vec![format!("foreign.test:443={}", foreign.address), "gone.test:443=127.0.0.1:1".into()];
    let tools = vec![tool("foreign", "https://foreign.test"), tool("gone", "https://gone.test")];
    let (egress, [agent]) = TestEgress::start(&ca, [tools], |config| config.resolve = resolve).await;
    for name in ["foreign", "gone"] {
        let answer = egress.send(&agent, get(&format!("/tools/{name}/"))).await;
        assert_eq!((answer.status, answer.reason().as_str()), (StatusCode::BAD_GATEWAY, "tool_unreachable"), "{name}");
    }
    assert_eq!(foreign.seen("/").len(), 0);
}
