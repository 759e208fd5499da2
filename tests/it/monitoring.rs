//! The dashboard and the alerts in deploy/, checked by Prometheus itself: against a running installation.

use crate::{
    http,
    prerequisites::prometheus,
    test_installation::{Stack, says},
};
use hoistway_testing::TestAuthority;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use url::form_urlencoded;

/// The selectors without a series in the test's installation, and why.
const EMPTY: [(&str, &str); 2] = [
    (r#"hoistway_agent_calls_total{outcome="budget_exceeded"}"#, "the playground's model costs nothing"),
    (
        r#"hoistway_rpc_server_calls_total{status=~"INTERNAL|UNKNOWN|DATA_LOSS|DEADLINE_EXCEEDED|UNAVAILABLE"}"#,
        "no service fails here",
    ),
];

const AGENT: &str = r#"
import json, os, urllib.request

def ask(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))

def handler(message):
    if message == "die":
        os._exit(7)
    messages = [{"role": "user", "content": message}]
    ask(os.environ["OPENAI_BASE_URL"] + "/chat/completions", {"model": "gpt-4o-mini", "messages": messages})
    ask(os.environ["TOOL_URL_ECHO_TOOL"] + "/echo", {"message": message})
    return 1 / 0 if message == "fail" else message
"#;

fn deploy_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy")
}

/// Runs promtool and expects success.
fn promtool(promtool: &Path, arguments: &[&str]) {
    let ran = Command::new(promtool).args(arguments).output().unwrap();
    let said = [ran.stdout, ran.stderr].map(|out| String::from_utf8(out).unwrap()).concat();
    assert!(ran.status.success() && !said.contains("FAILED"), "promtool {arguments:?}: {said}");
}

#[test]
fn the_alerts_are_valid_and_fire_when_they_should() {
    let Some(program) = prometheus("promtool") else { return };
    let (dir, own) = (deploy_dir().join("prometheus"), tempfile::tempdir().unwrap());
    let alerts = dir.join("alerts.yaml");
    promtool(&program, &["check", "rules", "--lint=all", "--lint-fatal", alerts.to_str().unwrap()]);
    let config = dir.join("prometheus.yml");
    promtool(&program, &["check", "config", "--syntax-only", config.to_str().unwrap()]);
    fs::copy(alerts, own.path().join("alerts.yaml")).unwrap();
    let cases = own.path().join("alerts_test.yaml");
    fs::write(&cases, include_str!("alerts_test.yaml")).unwrap();
    promtool(&program, &["test", "rules", cases.to_str().unwrap()]);
}

/// Prometheus, scraping an installation each second.
struct Prometheus {
    child: Child,
    at: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts it with the sample configuration, but for the address, the key's file and the intervals.
    fn start(program: &Path, dir: &Path, stack: &Stack) -> Self {
        let sample = fs::read_to_string(deploy_dir().join("prometheus/prometheus.yml")).unwrap();
        let key = dir.join("data/api-key");
        let config = sample
            .replace("/etc/prometheus/hoistway-key", key.to_str().unwrap())
            .replace("localhost:8092", &stack.at)
            .replace("15s", "1s");
        fs::write(dir.join("prometheus.yml"), config).unwrap();
        fs::copy(deploy_dir().join("prometheus/alerts.yaml"), dir.join("alerts.yaml")).unwrap();
        let at = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let option = |name: &str, value: &str| format!("--{name}={value}");
        let child = Command::new(program)
            .arg(option("config.file", dir.join("prometheus.yml").to_str().unwrap()))
            .arg(option("storage.tsdb.path", dir.join("tsdb").to_str().unwrap()))
            .arg(option("web.listen-address", &at))
            .stdin(Stdio::null())
            .stderr(File::create(dir.join("prometheus.log")).unwrap())
            .spawn()
            .unwrap();
        Self { child, at }
    }

    /// Posts to its API. A refused query is an error, and so is a Prometheus that does not listen yet.
    fn try_post(&self, path: &str, form: &[(&str, &str)]) -> Result<Value, String> {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let headers = [("Content-Type", "application/x-www-form-urlencoded")];
        let answer = http::send(&self.at, "POST", path, &headers, body.as_bytes()).map_err(|e| e.to_string())?;
        match answer.status {
            200 => Ok(answer.json()["data"].clone()),
            _ => Err(answer.text()),
        }
    }

    /// Returns the series that a query results in; panics if it is not valid.
    fn query(&self, query: &str) -> Vec<Value> {
        let data = self.try_post("/api/v1/query", &[("query", query)]).unwrap_or_else(|e| panic!("{query}: {e}"));
        data["result"].as_array().unwrap().clone()
    }

    /// Returns the labels of the series of a metric.
    fn labels(&self, metric: &str) -> BTreeSet<String> {
        let found = self.try_post("/api/v1/series", &[("match[]", metric)]).unwrap();
        let series = found.as_array().unwrap().iter().filter_map(Value::as_object);
        series.flat_map(|labels| labels.keys().cloned()).collect()
    }

