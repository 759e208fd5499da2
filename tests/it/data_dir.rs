//! The data directory over time: of an older version of Hoistway, of a newer one, backed up and restored.

use crate::{
    prerequisites,
    test_installation::{HOISTWAY, Stack, says},
};
use serde_json::json;
use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tempfile::tempdir;

/// A data directory of the first schema: two agents, one of them redeployed, and a failed deploy.
const FIRST_SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/data/first-schema.tar.gz");

fn unpack(archive: &str, to: &Path) {
    fs::create_dir_all(to).unwrap();
    assert!(Command::new("tar").args(["-xzf", archive, "-C"]).arg(to).status().unwrap().success());
    // Another test may use the ports that were free on the original machine.
    let _ = fs::remove_file(to.join("ports.json"));
}

fn hoistway(args: &[&str]) -> Output {
    Command::new(HOISTWAY).args(args).output().unwrap()
}

#[test]
fn a_data_directory_of_the_first_schema_is_migrated() {
    // It is about files of SQLite.
    if hoistway_testing::uses_postgres() {
        return;
    }
    let dir = tempdir().unwrap();
    unpack(FIRST_SCHEMA, &dir.path().join("data"));
    let stack = Stack::start(dir.path());
    for agent in ["kept", "script"] {
        stack.wait_for_phase(agent, "Running");
    }
    let answer = stack.invoke("kept", "x").json();
    assert_eq!((&answer["response"], &answer["word"]), (&json!("two x"), &json!("first-secret-word")));
    assert_eq!(stack.answer("script", "abc"), "cba");
    assert_eq!(stack.get("/api/tools/crm")["status"]["phase"], "Ready", "its credential is still there");
    assert_eq!(stack.get("/api/model-providers/local-llm")["spec"]["provider"], "ollama");
    let statuses: Vec<_> =
        stack.get("/api/deployments").as_array().unwrap().iter().map(|d| d["status"].clone()).collect();
    assert_eq!(statuses, ["SUCCEEDED", "FAILED", "SUCCEEDED", "SUCCEEDED"]);

    let source = "import os\ndef handler(message):\n    return {\"response\": \"two \" + message, \"word\": os.environ[\"WORD\"]}\n";
    let body = json!({
        "agent_name": "kept",
        "source_files": {"agent.py": source},
        "env": [{"name": "WORD", "value": "first-secret-word"}],
        "required_tools": ["echo-tool", "not-there"],
        "system_prompt": "You are kept.",
        "llm_configs": [{"provider": "openai", "model": "gpt-4o-mini"}],
    });
    assert_eq!(stack.deployed(body)["build_id"], "build-29a6a3098629", "the same body again changes nothing");
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    unpack(FIRST_SCHEMA, &data);
    let database = data.join("agent/agent.db");
    let script = "import sqlite3, sys\ndb = sqlite3.connect(sys.argv[1])\n\
                  db.execute(\"insert into seaql_migrations values ('m2999_01_01_newer', 0)\")\ndb.commit()\n";
    assert!(Command::new("python3").args(["-c", script]).arg(&database).status().unwrap().success());
    let before = fs::read(&database).unwrap();

    let out = hoistway(&["up", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("newer Hoistway") && said.contains("m2999_01_01_newer"), "{said}");
    assert_eq!(fs::read(&database).unwrap(), before);
}

#[test]
fn without_a_home_a_directory_must_be_named() {
    let dir = tempdir().unwrap();
    let export = ["export", "x", "--key-file", "k"];
    for command in
        [&["up", "--listen", "127.0.0.1:0"][..], &["rotate-key"], &["backup", "x"], &["restore", "x"], &export]
    {
        // A home directory that is not an absolute path is ignored.
        let mut hoistway = Command::new(HOISTWAY);
        hoistway.args(command).env("HOME", "home").env_remove("XDG_DATA_HOME").current_dir(dir.path());
        let out = hoistway.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(64) && said.contains("--data-dir"), "{command:?}: {said}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn errors_of_the_machine_name_the_cause() {
    let dir = tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let out = hoistway(&["up", "--listen", "127.0.0.1:0", "--data-dir", file.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.code() == Some(64) && said.contains("is not a directory"), "{said}");

    let up = format!("ulimit -n 40; exec {HOISTWAY} up --listen 127.0.0.1:0 --data-dir {}/data", dir.path().display());
    let out = Command::new("sh").args(["-c", &up]).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(!out.status.success() && said.contains("40 files") && said.contains("ulimit"), "{said}");
}

/// A mount point that is unmounted when it is dropped.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn on_a_full_disk_agents_can_be_stopped_and_deleted_and_keys_revoked() {
    // It is about files of SQLite.
    if hoistway_testing::uses_postgres() {
        return;
    }
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    if !prerequisites::tmpfs(&data, "160m") {
        return;
    }
    let _mounted = Mounted(data.clone());
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_BUILD_REGISTRY__MIN_FREE_BYTES", "0");
    });
    for agent in ["one", "two"] {
        stack.deployed(json!({"agent_name": agent, "source_files": says(agent)}));
    }
    let new_key = || stack.call("POST", "/api/keys", Some(&json!({"name": "k", "scopes": ["read"]})));
    let key = new_key().json()["id"].as_str().unwrap().to_owned();
    let reserves = ["gateway/reserve", "agent/reserve"].map(|name| data.join(name));
    assert!(reserves.iter().all(|reserve| reserve.is_file()));

    let mut ballast = File::create(data.join("ballast")).unwrap();
    while ballast.write(&[7; 4096]).is_ok_and(|written| written > 0) {}
    // The remaining room in the databases' logs is used up first.
    let refused = (0..900).map(|_| new_key()).find(|answer| answer.status != 201).unwrap();
    assert_eq!((refused.status, &refused.json()["code"]), (507, &json!("insufficient_storage")));
    let backup = hoistway(&["backup", "/dev/null/x", "--data-dir", data.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&backup.stderr);
    assert!(said.contains("the disk is full") && !said.contains("internal error"), "{said}");

    for (method, path) in [
        ("POST", "/api/agents/one/stop".to_owned()),
        ("DELETE", "/api/agents/two".to_owned()),
        ("DELETE", format!("/api/keys/{key}")),
    ] {
        let answer = stack.call(method, &path, None);
        assert_eq!(answer.status, 200, "{method} {path}: {}", answer.text());
    }
    assert!(!reserves.iter().all(|reserve| reserve.is_file()), "a reserve was given up");

    drop(ballast);
    fs::remove_file(data.join("ballast")).unwrap();
    assert_eq!(stack.call("DELETE", "/api/agents/one", None).status, 200);
}

#[test]
fn a_backup_of_a_busy_installation_is_whole() {
    // It is about files of SQLite.
    if hoistway_testing::uses_postgres() {
        return;
    }
    let dir = tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let data = dir.path().join("data");
    let [file, again] = ["a.backup", "b.backup"].map(|name| dir.path().join(name).to_str().unwrap().to_owned());
    stack.deployed(json!({"agent_name": "first", "source_files": says("one"), "env": [{"name": "WORD", "value": "kept-secret-1"}]}));
    let backup = |file: &str| hoistway(&["backup", file, "--data-dir", data.to_str().unwrap()]);

    // Deploys run meanwhile: the restored installation finishes or undoes the ones that are incomplete in the copy.
    std::thread::scope(|scope| {
        let busy = scope.spawn(|| {
            for n in 0..20 {
                let agent = format!("busy-{}", n % 4);
                stack.deploy(json!({"agent_name": agent, "source_files": says(&n.to_string())}));
            }
        });
        let out = backup(&file);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        busy.join().unwrap();
    });
    assert!(!backup(&file).status.success(), "an existing file is not overwritten");
    assert!(backup(&again).status.success());
    let names = || fs::read_dir(&data).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>();
    assert!(!names().contains(&"backup".into()), "{:?}", names());
    drop(stack);

    for (number, file) in [&file, &again].into_iter().enumerate() {
        let home = dir.path().join(format!("restored-{number}"));
        let target = home.join("data");
        let restore = || hoistway(&["restore", file, "--data-dir", target.to_str().unwrap()]);
        let out = restore();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(!restore().status.success(), "a directory with something in it is not overwritten");
        let stack = Stack::start(&home);
        stack.wait_for_phase("first", "Running");
        assert_eq!(stack.answer("first", "x"), "one");
        let redeployed = stack.deployed(json!({"agent_name": "first", "source_files": says("two")}));
        assert!(redeployed["build_id"].is_string());
        assert_eq!(stack.answer("first", "x"), "two");
        if number == 1 {
            for n in 0..4 {
                let agent = format!("busy-{n}");
                stack.wait_for_phase(&agent, "Running");
                assert_eq!(stack.answer(&agent, "x"), (16 + n).to_string());
            }
        }
    }
}

#[test]
fn damaged_and_foreign_backups_are_refused_entirely() {
    let dir = tempdir().unwrap();
    let data = dir.path().join("data");
    unpack(FIRST_SCHEMA, &data);
    let file = dir.path().join("whole");
    let path = |p: &Path| p.to_str().unwrap().to_owned();
    assert!(hoistway(&["backup", &path(&file), "--data-dir", &path(&data)]).status.success());
    let bytes = fs::read(&file).unwrap();
    let mut bad = vec![
        ("foreign".to_owned(), b"hello".to_vec()),
        ("none".to_owned(), Vec::new()),
        ("half".to_owned(), bytes[..bytes.len() / 2].to_vec()),
    ];
    let entries = entries(&bytes);
    for needed in ["master.key", "agent/agent.db", "gateway/gateway.db", "contents.json"] {
        assert!(entries.iter().any(|(name, ..)| name == needed), "{needed}");
    }
    for (name, at, size) in entries {
        let name = name.replace('/', "-");
        bad.push((format!("cut before {name}"), bytes[..at].to_vec()));
        // Bytes in a header, and in the middle and at the end of the content after it.
        for place in [at + 130, at + 512 + size / 2, at + 512 + size - 1] {
            let mut flipped = bytes.clone();
            flipped[place] ^= 1;
            bad.push((format!("{place} in {name} flipped"), flipped));
        }
    }
    fs::create_dir(dir.path().join("old")).unwrap();
    let about = json!({"format": 1, "hoistway": "0.1.0", "created_at": "2026-01-01T00:00:00Z"});
    fs::write(dir.path().join("old/backup.json"), about.to_string()).unwrap();
    let tar = Command::new("tar").arg("-cC").arg(dir.path().join("old")).arg("backup.json").output().unwrap();
    bad.push(("format 1".to_owned(), tar.stdout));
    for (name, content) in bad {
        let (damaged, target) = (dir.path().join(&name), dir.path().join(format!("{name}-data")));
        fs::write(&damaged, content).unwrap();
        let out = hoistway(&["restore", &path(&damaged), "--data-dir", &path(&target)]);
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(!out.status.success() && !target.exists() && said.contains("backup"), "{name}: {said}");
        assert!(!said.contains("internal error"), "{name}: {said}");
    }
    let out = hoistway(&["restore", &path(&file), "--data-dir", &path(&dir.path().join("good"))]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("restore")), "{left:?}");
}

/// Returns the entries of a tar file: name, offset of the header, size.
fn entries(tar: &[u8]) -> Vec<(String, usize, usize)> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_matches(['\0', ' ']).to_owned();
    let (mut at, mut found) = (0, Vec::new());
    while tar[at] != 0 {
        let size = usize::from_str_radix(&text(&tar[at + 124..at + 136]), 8).unwrap();
        found.push((text(&tar[at..at + 100]), at, size));
        at += 512 + size.next_multiple_of(512);
    }
    found
}
