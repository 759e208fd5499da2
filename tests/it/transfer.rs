//! The way of an installation to another one: `hoistway export` and `hoistway import`.

use crate::{
    http, prerequisites,
    processes::{Environment, KEY, Processes, tool, variable},
    test_installation::{HOISTWAY, OPEN, Stack, says},
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::mpsc,
};
use tempfile::tempdir;

/// With a package, an environment variable, and a tool.
const CALLER: &str = "import os, six, urllib.request
def handler(message):
    key = urllib.request.urlopen(os.environ['TOOL_URL_PROBE'] + '/', timeout=60).read().decode()
    return ' '.join([VERSION, six.__version__, os.environ['WORD'], key])
";

/// An installation with something of every sort.
struct Source {
    /// Two revisions of this have been deployed.
    caller: Value,
    build: Value,
    /// A key that may invoke only.
    invoke_key: String,
    installation_key: String,
}

fn caller(version: &str) -> Value {
    json!({
        "agent_name": "caller", "requirements": "six==1.16.0", "required_tools": ["probe"],
        "source_files": {"agent.py": format!("VERSION = '{version}'\n{CALLER}")},
        "env": [{"name": "WORD", "value": "kept-secret-7d1c"}],
    })
}

fn fill(call: impl Fn(&str, &str, &Value) -> http::Answer, installation_key: &str) -> Source {
    let (slow, _) = mpsc::sync_channel(1);
    let tool = json!({
        "name": "probe", "credentials": {"api_key": KEY},
        "spec": {"connection": {
            "baseUrl": format!("http://127.0.0.1:{}", tool(slow)),
            "authentication": {"type": "APIKey", "apiKeyConfig": {"in": "Header", "name": "X-Key"}},
        }},
    });
    let made = |method: &str, path: &str, body: &Value| {
        let answer = call(method, path, body);
        assert_eq!(answer.status / 100, 2, "{}", answer.text());
        answer.json()
    };
    made("POST", "/api/tools", &tool);
    made("POST", "/api/model-providers", &model("mk"));
    made("POST", "/api/starter-kit", &json!({}));
    let key = made("POST", "/api/keys", &json!({"name": "scripts", "scopes": ["invoke"]}));
    made("POST", "/api/deploy", &caller("v1"));
    let build = made("POST", "/api/deploy", &caller("v2"))["build_id"].clone();
    let answer = made("POST", "/api/agents/caller/invoke", &json!({"message": "x"}));
    assert_eq!(answer["response"], format!("v2 1.16.0 kept-secret-7d1c {KEY}"));
    made("POST", "/api/deploy", &json!({"agent_name": "stopped", "source_files": says("it goes on")}));
    made("POST", "/api/agents/stopped/stop", &json!({}));
    Source {
        caller: caller("v2"),
        build,
        invoke_key: key["key"].as_str().unwrap().to_owned(),
        installation_key: installation_key.to_owned(),
    }
}

fn model(key: &str) -> Value {
    json!({"name": "m", "provider": "openai", "api_key": key})
}