    /// Returns the alerts' expressions.
    fn alerts(&self) -> Vec<String> {
        let answer = http::send(&self.at, "GET", "/api/v1/rules", &[], b"").unwrap().json();
        let rules = answer["data"]["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap());
        rules.map(|rule| rule["query"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until a query has a result.
    fn wait_for(&self, query: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        let has_result = || {
            let found = self.try_post("/api/v1/query", &[("query", query)]);
            found.is_ok_and(|data| data["result"].as_array().is_some_and(|series| !series.is_empty()))
        };
        while !has_result() {
            assert!(Instant::now() < until, "{query} has no result");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Returns the queries of the dashboard's panels, with the interval that Grafana fills in.
fn dashboard_queries() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_slice(&fs::read(deploy_dir().join("grafana/hoistway.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().filter_map(|panel| panel["targets"].as_array()).flatten();
    targets.map(|target| target["expr"].as_str().unwrap().replace("$__rate_interval", "1m")).collect()
}

/// Returns the metrics that a query reads, each with its matchers and the labels that they name.
fn selectors(query: &str) -> Vec<(String, String, Vec<String>)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(at) = rest.find(is_name) {
        let from = &rest[at..];
        let (name, after) = from.split_at(from.find(|c| !is_name(c)).unwrap_or(from.len()));
        rest = after;
        if !["hoistway_", "process_"].iter().any(|prefix| name.starts_with(prefix)) && name != "up" {
            // A text between quotes has no metrics.
            rest = after.strip_prefix('"').map_or(rest, |text| text.split_once('"').map_or("", |(_, rest)| rest));
            continue;
        }
        let matchers = after.strip_prefix('{').and_then(|inside| inside.split_once('}')).map(|(inside, _)| inside);
        let names = matchers.unwrap_or_default().split("\",").filter_map(|one| one.split(['=', '!']).next());
        let names = names.map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect();
        let selector = matchers.map_or_else(|| name.to_owned(), |matchers| format!("{name}{{{matchers}}}"));
        rest = &after[matchers.map_or(0, |matchers| matchers.len() + 2)..];
        found.push((name.to_owned(), selector, names));
    }
    found
}

/// Returns the labels that a query groups by.
fn grouped_by(query: &str) -> impl Iterator<Item = &str> {
    let groups = query.split("by (").skip(1).filter_map(|rest| rest.split_once(')'));
    groups.flat_map(|(labels, _)| labels.split(',')).map(str::trim)
}

#[test]
fn every_query_of_the_dashboard_and_the_alerts_is_answered_by_an_installation() {
    let Some(program) = prometheus("prometheus") else { return };
    let dir = tempfile::tempdir().unwrap();
    TestAuthority::new().issue(dir.path(), "api", &["localhost"]);
    let stack = Stack::start_with(dir.path(), |command| {
        // Clients on this machine, such as this Prometheus, do without TLS.
        command.arg("--tls-cert").arg(dir.path().join("api.pem"));
        command.arg("--tls-key").arg(dir.path().join("api-key.pem"));
    });
    let prometheus = Prometheus::start(&program, dir.path(), &stack);
    prometheus.wait_for("up == 1");
    exercise(&stack);
    // Two scrapes after the last event, so that there are rates.
    prometheus.wait_for(r#"hoistway_agent_calls_total{outcome="2xx"}"#);
    prometheus.wait_for("rate(hoistway_model_tokens_total[1m])");
    prometheus.wait_for(r#"hoistway_agent_crashes_total{agent="watched"} > 0"#);

    let alerts = prometheus.alerts();
    assert!(alerts.len() > 10, "{alerts:?}");
    let panels = dashboard_queries();
    for query in panels.iter().chain(&alerts) {
        let selectors = selectors(query);
        assert!(!selectors.is_empty(), "{query}");
        let is_excused = |selector: &str| EMPTY.iter().any(|(excused, _)| *excused == selector);
        let mut labels = BTreeSet::from(["le".to_owned()]);
        for (metric, selector, matched) in &selectors {
            let exposed = prometheus.labels(metric);
            assert!(!exposed.is_empty(), "{metric} is not exposed; of {query}");
            let known = matched.iter().all(|label| exposed.contains(label));
            assert!(known, "{metric} has no label of {matched:?}, but {exposed:?}; of {query}");
            let is_there = !prometheus.query(selector).is_empty();
            assert!(is_there || is_excused(selector), "{selector} has no series; of {query}");
            labels.extend(exposed);
        }
        for label in grouped_by(query) {
            assert!(labels.contains(label), "no label {label} in {labels:?}; of {query}");
        }
        let is_panel = panels.contains(query);
        let excused = selectors.iter().any(|(_, selector, _)| is_excused(selector));
        if is_panel && !excused {
            prometheus.wait_for(query);
        } else {
            prometheus.query(query);
        }
    }
}

/// Deploys, invokes and streams, with and without success.
fn exercise(stack: &Stack) {
    assert!(stack.call("POST", "/api/starter-kit", None).status < 300);
    let tools = json!(["echo-tool"]);
    let models = json!([{"provider": "openai", "model": "gpt-4o-mini"}]);
    let agent = json!({"agent_name": "watched", "source_files": {"agent.py": AGENT}, "required_tools": tools,
        "llm_configs": models, "requirements": "six"});
    stack.deployed(agent);
    let broken = json!({"agent.py": "raise SystemExit(3)\ndef handler(m): return m\n"});
    assert_eq!(stack.deploy(json!({"agent_name": "broken", "source_files": broken})).status, 500);
    // Its packages are there already.
    stack.deployed(json!({"agent_name": "other", "source_files": says("x"), "requirements": "six"}));
    for (message, status) in [("hello", 200), ("fail", 500), ("die", 502)] {
        let answer = stack.invoke("watched", message);
        assert_eq!(answer.status, status, "{}", answer.text());
    }
    stack.wait_for_phase("watched", "Running");
    stack.answer("watched", "again");
}
