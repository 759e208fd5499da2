//! Revisions, rollbacks, changes of the configuration, stops and starts through the public API.

use crate::test_installation::{Stack, log_of, says};
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

const SECRET: &str = "s3cr3t-of-a-revision-51c2";

/// Returns an agent that answers with its version and variables.
fn shows(version: u32) -> Value {
    let source = "import os, uuid\nINSTANCE = uuid.uuid4().hex\ndef handler(request, context):\n    names = ('KEY', 'SYSTEM_PROMPT', 'AGENT_DESCRIPTION', 'LLM_MODEL', 'LLM_PROVIDER', 'TOOL_NAMES', 'TOOL_URL_CRM')\n    return {'response': dict({n: os.environ.get(n) for n in names}, version=VERSION, instance=INSTANCE)}\n";
    json!({"agent.py": format!("VERSION = {version}\n{source}")})
}

fn numbers(revisions: &Value) -> Vec<u64> {
    revisions.as_array().unwrap().iter().map(|r| r["number"].as_u64().unwrap()).collect()
}

#[test]
fn a_rollback_brings_the_old_revision_back_with_its_environment_and_no_build() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let post = |path: &str, body: Value| stack.call("POST", path, Some(&body));
    let tool = json!([{"name": "crm", "base_url": "https://crm.example"}]);
    let one = json!({"agent_name": "back", "source_files": shows(1), "system_prompt": "one", "required_tools": ["crm"],
        "tools_to_create": tool, "env": [{"name": "KEY", "value": SECRET}]});
    let two = json!({"agent_name": "back", "source_files": shows(2), "system_prompt": "two",
        "env": [{"name": "KEY", "value": "other"}]});
    let first = stack.deployed(one.clone());
    let builds = |stack: &Stack| stack.get("/api/builds").as_array().unwrap().len();
    stack.deployed(two.clone());
    let built = builds(&stack);
    // No revision uses the tool any more.
    assert_eq!(stack.call("DELETE", "/api/tools/crm", None).status, 200);

    let back = post("/api/agents/back/rollback", json!({}));
    let seen = back.json();
    assert_eq!(back.status, 201, "{seen}\n{}", log_of(&stack.dir));
    assert_eq!(
        (&seen["revision"], &seen["rolled_back_to"], &seen["build_id"]),
        (&json!(3), &json!(1), &first["build_id"])
    );
    assert_eq!(seen["image_uri"], first["image_uri"]);
    assert_eq!(seen["warnings"].as_array().unwrap().len(), 1, "{seen}");
    let deployment = stack.get(&format!("/api/deployments/{}", back.header("hoistway-deployment").unwrap()));
    assert_eq!((&deployment["kind"], &deployment["revision"]), (&json!("rollback"), &json!(3)));
    let said = stack.answer("back", "x");
    assert_eq!((&said["version"], &said["KEY"], &said["SYSTEM_PROMPT"]), (&json!(1), &json!(SECRET), &json!("one")));
    assert_eq!(said["TOOL_URL_CRM"], Value::Null);
    assert_eq!(builds(&stack), built, "nothing is built for a rollback");

    // Once registered again, the tool is bound again.
    let registered = post("/api/tools", json!({"name": "crm", "base_url": "https://crm.example"}));
    assert_eq!(registered.status, 201, "{}", registered.text());
    let until = Instant::now() + Duration::from_secs(60);
    while stack.answer("back", "x")["TOOL_URL_CRM"].is_null() {
        assert!(Instant::now() < until, "the tool was never bound\n{}", log_of(&stack.dir));
        thread::sleep(Duration::from_millis(50));
    }

    for revision in [json!(3), json!("1")] {
        let nothing = post("/api/agents/back/rollback", json!({ "revision": revision }));
        assert_eq!((nothing.status, &nothing.json()["revision"]), (200, &json!(3)), "{}", nothing.text());
    }
    stack.deployed(one);
    assert_eq!(
        stack.get("/api/agents/back")["status"]["revisionNumber"],
        3,
        "the rolled back deploy again is no change"
    );
    let gone = post("/api/agents/back/rollback", json!({"revision": 99}));
    assert_eq!((gone.status, gone.json()["code"].as_str()), (404, Some("not_found")));
    assert_eq!(gone.json()["error"], "revision 99 of agent \"back\" is not kept; kept are 3, 2, 1");

    let listed = stack.call("GET", "/api/agents/back/revisions?limit=2", None);
    assert_eq!(numbers(&listed.json()), [3, 2]);
    let link = listed.header("link").unwrap();
    assert_eq!(link, "</api/agents/back/revisions?limit=2&before=2>; rel=\"next\"");
    assert_eq!(numbers(&stack.get("/api/v1/agents/back/revisions?limit=2&before=2")), [1]);
    let states = stack.get("/api/agents/back/revisions");
    let state = |i: usize| (states[i]["state"].clone(), states[i]["reason"].clone(), states[i]["current"].clone());
    assert_eq!(state(0), (json!("serving"), json!("rollback"), json!(true)));
    assert_eq!(state(1), (json!("superseded"), json!("deploy"), json!(false)));
    let whole = stack.get("/api/agents/back/revisions/previous");
    assert_eq!((&whole["number"], &whole["spec"]["env"]), (&json!(2), &json!([{"name": "KEY", "value": "********"}])));
    let diff = stack.get("/api/agents/back/revisions/2/diff");
    assert_eq!((&diff["from"]["number"], &diff["to"]["number"]), (&json!(1), &json!(2)));
    let change = |field: &str| diff["changes"].as_array().unwrap().iter().find(|c| c["field"] == field).cloned();
    let prompt = json!({"field": "system_prompt", "change": "changed", "from": "one", "to": "two"});
    assert_eq!(change("system_prompt"), Some(prompt));
    assert_eq!(change("env[KEY]").unwrap()["change"], "changed");
    assert_eq!(change("required_tools[crm]").unwrap()["change"], "removed");
    let same = stack.get("/api/agents/back/revisions/3/diff?against=1");
    assert_eq!(same["changes"], json!([]));
    for path in ["/api/agents/back/revisions/7", "/api/agents/back/revisions/newest", "/api/agents/none/revisions"] {
        assert_eq!(stack.call("GET", path, None).status, 404, "{path}");
    }

    let shown = [states.to_string(), diff.to_string(), whole.to_string(), seen.to_string()].concat();
    assert!(!shown.contains(SECRET));
    // A restart does not change this.
    stack.stop();
    let stack = Stack::start(dir.path());
    stack.wait_for_phase("back", "Running");
    assert_eq!(numbers(&stack.get("/api/agents/back/revisions")), [3, 2, 1]);
    let forward = stack.call("POST", "/api/v1/agents/back/rollback", None);
    assert_eq!((forward.status, &forward.json()["rolled_back_to"]), (201, &json!(2)), "{}", forward.text());
    assert_eq!(stack.answer("back", "x")["version"], 2);
}