/// Checks that everything is there, for the users of the source.
fn check(call: impl Fn(&str, &str, &str, &Value) -> http::Answer, source: &Source, key: &str) {
    let expect = |key: &str, method: &str, path: &str, body: &Value| {
        let answer = call(key, method, path, body);
        assert_eq!(answer.status / 100, 2, "{method} {path}: {}", answer.text());
        answer.json()
    };
    let invoke = |key: &str, agent: &str| {
        expect(key, "POST", &format!("/api/agents/{agent}/invoke"), &json!({"message": "x"}))["response"].clone()
    };
    assert_eq!(invoke(&source.invoke_key, "caller"), format!("v2 1.16.0 kept-secret-7d1c {KEY}"));
    let old = &source.installation_key;
    let revision = |key: &str| expect(key, "GET", "/api/agents/caller", &Value::Null)["status"]["revision"].clone();
    let before = revision(old);
    assert_eq!(expect(old, "POST", "/api/deploy", &source.caller)["build_id"], source.build);
    assert_eq!(revision(old), before, "the same deploy again changes nothing");
    expect(old, "POST", "/api/agents/caller/rollback", &json!({}));
    assert_eq!(invoke(key, "caller"), format!("v1 1.16.0 kept-secret-7d1c {KEY}"), "a kept revision");
    expect(old, "POST", "/api/agents/stopped/start", &json!({}));
    assert_eq!(invoke(key, "stopped"), "it goes on");
    for (api_key, status) in [("mk", 200), ("other", 409)] {
        assert_eq!(call(key, "POST", "/api/model-providers", &model(api_key)).status, status);
    }
    let deployments = expect(key, "GET", "/api/deployments", &Value::Null);
    assert_eq!(deployments.as_array().unwrap().len(), 5, "three of the source and two here: {deployments}");
    let audit = expect(key, "GET", "/api/audit", &Value::Null);
    assert!(audit.as_array().unwrap().iter().any(|entry| entry["action"] == "tool.create"), "{audit}");
    let imports = audit.as_array().unwrap().iter().filter(|entry| entry["action"] == "installation.import");
    let imports: Vec<_> = imports.collect();
    assert!(imports.len() == 1 && imports[0]["key"]["id"] == "command-line", "{audit}");
    assert!(imports[0]["target"].as_str().unwrap().starts_with("export of 20"), "{audit}");

    let keys = expect(key, "GET", "/api/keys", &Value::Null);
    let imported = keys.as_array().unwrap().iter().find(|listed| listed["name"] == "imported").unwrap();
    assert_eq!(imported["scopes"], json!(["admin"]));
    expect(key, "DELETE", &format!("/api/keys/{}", imported["id"].as_str().unwrap()), &Value::Null);
    assert_eq!(call(old, "GET", "/api/agents", &Value::Null).status, 401, "it is revoked");
}

fn call_stack<'a>(stack: &'a Stack) -> impl Fn(&str, &str, &str, &Value) -> http::Answer + 'a {
    |key, method, path, body| send(&stack.at, key, method, path, body)
}

fn send(at: &str, key: &str, method: &str, path: &str, body: &Value) -> http::Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    http::send(at, method, path, &[("Authorization", &format!("Bearer {key}"))], body.as_bytes()).unwrap()
}

/// A command of `hoistway` for the installation in `dir`, with the engine that its tests use.
fn hoistway(dir: &Path, command: &str, file: &Path, key_file: &Path) -> Command {
    let mut hoistway = Command::new(HOISTWAY);
    with_arguments(&mut hoistway, command, file, key_file);
    hoistway.arg("--data-dir").arg(dir.join("data"));
    if let Some(url) = hoistway_testing::database_url(dir) {
        hoistway.env("HOISTWAY_DATABASE_URL", url);
    }
    hoistway
}

/// The same import with the key in a pipe, as of a program that keeps secrets.
fn import_with_piped_key(dir: &Path, file: &Path, key_file: &Path) -> Command {
    let import = hoistway(dir, "import", file, Path::new("/dev/fd/3"));
    let mut shell = Command::new("sh");
    shell.args(["-c", "cat \"$KEY\" | { \"$0\" \"$@\" 3<&0; }"]).arg(HOISTWAY).args(import.get_args());
    shell.env("KEY", key_file);
    shell.envs(import.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell
}

fn with_arguments(to: &mut Command, command: &str, file: &Path, key_file: &Path) {
    to.arg(command).arg(file).arg("--key-file").arg(key_file);
}

fn said(out: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr))
}

#[track_caller]
fn succeeds(command: &mut Command) -> String {
    let out = command.output().unwrap();
    assert!(out.status.success(), "{}", said(&out));
    said(&out)
}

