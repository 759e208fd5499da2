//! Secrets are planted in every place that accepts one, every failure is provoked, and then everything that the
//! platform stores, logs or answers is searched for them.

use crate::{
    end_users::{Issuer, invoke},
    http::Answer,
    test_installation::{Stack, log_of},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    time::{Duration, Instant},
};

/// Calls both tools and an unknown one, and prints or raises all it knows.
const CALLER: &str = r#"
import os, urllib.error, urllib.request

def call(url):
    try:
        return urllib.request.urlopen(url, timeout=20).status
    except urllib.error.HTTPError as e:
        return e.code
    except OSError:
        return 0

def handler(message):
    if message == "raise":
        print(dict(os.environ), flush=True)
        raise ValueError(os.environ["SESSION_TOKEN"])
    tools = [os.environ["TOOL_URL_KEYED"], os.environ["TOOL_URL_OAUTH"]]
    return {"response": [call(url + message) for url in tools] + [call("http://198.51.100.7/none")]}
"#;
/// Exits during its start, with its environment on both of its streams.
const DYING: &str = "import os, sys\nprint(dict(os.environ), flush=True)\nsys.exit(os.environ['SESSION_TOKEN'])\ndef handler(message): pass\n";

/// The planted secrets. Each is unique, and has characters that are escaped in URLs.
struct Planted {
    api_key: String,
    client_secret: String,
    access_token: String,
    provider_key: String,
    env: String,
    user_token: String,
}

impl Planted {
    fn new(issuer: &Issuer) -> Self {
        let unique = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let secret = |what: &str| format!("{what}/{}+==", unique.trim());
        Self {
            api_key: secret("apikey"),
            client_secret: secret("client"),
            access_token: secret("access"),
            provider_key: secret("provider"),
            env: secret("env"),
            user_token: issuer.token("ada@example.com"),
        }
    }

    fn all(&self) -> [&str; 7] {
        let signature = self.user_token.rsplit('.').next().unwrap();
        let Self { api_key, client_secret, access_token, provider_key, env, user_token } = self;
        [api_key, client_secret, access_token, provider_key, env, user_token, signature]
    }

    /// Returns all forms in which they are searched for: unchanged, percent-encoded, and in base64 at each of the three
    /// offsets within a longer text.
    fn patterns(&self) -> String {
        let mut patterns = String::new();
        for secret in self.all() {
            let percent = |byte: u8| match byte {
                b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => char::from(b).to_string(),
                b => format!("%{b:02X}"),
            };
            let encoded: String = secret.bytes().map(percent).collect();
            patterns.push_str(&format!("{secret}\n{encoded}\n{}\n", encoded.to_lowercase()));
            for before in 0..3 {
                let text = STANDARD.encode(format!("{}{secret}", &"xx"[..before]));
                // The first and the last characters contain bits of the neighbouring bytes.
                let text = text.trim_end_matches('=');
                let inner = &text[[0, 2, 3][before]..text.len() - 1];
                patterns.push_str(&format!("{inner}\n{}\n", inner.replace('+', "-").replace('/', "_")));
            }
        }
        patterns
    }
}

/// Answers `/token` with an access token, `/denied` with 401 and everything else with 200, and reports the received
/// credentials.
fn tool(access_token: String, credentials: mpsc::SyncSender<String>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &access_token, &credentials);
        }
    });
    port
}