#[test]
fn a_rollback_that_does_not_start_keeps_the_serving_revision() {
    let dir = tempfile::tempdir().unwrap();
    // The directory that agents share with the test: they can read nothing else on the machine.
    let shared = tempfile::tempdir().unwrap();
    std::fs::set_permissions(shared.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let stack = Stack::start_with(dir.path(), |up| {
        up.env("HOISTWAY_AGENT_READABLE", format!("[{:?}]", shared.path()));
    });
    let marker = shared.path().join("broken");
    let source = |v: u32| {
        let test = format!("import os\nif {v} == 1 and os.path.exists({marker:?}):\n    raise SystemExit('no more')\n");
        json!({"agent.py": format!("{test}def handler(r, c):\n    return {{'response': {v}}}\n")})
    };
    stack.deployed(json!({"agent_name": "stays", "source_files": source(1)}));
    stack.deployed(json!({"agent_name": "stays", "source_files": source(2)}));
    std::fs::write(&marker, "").unwrap();
    let failed = stack.call("POST", "/api/agents/stays/rollback", None);
    let seen = failed.json();
    assert_eq!((failed.status, seen["code"].as_str()), (500, Some("agent_start_failed")), "{seen}");
    assert!(seen["error"].as_str().unwrap().starts_with("rollback failed: "), "{seen}");
    assert_eq!(stack.answer("stays", "x"), 2);
    assert_eq!(numbers(&stack.get("/api/agents/stays/revisions")), [2, 1]);
    std::fs::remove_file(&marker).unwrap();
    let back = stack.call("POST", "/api/agents/stays/rollback", None);
    assert_eq!((back.status, &back.json()["revision"]), (201, &json!(4)), "{}", back.text());
}

#[test]
fn the_configuration_is_changed_in_part_and_without_a_build() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let put = |body: Value| stack.call("PUT", "/api/v1/agents/conf/config", Some(&body));
    stack.deployed(json!({"agent_name": "conf", "source_files": shows(1), "system_prompt": "old",
        "description": "Counts", "env": [{"name": "KEY", "value": SECRET}], "llm_configs": [{"provider": "openai", "model": "small"}]}));
    let provider = json!({"name": "house", "provider": "ollama", "endpoint": "http://127.0.0.1:9", "models": ["m"]});
    assert_eq!(stack.call("POST", "/api/model-providers", Some(&provider)).status, 201);
    let config = stack.get("/api/agents/conf/config");
    let image = config["image"].clone();
    let want = json!({"agent_name": "conf", "namespace": "agent-system", "image": image, "runtime": "python",
        "system_prompt": "old", "identity_provider": "",
        "llm_configs": [{"role": "chat", "provider": "openai", "model": "small"}],
        "description": "Counts", "model_usage": [], "required_tools": [], "policies": []});
    assert_eq!(config, want);
    assert_eq!(stack.answer("conf", "x")["AGENT_DESCRIPTION"], "Counts");

    let changed = put(json!({"system_prompt": "new", "required_tools": ["crm"], "description": "Adds",
        "llm_configs": [{"role": "chat", "model_provider": "house", "model": "m"}]}));
    let seen = changed.json();
    assert_eq!(changed.status, 200, "{seen}\n{}", log_of(&stack.dir));
    assert_eq!(
        (&seen["system_prompt"], &seen["required_tools"], &seen["image"]),
        (&json!("new"), &json!(["crm"]), &image)
    );
    let models = json!([{"role": "chat", "model_provider": "house", "provider": "ollama", "model": "m"}]);
    assert_eq!(seen["llm_configs"], models);
    assert_eq!(seen["warnings"].as_array().unwrap().len(), 1, "{seen}");
    let said = stack.answer("conf", "x");
    for (name, value) in [
        ("KEY", SECRET),
        ("SYSTEM_PROMPT", "new"),
        ("AGENT_DESCRIPTION", "Adds"),
        ("LLM_MODEL", "m"),
        ("LLM_PROVIDER", "house"),
    ] {
        assert_eq!(said[name], value);
    }
    assert_eq!(stack.get("/api/agents/conf")["spec"]["description"], "Adds");
    let changes = &stack.get("/api/agents/conf/revisions/1/diff?against=2")["changes"];
    let described = changes.as_array().unwrap().iter().find(|change| change["field"] == "description");
    assert_eq!(
        described.unwrap(),
        &json!({"field": "description", "change": "changed", "from": "Adds", "to": "Counts"}),
        "{changes}"
    );
    let current = stack.get("/api/agents/conf/revisions/current");
    assert_eq!((&current["number"], &current["reason"], &current["of"]), (&json!(2), &json!("config"), &json!(1)));

    // Sending back the answer of GET is no change, and read-only fields are reported.
    let mut same = stack.get("/api/agents/conf/config");
    let again = stack.call("PATCH", "/api/agents/conf/config", Some(&same));
    assert_eq!((again.status, again.json()["warnings"].as_array().map(Vec::len)), (200, Some(1)), "{}", again.text());
    same["image"] = json!("other:1");
    let warned = put(same).json()["warnings"].to_string();
    assert!(warned.contains("image cannot be changed here and is ignored"), "{warned}");
    assert_eq!(numbers(&stack.get("/api/agents/conf/revisions")), [2, 1]);

    for (body, says) in [
        (
            json!({}),
            "nothing to change: give one of system_prompt, identity_provider, llm_configs, description, required_tools",
        ),
        (json!({"system_prompt": 5}), "system_prompt: must be a string, not a number"),
        (json!({"policies": ["p"], "system_prompt": "x"}), "policies is not supported"),
        (json!({"identity_provider": "nobody"}), "identity_provider: \"nobody\" is not a registered identity provider"),
        (
            json!({"llm_configs": [{"provider": "openai", "model": "m", "monthly_budget_usd": 5}]}),
            "llm_configs[0].monthly_budget_usd is not supported",
        ),
        (
            json!({"llm_configs": [{"model_provider": "skynet", "model": "m"}]}),
            "llm_configs[0].model_provider: \"skynet\" is not a registered model provider",
        ),
        (
            json!({"llm_configs": [{"model_provider": "house", "provider": "openai", "model": "m"}]}),
            "llm_configs[0].provider: \"openai\" contradicts the model provider \"house\"",
        ),
    ] {
        let refused = put(body);
        assert_eq!((refused.status, refused.json()["error"].as_str()), (400, Some(says)));
    }
    assert_eq!(stack.call("PUT", "/api/agents/none/config", Some(&json!({"system_prompt": "x"}))).status, 404);
    assert_eq!(put(json!({"system_prompt": "", "llm_configs": []})).status, 200);
    let said = stack.answer("conf", "x");
    assert!(said["LLM_MODEL"].is_null() && said["KEY"] == SECRET, "{said}");
    // Deploying again replaces the whole specification.
    stack.deployed(json!({"agent_name": "conf", "source_files": shows(1), "system_prompt": "old",
        "env": [{"name": "KEY", "value": SECRET}], "llm_configs": [{"provider": "openai", "model": "small"}]}));
    assert_eq!(stack.answer("conf", "x")["SYSTEM_PROMPT"], "old");
    let back = stack.call("POST", "/api/agents/conf/rollback", Some(&json!({"revision": 2})));
    assert_eq!(back.status, 201, "{}", back.text());
    assert_eq!(stack.answer("conf", "x")["LLM_MODEL"], "m");
}

