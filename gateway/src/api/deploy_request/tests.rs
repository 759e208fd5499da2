#![allow(clippy::unwrap_used)]
use super::parse::NOT_SUPPORTED;
use crate::{
    api::openapi,
    deploy::request::{DeployRequest, Source},
    image_host::PublicRegistry,
};
use hoistway_model::{
    Code, Digest, Name, Result,
    tool::{BoundTool, Resolved},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

fn parse(body: Value) -> Result<(DeployRequest, Vec<String>)> {
    super::parse(body.to_string().as_bytes(), &PublicRegistry::new("127.0.0.1:5005", None))
}

fn ok(body: Value) -> DeployRequest {
    let (request, warnings) = parse(body).unwrap();
    assert_eq!(warnings, [""; 0]);
    request
}

/// Returns an otherwise valid request with some members added.
fn with(more: Value) -> Value {
    let mut body = json!({"agent_name": "a", "image": "x"});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn built(more: Value) -> Value {
    let mut body = json!({"agent_name": "a", "source_files": {"agent.py": "x = 1\n"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn refused(body: Value) -> String {
    let error = parse(body).unwrap_err();
    assert_eq!(error.code, Code::InvalidArgument);
    error.message
}

#[test]
fn what_is_missing_is_told_in_order() {
    let wrong_everywhere = json!({"system_prompt": 5, "llm_configs": 5, "tools_to_create": [{"name": "t"}]});
    let mut body = wrong_everywhere;
    assert_eq!(refused(body.clone()), "agent_name is required");
    body["agent_name"] = json!("Not Valid");
    assert_eq!(refused(body.clone()), "either image or source_files is required");
    body["source_files"] = json!({});
    body["image"] = json!("  ");
    assert_eq!(refused(body.clone()), "either image or source_files is required");
    body["image"] = json!("x");
    assert_eq!(refused(body.clone()), "tool name and base_url are required");
    body["tools_to_create"][0]["base_url"] = json!("nonsense");
    assert!(refused(body.clone()).starts_with("agent_name: \"Not Valid\" is not a valid name"));
    body["agent_name"] = json!("a");
    assert!(refused(body.clone()).starts_with("tools_to_create[0].base_url: "));
}

#[test]
fn wrong_types_name_their_member() {
    for (body, want) in [
        (json!({"agent_name": 5, "image": "x"}), "agent_name: must be a string, not a number"),
        (json!({"agent_name": "a", "image": {}}), "image: must be a string, not an object"),
        (json!({"agent_name": "a", "source_files": []}), "source_files: must be an object, not a list"),
        (
            built(json!({"source_files": {"a.py": 1}})),
            "source_files[\"a.py\"]: must be a string, or {\"base64\": \"…\"} for a binary file, not a number",
        ),
        (with(json!({"tools_to_create": {}})), "tools_to_create: must be a list, not an object"),
        (with(json!({"tools_to_create": [{"name": 1}]})), "tools_to_create[0].name: must be a string, not a number"),
        (with(json!({"tools_to_create": ["x"]})), "tools_to_create[0]: must be an object, not a string"),
        (
            with(json!({"llm_configs": [{"provider": "openai", "model": 4}]})),
            "llm_configs[0].model: must be a string, not a number",
        ),
        (with(json!({"llm_config": "x"})), "llm_config: must be an object, not a string"),
        (with(json!({"env": {"A": "b"}})), "env: must be a list, not an object"),
        (with(json!({"env": [{"name": "A", "value": 1}]})), "env[0].value: must be a string, not a number"),
        (
            with(json!({"env": [{"name": "A", "value": "1", "secret": "yes"}]})),
            "env[0].secret: must be true or false, not a string",
        ),
        (with(json!({"required_tools": [1]})), "required_tools[0]: must be a string, not a number"),
        (with(json!({"system_prompt": ["x"]})), "system_prompt: must be a string, not a list"),
        (built(json!({"requirements": ["x"]})), "requirements: must be a string, not a list"),
    ] {
        assert_eq!(refused(body), want);
    }
}

#[test]
fn meanings_are_checked() {
    let url = "https://a.example";
    for (body, want) in [
        (with(json!({"image": "Not An Image"})), "image: \"Not An Image\" is not an image reference"),
        (with(json!({"identity_provider": "a b"})), "identity_provider: \"a b\" is not a valid name"),
        (with(json!({"required_tools": ["fine", "not_fine"]})), "required_tools[1]: \"not_fine\" is not a valid name"),
        (
            with(json!({"tools_to_create": [{"name": "t", "base_url": url}, {"name": "t", "base_url": url}]})),
            "tools_to_create[1].name: \"t\" is given twice",
        ),
        (
            with(json!({"tools_to_create": [{"name": "t", "base_url": url, "auth_type": "Magic"}]})),
            "tools_to_create[0].auth_type: \"Magic\" is not one of None, APIKey, OAuth2",
        ),
        (with(json!({"llm_configs": [{"provider": "openai"}]})), "llm_configs[0].model: is required"),
        (with(json!({"llm_configs": [{"model": "m"}]})), "llm_configs[0].provider: is required"),
        (
            with(json!({"llm_configs": [{"provider": "Sky Net", "model": "m"}]})),
            "llm_configs[0].provider: \"Sky Net\" is not one of openai, anthropic, bedrock, ollama or a registered model provider",
        ),
        (
            with(json!({"llm_configs": [{"provider": "openai", "model": "m", "role": "juggling"}]})),
            "llm_configs[0].role: \"juggling\" is not one of chat, embedding, classify, reranking",
        ),
        (
            with(
                json!({"llm_configs": [{"provider": "openai", "model": "a"}, {"provider": "openai", "model": "b", "role": "default"}]}),
            ),
            "llm_configs[1].role: llm_configs[0] has the role chat already",
        ),
        (
            with(
                json!({"llm_configs": [{"provider": "openai", "model": "a"}], "llm_config": {"provider": "openai", "model": "b"}}),
            ),
            "llm_config: contradicts llm_configs[0], which has another model for chat",
        ),
        (with(json!({"env": [{"value": "1"}]})), "env[0].name: is required"),
        (with(json!({"env": [{"name": "A"}]})), "env[0].value: is required"),
        (with(json!({"env": [{"name": "A=B", "value": "1"}]})), "env[0].name: \"A=B\" is not a variable's name"),
        (with(json!({"env": [{"name": "1A", "value": "1"}]})), "env[0].name: \"1A\" is not a variable's name"),
        (
            with(json!({"env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]})),
            "env[1].name: \"A\" is given twice",
        ),
        (
            with(json!({"env": [{"name": "A", "value": "s3cr3t\0"}]})),
            "env[0].value: contains a NUL character, which no variable can hold",
        ),
        (
            with(json!({"env": [{"name": "A", "value": "a".repeat(131_070)}]})),
            "env[0].value: A=… has 131073 bytes, 131072 is the most that a variable can have",
        ),
        (with(json!({"system_prompt": "a".repeat(131_059)})), "system_prompt: SYSTEM_PROMPT=… has 131074 bytes"),
        (with(json!({"policies": ["p"]})), "policies is not supported"),
        (with(json!({"tool_url_mappings": {"a": "b"}})), "tool_url_mappings is not supported"),
        (built(json!({"draft_id": "x"})), "draft_id is not supported"),
        (built(json!({"artifact_id": "x"})), "artifact_id is not supported"),
        (built(json!({"source_files": {"../evil.py": ""}})), "source_files[\"../evil.py\"]: the name contains '..'"),
        (
            built(json!({"entry_point": "nope.py"})),
            "entry_point: \"nope.py\" is not among the source_files; the .py files are: agent.py",
        ),
        (built(json!({"requirements": "-e ."})), "requirements: line 1: \"-e .\" is the source itself"),
        (built(json!({"requirements": "--pre"})), "requirements: line 1: \"--pre\" asks for pre-releases"),
    ] {
        let message = refused(body);
        assert!(message.starts_with(want), "{message}\n{want}");
    }
}

#[test]
fn reserved_variables_are_the_platforms() {
    for name in [
        "PORT",
        "AGENT_NAME",
        "USER_ENTRY_POINT",
        "SYSTEM_PROMPT",
        "LLM_MODEL",
        "LLM_GATEWAY_URL",
        "TOOL_URL_X",
        "TOOL_NAMES",
        "HOISTWAY_X",
        "LD_PRELOAD",
        "PYTHONPATH",
        "PYTHONHOME",
    ] {
        let message = refused(with(json!({"env": [{"name": name, "value": "x"}]})));
        assert_eq!(message, format!("env[0].name: \"{name}\" is reserved for the platform"));
    }
    for name in
        ["OPENAI_API_KEY", "OPENAI_BASE_URL", "ANTHROPIC_API_KEY", "PYTHONUNBUFFERED", "PORTS", "a.b-c", "HTTP_PROXY"]
    {
        ok(with(json!({"env": [{"name": name, "value": ""}]})));
    }
}

#[test]
fn names_in_errors_are_cut_short() {
    let long = "ü".repeat(1 << 16);
    for body in [
        json!({"agent_name": long, "image": "x"}),
        with(json!({"image": long})),
        with(json!({"required_tools": [long]})),
        with(json!({"tools_to_create": [{"name": "t", "base_url": long}]})),
        with(json!({"tools_to_create": [{"name": "t", "base_url": "http://a", "auth_type": long}]})),
        with(json!({"env": [{"name": long, "value": "x"}]})),
        with(json!({"llm_config": {"provider": long, "model": "m"}})),
        built(json!({"entry_point": long})),
        built(json!({"source_files": {long.as_str(): ""}})),
        built(json!({"requirements": long})),
    ] {
        assert!(refused(body).len() < 1_200);
    }
}

#[test]
fn the_whole_of_the_references_example_is_read() {
    let request = ok(json!({
        "agent_name": "payment-agent",
        "source_files": {"agent.py": "import requests\n"},
        "system_prompt": "You are a payment processing assistant.",
        "tools_to_create": [{"name": "stripe-api", "description": "Stripe payments API", "base_url": "https://api.stripe.com", "auth_type": "APIKey"}],
        "required_tools": ["stripe-api", "stripe-api"],
        "llm_configs": [{"role": "chat", "provider": "OpenAI", "model": "gpt-4o-mini"}],
        "llm_config": {"provider": "ollama", "model": "e", "role": "EMBEDDING"},
        "env": [{"name": "MY_SECRET", "value": "s3cr3t"}],
        "entry_point": "agent.py", "framework": "openai", "requirements": "openai>=1.0\nrequests",
        "policies": [], "draft_id": " ", "tool_url_mappings": {}, "artifact_id": null, "identity_provider": "",
    }));
    assert_eq!(request.required_tools.iter().map(Name::as_str).collect::<Vec<_>>(), ["stripe-api"]);
    let tool = &request.tools_to_create[0];
    assert_eq!((tool.connection.port, tool.connection.scheme.as_str()), (443, "HTTPS"));
    assert_eq!(request.config.llm.iter().map(|m| m.provider.as_str()).collect::<Vec<_>>(), ["openai", "ollama"]);
    let Source::Files(build) = &request.source else { panic!("{:?}", request.source) };
    assert_eq!(build.requirements.as_ref().unwrap().text(), "openai>=1.0\nrequests\n");
    assert!(request.wants_build() && !format!("{request:?}").contains("s3cr3t"));

    let back = DeployRequest::from_journal(&request.to_journal().unwrap()).unwrap();
    assert_eq!(back, request);
    assert_eq!(back.canonical(), request.canonical());
}

#[test]
fn repeated_tools_do_not_count_towards_the_limit() {
    let request = ok(with(json!({"required_tools": vec!["a"; 300]})));
    assert_eq!(request.required_tools.len(), 1);
}

#[test]
fn a_file_is_text_in_utf_8_or_bytes_in_base64() {
    let request = ok(built(json!({"source_files": {
        "agent.py": "# coding: latin-1\nx = 'é'\n",
        "notes.md": "# coding: latin-1\né",
        "model.bin": {"base64": "AP+A\nCg==\n"},
        "words.txt": {"base64": "w6k="},
    }})));
    let Source::Files(build) = &request.source else { panic!("{:?}", request.source) };
    assert_eq!(build.files.get("agent.py"), Some("# coding: utf-8\nx = 'é'\n".as_bytes()));
    assert_eq!(build.files.get("notes.md"), Some("# coding: latin-1\né".as_bytes()));
    assert_eq!(build.files.get("model.bin"), Some(&[0, 255, 128, 10][..]));
    assert_eq!(build.files.get("words.txt"), Some("é".as_bytes()));
    let back = DeployRequest::from_journal(&request.to_journal().unwrap()).unwrap();
    assert_eq!(back, request);
    assert_eq!(back.canonical(), request.canonical());
    for (value, fault) in [
        (json!({"base64": "%%%"}), "is not base64: "),
        (json!({"base64": "AP+ACg"}), "is not base64: "),
        (json!({"base64": 1}), "must be a string, or {\"base64\": \"…\"} for a binary file"),
        (json!({}), "must be a string, or {\"base64\": \"…\"} for a binary file"),
        (json!({"base64": "", "mode": "x"}), "has an unknown member \"mode\""),
        (json!(null), "must be a string, or {\"base64\": \"…\"} for a binary file, not null"),
    ] {
        let text = refused(built(json!({"source_files": {"agent.py": "", "model.bin": value}})));
        assert!(text.starts_with(&format!("source_files[\"model.bin\"]: {fault}")), "{text}");
    }
}

#[test]
fn an_image_wins_over_source_with_warnings() {
    let (request, warnings) = parse(json!({
        "agent_name": "a", "image": "localhost:5005/a:1", "source_files": {"agent.py": ""}, "entry_point": "x.py", "requirements": "-e .", "framework": "x",
    }))
    .unwrap();
    let Source::Image(image) = &request.source else { panic!("{:?}", request.source) };
    assert_eq!(image.to_string(), "registry.hoistway.internal/a:1");
    let ignored = ["source_files", "entry_point", "requirements", "framework"];
    assert_eq!(
        warnings,
        ignored.map(|key| format!("{key} is ignored, because an image is given and nothing is built"))
    );
}

#[test]
fn warnings_name_what_is_ignored_or_unbound() {
    let (_, warnings) = parse(built(json!({
        "requirments": "x", "tools_to_create": [{"name": "t", "base_url": "http://a", "descripton": "d"}], "env": [{"name": "A", "value": "v", "secrets": true}],
    })))
    .unwrap();
    assert_eq!(
        warnings,
        [
            "unknown field \"tools_to_create[0].descripton\" is ignored; did you mean \"tools_to_create[0].description\"?",
            "unknown field \"env[0].secrets\" is ignored; did you mean \"env[0].secret\"?",
            "unknown field \"requirments\" is ignored; did you mean \"requirements\"?",
            "the tool \"t\" is registered, but the agent cannot use it: required_tools does not name it",
        ]
    );
}

#[test]
fn a_framework_that_is_not_known_is_kept_with_a_warning() {
    for (given, kept, hint) in [
        ("Pydantic AI", "pydantic-ai", None),
        ("langchian", "langchian", Some("; did you mean \"langchain\"?")),
        ("rails\u{1b}", "rails\\u{1b}", Some("fastapi, starlette, flask, django, custom")),
    ] {
        let (request, warnings) = parse(built(json!({ "framework": given }))).unwrap();
        assert_eq!(request.config.framework.as_deref(), Some(kept));
        assert_eq!(DeployRequest::from_journal(&request.to_journal().unwrap()).unwrap(), request);
        let warned = hint.map(|hint| {
            (format!("framework: \"{kept}\" is not known and changes nothing; known are langchain, "), hint)
        });
        match warned {
            None => assert!(warnings.is_empty(), "{warnings:?}"),
            Some((start, end)) => {
                assert!(warnings[0].starts_with(&start) && warnings[0].ends_with(end), "{warnings:?}")
            }
        }
    }
    assert_eq!(refused(built(json!({"framework": 1}))), "framework: must be a string, not a number");
    for blank in ["", " "] {
        assert_eq!(ok(built(json!({ "framework": blank }))).config.framework, None);
    }
}

#[test]
fn a_source_of_a_newer_api_is_told_in_the_details() {
    let error = parse(json!({"agent_name": "a", "draft_id": "x"})).unwrap_err();
    assert_eq!(error.message, "either image or source_files is required");
    assert_eq!(error.details, ["draft_id is not supported"]);
}

#[test]
fn look_ups_are_judged() {
    let request = ok(with(json!({
        "required_tools": ["here", "here", "gone"], "identity_provider": "idp",
        "llm_configs": [{"provider": "openai", "model": "m"}, {"provider": "skynet", "model": "m", "role": "classify"}],
    })));
    assert_eq!(request.unknown_providers(), [("llm_configs[1].provider".to_owned(), "skynet".to_owned())]);
    let bound =
        |name: &str, url: Option<&str>| BoundTool { name: Name::parse("n", name).unwrap(), url: url.map(Into::into) };
    let mut resolved = Resolved {
        tools: vec![bound("here", Some("http://here")), bound("gone", None)],
        changed: false,
        providers: vec![],
        identity_provider_known: false,
    };
    let text = |resolved: &Resolved, strict| request.check_lookups(resolved, strict).map_err(|e| e.message);
    let unknown = "llm_configs[1].provider: \"skynet\" is not one of openai, anthropic, bedrock, ollama or a registered model provider";
    assert_eq!(text(&resolved, false), Err(unknown.to_owned()));
    resolved.providers.push("skynet".into());
    assert_eq!(
        text(&resolved, false),
        Err("identity_provider: \"idp\" is not a registered identity provider".to_owned())
    );
    resolved.identity_provider_known = true;
    assert_eq!(
        text(&resolved, false),
        Ok(vec![
            "no tool \"gone\" is registered: the agent cannot use it before it is; then it is bound by itself"
                .to_owned()
        ])
    );
    assert_eq!(text(&resolved, true), Err("required_tools[2]: no tool \"gone\" is registered".to_owned()));
}

#[test]
fn the_canonical_form_is_of_the_meaning() {
    let digest = |body| Digest::of(&ok(body).canonical());
    let base = with(
        json!({"llm_configs": [{"provider": "openai", "model": "m"}], "llm_config": {"provider": "ollama", "model": "e", "role": "embedding"}}),
    );
    let same = with(
        json!({"llm_configs": [{"provider": "Ollama", "model": "e", "role": "Embedding"}, {"provider": "OPENAI", "model": "m", "role": "default"}], "env": null, "system_prompt": ""}),
    );
    assert_eq!(digest(base.clone()), digest(same));
    assert_eq!(digest(built(json!({"requirements": "A>=1 # why"}))), digest(built(json!({"requirements": "a >= 1"}))));
    let framework = |text: &str| digest(built(json!({ "framework": text })));
    assert_eq!(framework("LangGraph"), framework(" langgraph"));
    assert_ne!(framework("langgraph"), framework("flask"));
    assert_ne!(framework("langgraph"), digest(built(json!({}))));
    let mut seen = vec![digest(base)];
    for other in [
        json!({"env": [{"name": "A", "value": "1"}]}),
        json!({"env": [{"name": "A", "value": "2"}]}),
        json!({"env": [{"name": "A", "value": "2", "secret": true}]}),
        json!({"env": [{"name": "A", "value": "2", "secret": false}]}),
        json!({"system_prompt": "x"}),
        json!({"required_tools": ["a", "b"]}),
        json!({"required_tools": ["b", "a"]}),
        json!({"image": "y"}),
        json!({"agent_name": "b"}),
        json!({"identity_provider": "i"}),
    ] {
        let other = digest(with(other));
        assert!(!seen.contains(&other));
        seen.push(other);
    }
    assert_ne!(digest(built(json!({}))), digest(built(json!({"requirements": "six"}))));
}

#[test]
fn a_refresh_is_another_request_for_the_same_revision() {
    let (fresh, ignored) = ok(built(json!({}))).refreshed(true);
    assert!(fresh.refresh && ignored.is_none());
    let plain = ok(built(json!({})));
    assert_ne!(fresh.canonical(), plain.canonical());
    assert_eq!(fresh.canonical_revision(), plain.canonical_revision());
    assert!(DeployRequest::from_journal(&fresh.to_journal().unwrap()).unwrap().refresh);
    let (image, ignored) = ok(with(json!({}))).refreshed(true);
    assert!(!image.refresh && ignored.unwrap().starts_with("refresh is ignored"));
}

#[test]
fn what_is_said_of_secrets_is_journalled_and_changes_no_other_requests_bytes() {
    let env = json!([{"name": "A", "value": "1", "secret": true}, {"name": "B", "value": "2"}, {"name": "C", "value": "3", "secret": false}]);
    let request = ok(with(json!({ "env": env })));
    let read = DeployRequest::from_journal(&request.to_journal().unwrap()).unwrap();
    assert_eq!(read.config.env.iter().map(|var| var.secret).collect::<Vec<_>>(), [Some(true), None, Some(false)]);
    assert_eq!(read, request);
    let plain = ok(with(json!({"env": [{"name": "A", "value": "1"}]}))).canonical();
    assert!(!String::from_utf8(plain).unwrap().contains("secret"));
}

#[test]
fn a_damaged_journal_entry_says_nothing_of_its_content() {
    let bytes = ok(with(json!({"env": [{"name": "A", "value": "s3cr3t"}]}))).to_journal().unwrap();
    for bad in [&bytes[..bytes.len() - 1], b"", b"{}", b"{\"version\": 2}"] {
        let error = DeployRequest::from_journal(bad).unwrap_err();
        assert_eq!(error.code, Code::Internal);
        assert!(!format!("{error:?} {}", error.chain()).contains("s3cr3t"));
    }
}

#[test]
fn stored_bytes_and_fingerprints_of_earlier_versions_stay_good() {
    let request = ok(json!({
        "agent_name": "a",
        "source_files": {"agent.py": "x = 1\n", "model.bin": {"base64": "AP+ACg=="}},
        "requirements": "six>=1",
        "system_prompt": "Be \"kind\".",
        "tools_to_create": [{"name": "t", "description": "d", "base_url": "https://t.example", "auth_type": "APIKey"}],
        "required_tools": ["t"],
        "llm_configs": [{"role": "embedding", "provider": "OpenAI", "model": "m"}],
        "llm_config": {"provider": "ollama", "model": "e", "role": "CLASSIFY"},
        "env": [{"name": "B", "value": "2"}, {"name": "A", "value": "1", "secret": true}, {"name": "C", "value": "3", "secret": false}],
        "identity_provider": "sso",
        "framework": "openai",
    }));
    let journalled = r#"{"version":1,"agent":"a","source":{"files":{"files":{"agent.py":"x = 1\n"},"entry_point":"agent.py","requirements":"six>=1\n","binary_files":{"model.bin":"AP+ACg=="}}},"system_prompt":"Be \"kind\".","required_tools":["t"],"tools_to_create":[{"name":"t","description":"d","base_url":"https://t.example","port":443,"scheme":"HTTPS","auth_type":"APIKey"}],"llm":[{"role":"embedding","provider":"openai","model":"m"},{"role":"classify","provider":"ollama","model":"e"}],"env":[["B","2"],["A","1"],["C","3"]],"identity_provider":"sso","notes":{"framework":"openai","tool_paths":["required_tools[0]"],"llm_paths":["llm_configs[0]","llm_config"]},"secret":{"A":true,"C":false}}"#;
    assert_eq!(DeployRequest::from_journal(journalled.as_bytes()).unwrap(), request);
    let canonical = r#"{"version":1,"agent":"a","source":{"files":{"files":{"agent.py":"x = 1\n"},"entry_point":"agent.py","requirements":"six>=1\n","binary_files":{"model.bin":"AP+ACg=="}}},"system_prompt":"Be \"kind\".","required_tools":["t"],"tools_to_create":[],"llm":[{"role":"classify","provider":"ollama","model":"e"},{"role":"embedding","provider":"openai","model":"m"}],"env":[["B","2"],["A","1"],["C","3"]],"identity_provider":"sso","secret":{"A":true,"C":false},"framework":"openai"}"#;
    assert_eq!(String::from_utf8(request.canonical_revision()).unwrap(), canonical);

    let mut described = request.clone();
    described.config.description = "d".into();
    let canonical = canonical.replace(r#""framework":"openai"}"#, r#""framework":"openai","description":"d"}"#);
    assert_eq!(String::from_utf8(described.canonical_revision()).unwrap(), canonical, "what is new comes last");

    let image = ok(with(json!({"system_prompt": "p"})));
    let journalled = r#"{"version":1,"agent":"a","source":{"image":"docker.io/library/x"},"system_prompt":"p","required_tools":[],"tools_to_create":[],"llm":[],"env":[],"identity_provider":null,"notes":{"framework":null,"tool_paths":[],"llm_paths":[]}}"#;
    assert_eq!(DeployRequest::from_journal(journalled.as_bytes()).unwrap(), image);
    let canonical = r#"{"version":1,"agent":"a","source":{"image":"docker.io/library/x"},"system_prompt":"p","required_tools":[],"tools_to_create":[],"llm":[],"env":[],"identity_provider":null}"#;
    assert_eq!(String::from_utf8(image.canonical_revision()).unwrap(), canonical);
}

fn members_of(schema: &Value) -> Vec<String> {
    schema["properties"].as_object().into_iter().flat_map(Map::keys).cloned().collect()
}

/// Every member name of the document is tried in every object of a deploy: the parser warns of exactly those that the
/// object's schema does not have.
#[test]
fn the_parser_knows_the_members_of_the_schema_and_no_others() {
    let document = openapi::document();
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let names: BTreeSet<String> = schemas.values().flat_map(members_of).collect();
    let wrap = |list: &str, item: Value| with(json!({ list: [item] }));
    for (schema, object, place) in [
        ("DeployRequest", built(json!({})), ""),
        ("DeployTool", json!({"name": "t", "base_url": "https://a.example"}), "tools_to_create"),
        ("DeployModel", json!({"provider": "openai", "model": "m"}), "llm_configs"),
        ("DeployVariable", json!({"name": "A", "value": "1"}), "env"),
    ] {
        let known: BTreeSet<String> = members_of(&schemas[schema]).into_iter().collect();
        assert!(known.len() > 2, "{schema}");
        for name in names.iter().filter(|name| !NOT_SUPPORTED.iter().any(|(key, _)| key == name)) {
            let mut object = object.clone();
            object[name] = json!([]);
            let path = if place.is_empty() { name.clone() } else { format!("{place}[0].{name}") };
            let body = if place.is_empty() { object } else { wrap(place, object) };
            let warnings = parse(body).map(|(_, warnings)| warnings).unwrap_or_default();
            let is_unknown =
                warnings.iter().any(|text| text.starts_with(&format!("unknown field \"{path}\" is ignored")));
            assert_eq!(is_unknown, !known.contains(name), "{schema}.{name}: {warnings:?}");
        }
    }
}
