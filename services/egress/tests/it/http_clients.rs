//! Clients as agents use them.

use crate::{
    mock_tool::{MockTool, TestCa},
    test_egress::{Agent, TestEgress, header_key, tool},
};
use hoistway_testing::{need, runs};
use serde_json::Value;
use std::process::Stdio;
use tokio::process::Command;

async fn start() -> (TestEgress, Agent, MockTool) {
    let ca = TestCa::new();
    let tool_server = MockTool::tls(&ca, "api.test").await;
    let resolve = vec![format!("api.test:443={}", tool_server.address)];
    let mut api = tool("api", "https://api.test");
    api.credential = header_key("authorization", "Bearer ", "s3cret");
    let (egress, [agent]) = TestEgress::start(&ca, [vec![api]], |config| config.resolve = resolve).await;
    (egress, agent, tool_server)
}

/// Runs a program with the environment of an agent, and nothing else.
async fn run(egress: &TestEgress, agent: &Agent, program: &str, arguments: &[&str]) -> (String, String) {
    let proxy = format!("http://agent:{}@{}", agent.token.expose(), egress.address);
    let mut command = Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null());
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        command.env(name, &proxy);
    }
    for name in ["SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE"] {
        command.env(name, egress.ca_file());
    }
    command.env("TOOL_URL_API", format!("http://{}/tools/api", egress.address)).env("PATH", "/usr/bin:/bin");
    let output = command.output().await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn python_with_strict_certificate_checks_reaches_tools() {
    if !need("python3", runs("/usr/bin/python3", &["-V"]), "/usr/bin/python3 is not there") {
        return;
    }
    let (egress, agent, tool_server) = start().await;
    let program = r#"
import json, os, ssl, urllib.error, urllib.request
context = ssl.create_default_context()
context.verify_flags |= ssl.VERIFY_X509_STRICT
ask = lambda url, **kw: json.load(urllib.request.urlopen(url, **kw))
told = ask("https://api.test/v1/x?y=1", context=context)
assert told["headers"]["authorization"] == "Bearer s3cret", told
told = ask(os.environ["TOOL_URL_API"] + "/z")
assert told["path"] == "/z" and told["headers"]["authorization"] == "Bearer s3cret", told
try:
    ask("https://evil.test/")
except OSError as e:
    print(e)
assert "s3cret" not in str(os.environ)
"#;
    let (out, err) = run(&egress, &agent, "/usr/bin/python3", &["-c", program]).await;
    assert_eq!(
        (out.trim(), err.as_str()),
        (
            "<urlopen error Tunnel connection failed: 403 no tool is registered for https://evil.test: register one there and add it to required_tools>",
            ""
        )
    );
    assert_eq!(tool_server.seen("/z").len(), 1);
}

#[tokio::test]
async fn curl_reaches_tools_over_http1_and_http2() {
    if !need("curl", runs("curl", &["-V"]), "curl is not there") {
        return;
    }
    let (egress, agent, _) = start().await;
    for version in ["--http1.1", "--http2"] {
        let arguments = ["-sS", version, "-d", "a=b", "-w", "\n%{http_version}", "https://api.test/v1/x"];
        let (out, err) = run(&egress, &agent, "curl", &arguments).await;
        assert_eq!(err, "");
        let (body, spoken) = out.split_once('\n').unwrap();
        let told: Value = serde_json::from_str(body).unwrap();
        assert_eq!((told["method"].as_str(), told["length"].as_u64()), (Some("POST"), Some(3)));
        assert_eq!(told["headers"]["authorization"], "Bearer s3cret");
        assert_eq!(spoken, if version == "--http2" { "2" } else { "1.1" });
    }
}