#[test]
fn an_agent_is_stopped_started_and_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    stack.deployed(json!({"agent_name": "life", "source_files": shows(1)}));
    let instance = |stack: &Stack| stack.answer("life", "x")["instance"].as_str().unwrap().to_owned();
    let before = instance(&stack);
    let restarted = stack.call("POST", "/api/agents/life/restart", None);
    assert_eq!(
        (restarted.status, &restarted.json()["status"]["phase"]),
        (200, &json!("Running")),
        "{}",
        restarted.text()
    );
    let after = instance(&stack);
    assert_ne!(after, before);
    assert_eq!(numbers(&stack.get("/api/agents/life/revisions")), [1]);

    for _ in 0..2 {
        let stopped = stack.call("POST", "/api/agents/life/stop", None);
        assert_eq!((stopped.status, &stopped.json()["status"]["phase"]), (200, &json!("Stopped")));
    }
    let refused = stack.invoke("life", "x");
    assert_eq!(refused.status, 503);
    assert!(refused.text().contains("POST /api/agents/life/start"), "{}", refused.text());
    let config = stack.call("PUT", "/api/agents/life/config", Some(&json!({"system_prompt": "x"})));
    assert_eq!((config.status, config.json()["code"].as_str()), (409, Some("conflict")));
    stack.kill();
    let stack = Stack::start(dir.path());
    assert_eq!(stack.get("/api/agents/life")["status"]["phase"], "Stopped");
    let started = stack.call("POST", "/api/agents/life/start", None);
    assert_eq!((started.status, &started.json()["status"]["phase"]), (200, &json!("Running")));
    let again = instance(&stack);
    assert_eq!(stack.call("POST", "/api/agents/life/start", None).status, 200);
    assert_eq!(instance(&stack), again, "one that runs is left as it is");

    // A deploy starts a stopped agent, even if nothing changed.
    assert_eq!(stack.call("POST", "/api/agents/life/stop", None).status, 200);
    stack.deployed(json!({"agent_name": "life", "source_files": shows(1)}));
    assert_eq!(stack.answer("life", "x")["version"], 1);
    for verb in ["stop", "start", "restart", "rollback"] {
        assert_eq!(stack.call("POST", &format!("/api/agents/none/{verb}"), None).status, 404, "{verb}");
    }
}