#[track_caller]
fn fails(command: &mut Command, why: &str) {
    let out = command.output().unwrap();
    assert!(!out.status.success() && said(&out).contains(why), "{}", said(&out));
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

fn paths<const N: usize>(dir: &Path, names: [&str; N]) -> [PathBuf; N] {
    names.map(|name| dir.join(name))
}

#[test]
fn an_installation_goes_on_elsewhere_with_its_keys_and_credentials() {
    let dir = tempdir().unwrap();
    let [from, to, file, key_file, other_key] = paths(dir.path(), ["from", "to", "export", "key", "other-key"]);
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&to).unwrap();
    let stack = Stack::start_open(&from);
    let source = fill(|method, path, body| call_stack(&stack)(&stack.key, method, path, body), &stack.key);
    stack.stop();

    succeeds(&mut hoistway(&from, "export", &file, &key_file));
    fails(&mut hoistway(&from, "export", &file, &key_file), "it exists already");
    assert_eq!(fs::metadata(&key_file).unwrap().permissions().mode() & 0o777, 0o600);
    let bytes = fs::read(&file).unwrap();
    let master_key = fs::read_to_string(from.join("data/master.key")).unwrap();
    let service_token = fs::read_to_string(from.join("data/service-token")).unwrap();
    for secret in [master_key.trim(), service_token.trim(), &source.installation_key, KEY, "kept-secret-7d1c"] {
        assert!(!contains(&bytes, secret), "{secret}");
    }

    let import = |key_file: &Path| hoistway(&to, "import", &file, key_file);
    fails(&mut import(&other_key), "--key-file: there is no key at");
    fails(&mut import(&file), "--key-file: ");
    succeeds(&mut hoistway(&from, "export", &dir.path().join("another"), &other_key));
    fails(&mut import(&other_key), "is not the key that this export was made with");
    // Before the rest of the export is read, so that nobody waits for it.
    let cut = dir.path().join("cut");
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    fails(&mut hoistway(&to, "import", &cut, &other_key), "is not the key that this export was made with");
    let text = succeeds(&mut import_with_piped_key(&to, &file, &key_file));
    assert!(text.contains("2 agents, 2 tools") && text.contains("the key \"imported\""), "{text}");
    fails(&mut import(&key_file), "the target is not empty: there are");
    assert!(!to.join("data/build/registry/import").exists());

    // As a killed import leaves it.
    let left = to.join("data/build/registry/import");
    fs::create_dir(&left).unwrap();
    fs::write(left.join("export.json"), "").unwrap();
    let stack = Stack::start_open(&to);
    assert!(!left.exists());
    assert_ne!(stack.key, source.installation_key);
    stack.wait_for_phase("caller", "Running");
    check(call_stack(&stack), &source, &stack.key);
    fails(&mut import(&key_file), "stop it first");
}

/// Changes a file of an export and the list of its contents, as everybody can who has no key.
fn forge(export: &Path, to: &Path) {
    let script = r#"
import hashlib, io, json, sys, tarfile
with tarfile.open(sys.argv[1]) as source, tarfile.open(sys.argv[2], "w", format=tarfile.GNU_FORMAT) as target:
    files = {member.name: source.extractfile(member).read() for member in source}
    files["api-key.encrypted"] += b"x"
    listed = json.loads(files["contents.json"])
    entry = listed["entries"]["api-key.encrypted"]
    entry["size"] += 1
    entry["digest"] = "sha256:" + hashlib.sha256(files["api-key.encrypted"]).hexdigest()
    files["contents.json"] = json.dumps(listed).encode()
    for name, content in files.items():
        member = tarfile.TarInfo(name)
        member.size = len(content)
        target.addfile(member, io.BytesIO(content))
"#;
    assert!(Command::new("python3").args(["-c", script]).args([export, to]).status().unwrap().success());
}

