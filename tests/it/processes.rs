//! The same services as processes of their own, as compose runs them.

use crate::http;
use hoistway_client::{EgressClient, Transport};
use hoistway_kit::token::ServiceToken;
use hoistway_model::{EgressService, egress::PolicySource};
use serde_json::json;
use std::{
    fs::File,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// The services' binaries are built beside the one under test.
fn binary(name: &str) -> PathBuf {
    Path::new(crate::stack::HOISTWAY).with_file_name(format!("hoistway-{name}"))
}

struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn start(dir: &Path, name: &str, env: &[(&str, String)]) -> Service {
    let log = File::create(dir.join(format!("{name}.log"))).unwrap();
    let prefix = format!("HOISTWAY_{}_", name.to_uppercase().replace('-', "_"));
    let mut command = Command::new(binary(name));
    command.env(format!("{prefix}DATA_DIR"), dir.join("data"));
    for (key, value) in env {
        command.env(format!("{prefix}{key}"), value);
    }
    Service(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

#[test]
fn five_processes_serve_the_same_api_and_each_may_be_killed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::create_dir(dir.join("data")).unwrap();
    let at = |port: u16| format!("127.0.0.1:{port}");
    let [api, tools, echo, build, registry, agent, egress, egress_grpc] = std::array::from_fn(|_| at(free_port()));
    let url = |at: &str| format!("http://{at}");
    let data = dir.join("data");
    let tool_env = [("GRPC_LISTEN", tools.clone()), ("HTTP_LISTEN", echo.clone()), ("PUBLIC_URL", url(&echo))];
    let build_env = [
        ("GRPC_LISTEN", build.clone()),
        ("REGISTRY_LISTEN", registry.clone()),
        ("API_KEY_FILE", data.join("api-key").display().to_string()),
    ];
    let agent_env =
        [("GRPC_LISTEN", agent.clone()), ("EGRESS_LISTEN", egress.clone()), ("REGISTRY_ADDRESS", registry.clone())];
    let egress_env = [
        ("LISTEN", egress.clone()),
        ("GRPC_LISTEN", egress_grpc.clone()),
        ("TOOL_REGISTRY", url(&tools)),
        ("AGENT", url(&agent)),
    ];
    let gateway_env = [
        ("LISTEN", api.clone()),
        ("TOOL_REGISTRY", url(&tools)),
        ("BUILD", url(&build)),
        ("AGENT", url(&agent)),
        ("EGRESS", url(&egress_grpc)),
        ("PUBLIC_REGISTRY", registry.clone()),
    ];
    let mut running = vec![
        ("tool-registry", start(dir, "tool-registry", &tool_env)),
        ("build", start(dir, "build", &build_env)),
        ("agent", start(dir, "agent", &agent_env)),
        ("egress", start(dir, "egress", &egress_env)),
        ("gateway", start(dir, "gateway", &gateway_env)),
    ];
    let ready = || {
        let until = Instant::now() + Duration::from_secs(30);
        while !http::send(&api, "GET", "/readyz", &[], b"").is_ok_and(|a| a.status == 200) {
            assert!(Instant::now() < until, "not ready: {}", logs(dir));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    ready();
    let key = std::fs::read_to_string(data.join("api-key")).unwrap();
    let auth = format!("Bearer {}", key.trim());
    let call = |method: &str, path: &str, body: &serde_json::Value| {
        http::send(&api, method, path, &[("Authorization", &auth)], body.to_string().as_bytes()).unwrap()
    };
    let source = |text: &str| json!({"agent_name": "apart", "source_files": crate::stack::says(text)});
    let deployed = call("POST", "/api/deploy", &source("v1"));
    assert_eq!(deployed.status, 201, "{}\n{}", deployed.text(), logs(dir));
    let invoke = || {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let answer = call("POST", "/api/agents/apart/invoke", &json!({"message": "x"}));
            if answer.status == 200 {
                return answer.json()["response"].clone();
            }
            assert!(answer.status == 503 && Instant::now() < until, "{}\n{}", answer.text(), logs(dir));
            std::thread::sleep(Duration::from_millis(50));
        }
    };
    assert_eq!(invoke(), "v1");
    for i in 0..running.len() {
        let (name, service) = running.remove(0);
        drop(service);
        let env: &[(&str, String)] = match name {
            "tool-registry" => &tool_env,
            "build" => &build_env,
            "agent" => &agent_env,
            "egress" => &egress_env,
            _ => &gateway_env,
        };
        running.push((name, start(dir, name, env)));
        ready();
        assert_eq!(invoke(), format!("v{}", i + 1), "after {name} was killed");
        egress_is_current(dir, &url(&egress_grpc));
        let text = format!("v{}", i + 2);
        let again = call("POST", "/api/deploy", &source(&text));
        assert_eq!(again.status, 201, "after {name} was killed: {}\n{}", again.text(), logs(dir));
        assert_eq!(invoke(), text);
    }
}

/// Waits until egress knows what both other services say, and follows them.
fn egress_is_current(dir: &Path, uri: &str) {
    let token = ServiceToken::load_or_create(&dir.join("data/service-token")).unwrap();
    let current = async {
        let egress = EgressClient::new(Transport::connect("egress", uri, &token).unwrap());
        let is_current = |source: PolicySource| source.complete && source.connected && source.records > 0;
        loop {
            if egress.status().await.is_ok_and(|s| is_current(s.identities) && s.tools.complete && s.tools.connected) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let waited = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(30), current).await });
    assert!(waited.is_ok(), "egress is not current: {}", logs(dir));
}

fn logs(dir: &Path) -> String {
    ["tool-registry", "build", "agent", "egress", "gateway"]
        .map(|name| {
            format!("== {name}\n{}", std::fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default())
        })
        .join("\n")
}