#[test]
fn a_deletion_waits_for_a_deploy_before_it_that_does_not_take_long() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let slow = json!({"agent.py": "import time\ntime.sleep(1)\ndef handler(r, c):\n    return {'response': 1}\n"});
    let deployed =
        stack.call("POST", "/api/deploy?wait=none", Some(&json!({"agent_name": "short", "source_files": slow})));
    assert_eq!(deployed.status, 202);
    let deleted = stack.call("DELETE", "/api/agents/short", None);
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    let deployment = stack.get(deployed.header("location").unwrap());
    assert_eq!(deployment["status"], "SUCCEEDED", "{deployment}");
    assert_eq!(stack.call("GET", "/api/agents/short", None).status, 404);
    assert_eq!(stack.call("DELETE", "/api/agents/short", None).status, 404);
    // A deploy after a deletion begins anew.
    stack.deployed(json!({"agent_name": "short", "source_files": says("again")}));
    assert_eq!(numbers(&stack.get("/api/agents/short/revisions")), [1]);
}

#[test]
fn the_configured_numbers_of_agents_and_revisions_are_limits() {
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start_with(dir.path(), |command| {
        command.env("HOISTWAY_AGENT_MAX_AGENTS", "1").env("HOISTWAY_AGENT_REVISIONS", "1");
    });
    for text in ["one", "two", "three"] {
        stack.deployed(json!({"agent_name": "only", "source_files": says(text)}));
    }
    assert_eq!(numbers(&stack.get("/api/agents/only/revisions")), [3, 2]);
    let pruned = stack.call("POST", "/api/agents/only/rollback", Some(&json!({"revision": 1})));
    assert_eq!(
        (pruned.status, pruned.json()["error"].as_str()),
        (404, Some("revision 1 of agent \"only\" is not kept; kept are 3, 2"))
    );
    let tool = json!([{"name": "litter", "base_url": "https://a.example"}]);
    let more = stack.deploy(json!({"agent_name": "more", "source_files": says("x"), "tools_to_create": tool}));
    let seen = more.json();
    assert_eq!((more.status, seen["code"].as_str()), (429, Some("resource_exhausted")), "{seen}");
    assert!(seen["error"].as_str().unwrap().contains("HOISTWAY_AGENT_MAX_AGENTS"), "{seen}");
    assert_eq!(stack.get("/api/tools"), json!([]), "nothing was changed");
    assert_eq!(stack.get("/api/deployments").as_array().unwrap().len(), 3);
}