#[test]
fn what_cannot_be_imported_is_refused_and_says_why() {
    let dir = tempdir().unwrap();
    let [from, to, file, key_file] = paths(dir.path(), ["from", "to", "export", "key"]);
    fs::create_dir_all(&from).unwrap();
    fails(&mut hoistway(&from, "export", &file, &key_file), "holds no installation");
    Stack::start(&from).stop();
    succeeds(&mut hoistway(&from, "export", &file, &key_file));
    let import = |file: &Path| hoistway(&to, "import", file, &key_file);

    let [cut, backup, newer] = paths(dir.path(), ["cut", "backup", "newer"]);
    let bytes = fs::read(&file).unwrap();
    fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    fails(&mut import(&cut), "the export is damaged");
    let forged = dir.path().join("forged");
    forge(&file, &forged);
    fails(&mut import(&forged), "the export was changed since");
    if !hoistway_testing::uses_postgres() {
        let mut command = Command::new(HOISTWAY);
        succeeds(command.arg("backup").arg(&backup).arg("--data-dir").arg(from.join("data")));
        fails(&mut import(&backup), "this is not an export of Hoistway");
        fails(
            Command::new(HOISTWAY).arg("restore").arg(&file).arg("--data-dir").arg(dir.path().join("no")),
            "this is not a backup of Hoistway",
        );

        let script = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\n\
                      db.execute(\"insert into seaql_migrations values ('m2999_01_01_newer', 0)\")\ndb.commit()\n";
        let database = from.join("data/agent/agent.db");
        assert!(Command::new("python3").args(["-c", script]).arg(database).status().unwrap().success());
        succeeds(&mut hoistway(&from, "export", &newer, &key_file));
        fails(&mut import(&newer), "the export was made by a newer Hoistway, ");
    }
    succeeds(&mut import(&file));
}

const SERVICES: [&str; 5] = ["gateway", "agent", "build", "tool-registry", "egress"];

/// The settings of a separate program with a directory, a master key and a schema of its own.
fn settings(dir: &Path, url: &str, service: &str) -> Environment {
    let at = |name: &str| dir.join(name).display().to_string();
    let mut settings = vec![
        ("DATA_DIR", at(&format!("volumes/{service}"))),
        ("DATABASE__URL", url.to_owned()),
        ("SERVICE_TOKEN_FILE", at("data/service-token")),
    ];
    settings.extend(match service {
        "gateway" | "build" => vec![("API_KEY_FILE", at("data/api-key"))],
        "tool-registry" => vec![("EGRESS_TOKEN_FILE", at("data/egress-token"))],
        "agent" => vec![("EGRESS_KEY_FILE", at("data/egress-key")), ("EGRESS_CA_FILE", at("data/ca.pem"))],
        _ => vec![
            ("KEY_FILE", at("data/egress-key")),
            ("CA_FILE", at("data/ca.pem")),
            ("EGRESS_TOKEN_FILE", at("data/egress-token")),
        ],
    });
    settings
}

/// Gives a command the settings of all separate programs.
fn for_programs(command: &mut Command, dir: &Path, url: &str) {
    for service in SERVICES {
        command.envs(settings(dir, url, service).into_iter().map(|(key, value)| (variable(service, key), value)));
    }
}

#[test]
fn separate_programs_with_postgres_go_on_after_imports_that_were_killed() {
    if !prerequisites::strace() {
        return;
    }
    let dir = tempdir().unwrap();
    let [from, to, file, key_file] = paths(dir.path(), ["from", "to", "export", "key"]);
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&to).unwrap();
    let Some(url) = hoistway_testing::postgres(&to) else { return };
    let stack = Stack::start_open(&from);
    let source = fill(|method, path, body| call_stack(&stack)(&stack.key, method, path, body), &stack.key);
    stack.stop();
    succeeds(&mut hoistway(&from, "export", &file, &key_file));

    // Each kill comes later, in what is sent to the database or written to a directory.
    let import = |kill_at: Option<(&str, usize)>| {
        let mut command = Command::new(if kill_at.is_some() { "strace" } else { HOISTWAY });
        if let Some((call, nth)) = kill_at {
            command.args(["-f", "-qq", "-o", "/dev/null", "-e", &format!("trace={call}")]);
            command.args(["-e", &format!("inject={call}:signal=KILL:when={nth}"), HOISTWAY]);
        }
        with_arguments(&mut command, "import", &file, &key_file);
        command.arg("--separate-programs");
        for_programs(&mut command, &to, &url);
        command
    };
    let note = |service: &str| to.join("volumes").join(service).join(service).join("import-unfinished");
    let (mut kills, mut refused) = (0, 0);
    for (call, step) in [("sendto", 120), ("unlink", 7), ("unlinkat", 20), ("rename", 7)] {
        for nth in (1..).step_by(step) {
            let killed = import(Some((call, nth))).output().unwrap();
            if killed.status.success() {
                break;
            }
            assert_eq!(killed.status.signal(), Some(9), "{}", said(&killed));
            kills += 1;
            for service in SERVICES.into_iter().filter(|service| note(service).exists()) {
                let mut program = Command::new(Path::new(HOISTWAY).with_file_name(format!("hoistway-{service}")));
                for_programs(&mut program, &to, &url);
                fails(&mut program, "run the same `hoistway import` again");
                refused += 1;
            }
            assert!(nth < 60 * step, "it does not come to its end");
        }
        fails(&mut import(None), "the target is not empty");
        // As if it had been killed before its very end.
        fs::write(note("gateway"), "").unwrap();
    }
    assert!(kills >= 7 && refused >= 7, "{kills} kills, {refused} starts refused");
    succeeds(&mut import(None));

    let processes = Processes::start_with(&to, &|service| settings(&to, &url, service));
    processes.invoke("caller", "x");
    check(|key, method, path, body| send(&processes.api, key, method, path, body), &source, &processes.key);
}