fn answer(stream: TcpStream, access_token: &str, credentials: &mpsc::SyncSender<String>) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let head: Vec<String> = stream.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()).collect();
    let field = |wanted: &str| {
        let mut fields = head.iter().filter_map(|line| line.split_once(": "));
        fields.find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| value.to_owned())
    };
    let length = field("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    stream.read_exact(&mut vec![0; length])?;
    for value in [field("x-key"), field("authorization")].into_iter().flatten() {
        let _ = credentials.try_send(value);
    }
    let path = head.first().map_or("", |line| line);
    let (status, body) = match path {
        path if path.contains("/token") => {
            ("200 OK", json!({"access_token": access_token, "token_type": "Bearer", "expires_in": 3600}).to_string())
        }
        path if path.contains("/denied") => ("401 Unauthorized", String::new()),
        _ => ("200 OK", "{}".to_owned()),
    };
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close");
    write!(stream.get_mut(), "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A file with all answers.
struct Answers(File);

impl Answers {
    fn keep(&mut self, answer: Answer) -> Answer {
        self.0.write_all(format!("{} {:?}\n", answer.status, answer.headers).as_bytes()).unwrap();
        self.0.write_all(&answer.body).unwrap();
        answer
    }

    fn call(&mut self, stack: &Stack, method: &str, path: &str, body: Value) -> Answer {
        self.keep(stack.call(method, path, Some(&body).filter(|body| !body.is_null())))
    }

    /// Reads every path that the API's description has a GET for.
    fn read_all(&mut self, stack: &Stack) {
        let described = stack.get("/openapi.json")["paths"].as_object().unwrap().clone();
        for (path, operations) in described {
            // The events never end; they are read separately. Paths below `app/` belong to agents.
            let other = path == "/api/events" || path.contains("/app/");
            let Some(get) = operations.get("get").filter(|_| !other) else { continue };
            // The document's own example contains the required query parameters.
            let parameters = get["parameters"].as_array().into_iter().flatten();
            let required = parameters.filter(|p| p["in"] == "query" && p["required"] == true);
            let query: Vec<String> = required
                .map(|p| format!("{}={}", p["name"].as_str().unwrap(), p["example"].as_str().unwrap()))
                .collect();
            let path = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
            self.read(stack, &path);
        }
    }

    /// Reads a path, with each existing resource in place of a parameter.
    fn read(&mut self, stack: &Stack, path: &str) {
        let Some((list, (parameter, rest))) =
            path.split_once("/{").and_then(|(list, rest)| Some((list, rest.split_once('}')?)))
        else {
            let answer = self.call(stack, "GET", path, Value::Null);
            assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
            return;
        };
        let resources = stack.get(list);
        let resources = resources.as_array().unwrap();
        assert!(!resources.is_empty(), "{list}");
        for resource in resources {
            self.read(stack, &format!("{list}/{}{rest}", resource[parameter].as_str().unwrap()));
        }
    }
}

/// Writes the information that other users of the machine can read about the processes: arguments and environments. An
/// agent's own environment may contain the variables set for it.
fn processes(planted: &Planted, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        for name in ["environ", "cmdline"] {
            let bytes = fs::read(entry.path().join(name)).unwrap_or_default();
            let mut text = String::from_utf8_lossy(&bytes).into_owned();
            let has = |agent: &str| text.split('\0').any(|variable| variable == format!("AGENT_NAME={agent}"));
            if name == "environ" && (has("caller") || has("guarded")) {
                text = text.replace(&planted.env, "");
            }
            fs::write(to.join(format!("{}-{name}", entry.file_name().display())), text).unwrap();
        }
    }
}

/// Unpacks every compressed file below a directory.
fn unpack(dir: &Path, to: &Path) -> usize {
    let found = Command::new("find").arg(dir).args(["-type", "f"]).output().unwrap();
    fs::create_dir_all(to).unwrap();
    let is_gzip = |path: &PathBuf| {
        let mut magic = [0; 3];
        File::open(path).unwrap().read_exact(&mut magic).is_ok() && magic == [0x1f, 0x8b, 8]
    };
    let paths = String::from_utf8(found.stdout).unwrap();
    let paths: Vec<PathBuf> = paths.lines().map(PathBuf::from).filter(is_gzip).collect();
    for (path, n) in paths.iter().zip(0..) {
        let file = File::create(to.join(format!("{n}"))).unwrap();
        let _ = Command::new("gzip").arg("-dc").stdin(File::open(path).unwrap()).stdout(file).status().unwrap();
    }
    paths.len()
}

/// Returns the files with one of the patterns, and the pattern.
fn search(patterns: &Path, dir: &Path) -> String {
    let found = Command::new("grep").env("LC_ALL", "C").arg("-raoFf").args([patterns, dir]).output().unwrap();
    String::from_utf8_lossy(&found.stdout).into_owned()
}

#[test]
fn no_secret_is_kept_logged_or_answered_in_clear() {
    let dir = tempfile::tempdir().unwrap();
    let issuer = Issuer::start();
    let planted = Planted::new(&issuer);
    let patterns = tempfile::NamedTempFile::new().unwrap();
    fs::write(patterns.path(), planted.patterns()).unwrap();
    let (sender, credentials) = mpsc::sync_channel(1024);
    let base = format!("http://127.0.0.1:{}", tool(planted.access_token.clone(), sender));
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_LOG", "debug");
    });
    let mut answers = Answers(File::create(dir.path().join("answers")).unwrap());
    let mut events = stack.chunks("GET", "/api/events", None);

    // Every request that accepts a secret, with mistakes too.
    let keyed = json!({"type": "APIKey", "apiKeyConfig": {"in": "Header", "name": "X-Key"}});
    let keyed = json!({"name": "keyed", "spec": {"connection": {"baseUrl": base, "authentication": keyed}}});
    let oauth = json!({
        "name": "oauth", "base_url": base, "auth_type": "OAuth2", "token_url": format!("{base}/token"),
        "credentials": {"client_id": "client", "client_secret": planted.client_secret},
    });
    let model = json!({"name": "models", "provider": "openai", "endpoint": base, "api_key": planted.provider_key});
    let env = json!([{"name": "SESSION_TOKEN", "value": planted.env}, {"name": "PLAIN", "value": "x"}]);
    let agent = |name: &str, source: &str| {
        json!({
            "agent_name": name, "source_files": {"agent.py": source}, "env": env, "required_tools": ["keyed", "oauth"],
            "llm_configs": [{"role": "chat", "provider": "models", "model": "m"}],
        })
    };
    let guarded = json!({"agent_name": "guarded", "source_files": {"agent.py": CALLER}, "env": env, "identity_provider": "sso", "required_tools": ["keyed", "oauth"]});
    let key = &planted.api_key;
    for (method, path, body, status) in [
        ("POST", "/api/tools", keyed, 201),
        ("POST", "/api/tools", oauth, 201),
        ("POST", "/api/model-providers", model, 201),
        ("POST", "/api/identity-providers", issuer.provider(), 201),
        ("POST", "/api/keys", json!({"name": "reader", "scopes": ["read"]}), 201),
        ("PUT", "/api/tools/keyed/credentials", json!({"api_kye": key}), 400),
        ("PUT", "/api/tools/keyed/credentials", json!({"api_key": {"value": key}}), 400),
        ("PUT", "/api/tools/keyed/credentials", json!({"api_key": format!("{key}\n")}), 400),
        ("PUT", "/api/tools/nothing/credentials", json!({"api_key": key}), 404),
        ("PUT", "/api/tools/keyed/credentials", json!({"api_key": key}), 200),
        ("PUT", "/api/model-providers/models/credentials", json!({"api_key": planted.provider_key}), 200),
        ("POST", "/api/deploy", agent("caller", CALLER), 201),
        ("POST", "/api/deploy", guarded, 201),
        ("POST", "/api/deploy", agent("dying", DYING), 500),
        ("POST", "/api/deploy", agent("Wrong_Name", CALLER), 400),
        ("PUT", "/api/agents/caller/config", json!({"env": [{"name": "BAD", "value": [planted.env]}]}), 400),
    ] {
        let answer = answers.call(&stack, method, path, body);
        assert_eq!(answer.status, status, "{method} {path}: {}\n{}", answer.text(), log_of(dir.path()));
    }

    // Calls that are let through, refused by the tool and by egress; an agent that fails; tokens that are invalid.
    let invoked = |answers: &mut Answers, message: &str| {
        answers.call(&stack, "POST", "/api/agents/caller/invoke", json!({ "message": message }))
    };
    let until = Instant::now() + Duration::from_secs(10);
    while invoked(&mut answers, "/fine").json()["response"].as_array().is_none_or(|all| all[..2] != [200, 200]) {
        assert!(Instant::now() < until, "the credentials do not reach egress: {}", log_of(dir.path()));
    }
    assert_eq!(invoked(&mut answers, "/denied").json()["response"].as_array().unwrap()[..2], [401, 401]);
    assert_eq!(invoked(&mut answers, "raise").status, 500);
    for tool in ["keyed", "oauth"] {
        assert_eq!(answers.call(&stack, "POST", &format!("/api/tools/{tool}/check"), Value::Null).status, 200);
    }
    let path = "/api/agents/guarded/invoke";
    assert_eq!(answers.keep(invoke(&stack, path, &planted.user_token)).status, 200);
    for (path, token) in [
        (path, format!("{}x", planted.user_token)),
        ("/api/agents/caller/invoke", planted.user_token.clone()),
        ("/api/agents", planted.user_token.clone()),
    ] {
        assert_eq!(answers.keep(invoke(&stack, path, &token)).status / 100, 4, "{path}");
    }
    let query = format!("/api/agents?access_token={}", planted.user_token);
    answers.call(&stack, "GET", &query, Value::Null);
    // The tools received their credentials.
    let got: Vec<String> = credentials.try_iter().collect();
    assert!(got.contains(&planted.api_key) && got.contains(&format!("Bearer {}", planted.access_token)), "{got:?}");

    processes(&planted, &dir.path().join("processes"));
    answers.read_all(&stack);
    assert_eq!(answers.call(&stack, "DELETE", "/api/agents/guarded", Value::Null).status, 200);
    fs::write(dir.path().join("events"), events.text_until("agent.deleted")).unwrap();
    answers.read_all(&stack);
    let printed = stack.call("GET", "/api/agents/caller/logs?stream=stdout", None).text();
    assert!(printed.contains("'SESSION_TOKEN': '") && printed.contains("'PLAIN': 'x'"), "{printed}");
    let unpacked = unpack(dir.path(), &dir.path().join("unpacked"));
    assert!(unpacked > 0, "there are layers to search");
    // Once with the databases in use, and once after the stop.
    assert_eq!(search(patterns.path(), dir.path()), "");
    assert!(stack.stop().success());
    assert_eq!(search(patterns.path(), dir.path()), "");

    // The search does find planted secrets.
    for (text, n) in planted.all().iter().zip(0..) {
        for (form, name) in [((*text).to_owned(), "clear"), (STANDARD.encode(format!("user:{text}!")), "base64")] {
            let control = dir.path().join(format!("control-{n}-{name}"));
            fs::write(&control, format!("a{form}b")).unwrap();
            assert!(!search(patterns.path(), &control).is_empty(), "{form}");
        }
    }
}