/// The amount of work while invokes and streams run.
struct Load {
    redeploys: u32,
    /// One in this many redeploys is followed by a rollback.
    rollback_every: u32,
    /// The duration of a stream.
    stream: Duration,
    streams: u32,
}

/// Redeploys and rolls back while agents answer: no invoke may be lost, and no stream cut within the 30 seconds that a
/// replaced revision has.
fn under_load(load: &Load) {
    const DRAIN: Duration = Duration::from_secs(30);
    let dir = tempfile::tempdir().unwrap();
    let stack = Stack::start(dir.path());
    let ticks = load.stream.as_millis() / 100;
    let source = |v: u32| {
        json!({"agent.py": format!(
            "import time\ndef handler(r, c):\n    if r['message'] == 'stream':\n        return ticks()\n    time.sleep(0.01)\n    return {{'response': {v}}}\ndef ticks():\n    for i in range({ticks}):\n        time.sleep(0.1)\n        yield 'tick'\n"
        )})
    };
    stack.deployed(json!({"agent_name": "busy", "source_files": source(0)}));
    let (stop, streamed, cut) = (AtomicBool::new(false), AtomicU32::new(0), AtomicU32::new(0));
    let answered = thread::scope(|scope| {
        let invokes = || {
            let mut answered = 0;
            while !stop.load(Ordering::SeqCst) {
                assert!(stack.answer("busy", "x").is_u64());
                answered += 1;
            }
            answered
        };
        let stream = || {
            let begun = Instant::now();
            let body = json!({"message": "stream"});
            match stack.try_call("POST", "/api/agents/busy/invoke/stream", Some(&body)) {
                Ok(answer) => {
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    if answer.text().ends_with("data: [DONE]\n\n") {
                        streamed.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                }
                Err(e) => eprintln!("a stream ended after {:?}: {e}", begun.elapsed()),
            }
            assert!(begun.elapsed() >= DRAIN, "a stream was cut after {:?}", begun.elapsed());
            cut.fetch_add(1, Ordering::SeqCst);
        };
        let threads: Vec<_> = (0..3).map(|_| scope.spawn(invokes)).collect();
        let mut streaming = Vec::new();
        for v in 1..=load.redeploys {
            // Streams begin on revisions throughout the run.
            if v % load.redeploys.div_ceil(load.streams) == 1 {
                streaming.push(scope.spawn(stream));
            }
            stack.deployed(json!({"agent_name": "busy", "source_files": source(v)}));
            if v % load.rollback_every == 0 {
                let back = stack.call("POST", "/api/agents/busy/rollback", None);
                assert_eq!(back.status, 201, "{}\n{}", back.text(), log_of(&stack.dir));
                assert_eq!(stack.answer("busy", "x"), v - 1);
            }
        }
        stop.store(true, Ordering::SeqCst);
        let answered = threads.into_iter().map(|t| t.join().unwrap()).sum::<u32>();
        streaming.into_iter().for_each(|t| t.join().unwrap());
        answered
    });
    let (streamed, cut) = (streamed.into_inner(), cut.into_inner());
    println!("{answered} invokes, {streamed} whole streams, {cut} cut after their 30 s");
    assert!(answered > load.redeploys && streamed + cut == load.streams);
    assert!(load.stream > DRAIN || cut == 0, "{cut} streams were cut that end by themselves in time");
}

#[test]
fn redeploys_and_rollbacks_under_load_lose_no_request_and_cut_no_stream() {
    under_load(&Load { redeploys: 6, rollback_every: 2, stream: Duration::from_secs(3), streams: 3 });
}

#[test]
#[ignore = "takes minutes: cargo test --workspace --test it -- --ignored a_hundred_redeploys --nocapture"]
fn a_hundred_redeploys_with_twenty_rollbacks_and_streams_of_two_minutes() {
    under_load(&Load { redeploys: 100, rollback_every: 5, stream: Duration::from_secs(120), streams: 20 });
}