#[test]
fn tables_in_postgres_become_files() {
    let dir = tempdir().unwrap();
    let [from, to, file, key_file] = paths(dir.path(), ["from", "to", "export", "key"]);
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&to).unwrap();
    let Some(url) = hoistway_testing::postgres(&from) else { return };
    let stack = Stack::start_with(&from, |command| {
        command.args(OPEN).args(["--database-url", &url]);
    });
    let source = fill(|method, path, body| call_stack(&stack)(&stack.key, method, path, body), &stack.key);
    let export = || {
        let mut command = hoistway(&from, "export", &file, &key_file);
        command.args(["--database-url", &url]);
        command
    };
    fails(&mut export(), "stop it first, since its tables are in PostgreSQL");
    stack.stop();
    succeeds(&mut export());
    succeeds(&mut hoistway(&to, "import", &file, &key_file));
    let stack = Stack::start_open(&to);
    stack.wait_for_phase("caller", "Running");
    check(call_stack(&stack), &source, &stack.key);
}

#[test]
fn deploys_in_progress_are_ended_by_the_target() {
    // Tables in PostgreSQL are exported of a stopped installation.
    if hoistway_testing::uses_postgres() {
        return;
    }
    let dir = tempdir().unwrap();
    let [from, to, key_file] = paths(dir.path(), ["from", "to", "key"]);
    fs::create_dir_all(&from).unwrap();
    fs::create_dir_all(&to).unwrap();
    let stack = Stack::start(&from);
    stack.deployed(json!({"agent_name": "first", "source_files": says("one")}));
    let exports: Vec<PathBuf> = (0..8).map(|n| dir.path().join(format!("export-{n}"))).collect();
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            for n in 0..20 {
                let agent = format!("busy-{}", n % 4);
                stack.deploy(json!({"agent_name": agent, "source_files": says(&n.to_string())}));
            }
        });
        for file in &exports {
            succeeds(&mut hoistway(&from, "export", file, &key_file));
        }
        busy.join().unwrap();
    });
    stack.stop();
    for file in &exports[2..5] {
        let target = to.join(file.file_name().unwrap());
        fs::create_dir_all(&target).unwrap();
        succeeds(&mut hoistway(&target, "import", file, &key_file));
        let stack = Stack::start(&target);
        stack.wait_for("/api/deployments?limit=100", "ended", |deployments| {
            deployments
                .as_array()
                .unwrap()
                .iter()
                .all(|deployment| deployment["status"] == "SUCCEEDED" || deployment["status"] == "FAILED")
        });
        stack.wait_for_phase("first", "Running");
        assert_eq!(stack.answer("first", "x"), "one");
    }
}
