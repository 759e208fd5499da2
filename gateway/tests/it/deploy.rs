//! The answers of `POST /api/deploy`.

use crate::{
    fakes::image,
    test_gateway::{Answer, TestGateway},
};
use hoistway_gateway::{
    deploy::{Outcome, Progress},
    state::Limits,
};
use hoistway_model::{Code, Error};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

fn source() -> Value {
    json!({"agent_name": "a", "source_files": {"agent.py": "x = 1\n"}})
}

fn from_image() -> Value {
    json!({"agent_name": "a", "image": "127.0.0.1:5005/a:1"})
}

fn built() -> Progress {
    Progress {
        tools_done: true,
        tools_created: vec!["t".into()],
        wants_build: true,
        image: Some(image()),
        ..Progress::default()
    }
}

fn done(progress: Progress) -> Progress {
    Progress { done: Some(Ok(Outcome::default())), ..progress }
}

fn without_build() -> Progress {
    Progress { tools_done: true, ..Progress::default() }
}

/// Sends a deploy, passes the saga through `steps` once it has accepted, and waits for the answer.
async fn deploy(gateway: &TestGateway, query: &str, body: Value, steps: Vec<Progress>) -> Answer {
    let mut accepted = gateway.deployer.accepted.subscribe();
    let before = accepted.borrow().len();
    gateway.deployer.progress.send_replace(Progress::default());
    let go_on = async {
        accepted.wait_for(|accepted| accepted.len() > before).await.unwrap();
        for step in steps {
            gateway.deployer.progress.send_replace(step);
        }
    };
    let path = format!("/api/deploy{query}");
    tokio::join!(gateway.post(&path, body), go_on).0
}

#[tokio::test]
async fn a_deploy_is_answered_as_the_reference_says() {
    let gateway = TestGateway::start().await;
    let answer = deploy(&gateway, "", source(), vec![built(), done(built())]).await;
    assert_eq!(answer.status, 201);
    assert_eq!(
        answer.text,
        r#"{"agent":"a","namespace":"agent-system","tools_created":["t"],"build_id":"build-a1b2c3d4e5f6","image_uri":"127.0.0.1:5005/a:a1b2c3d4e5f6"}"#
    );
    assert_eq!(answer.header("location"), "/api/agents/a");
    assert_eq!(answer.header("hoistway-deployment"), gateway.deployer.id.to_string());
}

#[tokio::test]
async fn an_image_deploy_has_no_build_members() {
    let gateway = TestGateway::start().await;
    let answer = deploy(&gateway, "", from_image(), vec![done(without_build())]).await;
    assert_eq!(
        (answer.status, answer.text.as_str()),
        (201, r#"{"agent":"a","namespace":"agent-system","tools_created":[]}"#)
    );
    let answer = gateway.post("/api/v1/deploy", from_image()).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn warnings_of_all_stages_are_collected() {
    let gateway = TestGateway::start().await;
    let mut body = from_image();
    body["required_tools"] = json!(["wish"]);
    body["entrypoint"] = json!("x");
    let pending = Outcome { pending: Some("registry.invalid cannot be reached".into()) };
    let answer = deploy(&gateway, "", body, vec![Progress { done: Some(Ok(pending)), ..without_build() }]).await;
    assert_eq!(answer.status, 201);
    assert_eq!(
        answer.json()["warnings"],
        json!([
            "unknown field \"entrypoint\" is ignored; did you mean \"entry_point\"?",
            "no tool \"wish\" is registered: the agent cannot use it before it is; then it is bound by itself",
            "the agent is Pending: registry.invalid cannot be reached",
        ])
    );
}

#[tokio::test]
async fn a_slow_start_is_201_and_a_slow_build_202() {
    let limits = Limits { deploy_wait: Duration::from_millis(200), ..Limits::default() };
    let gateway = TestGateway::with(limits).await;
    let answer = deploy(&gateway, "", source(), vec![built()]).await;
    assert_eq!((answer.status, answer.header("location")), (201, "/api/agents/a"));
    assert_eq!(answer.json()["build_id"], "build-a1b2c3d4e5f6");
    assert_eq!(answer.json()["warnings"], json!(["the agent is Pending: it is not up after 0 s and goes on starting"]));

    let waiting = Progress { tools_done: true, wants_build: true, ..Progress::default() };
    let id = gateway.deployer.id;
    for query in ["?wait=built", "?wait=ready", ""] {
        let answer = deploy(&gateway, query, source(), vec![waiting.clone()]).await;
        assert_eq!((answer.status, answer.header("location")), (202, format!("/api/deployments/{id}").as_str()));
        assert_eq!(answer.text, format!(r#"{{"agent":"a","namespace":"agent-system","deployment":"{id}"}}"#));
    }
    // Nothing to build, but the tools are not registered yet: a 201 could not list them.
    assert_eq!(deploy(&gateway, "", from_image(), vec![Progress::default()]).await.status, 202);
}

#[tokio::test]
async fn the_caller_chooses_what_to_wait_for() {
    let gateway = TestGateway::start().await;
    let answer = deploy(&gateway, "?wait=none", source(), vec![]).await;
    assert_eq!((answer.status, answer.header("hoistway-deployment")), (202, gateway.deployer.id.to_string().as_str()));
    let answer = deploy(&gateway, "?wait=Built", source(), vec![Progress::default(), built()]).await;
    let pending = json!(["the agent is Pending: it is being started"]);
    assert_eq!((answer.status, &answer.json()["warnings"]), (201, &pending));
    let answer = deploy(&gateway, "?wait=ready&timeout=600", source(), vec![done(built())]).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn a_failure_after_work_began_is_500_with_its_code() {
    let gateway = TestGateway::start().await;
    for (code, message, want) in [
        (
            Code::RequirementFailed,
            "build failed: no such package",
            "500 requirement_failed build failed: no such package",
        ),
        (Code::Unavailable, "build failed: away", "500 unavailable build failed: away"),
        (Code::DeadlineExceeded, "failed to create agent: slow", "500 deadline_exceeded failed to create agent: slow"),
        (Code::Conflict, "failed to create tool \"t\": taken", "409 conflict failed to create tool \"t\": taken"),
        (Code::InsufficientStorage, "build failed: disk full", "507 insufficient_storage build failed: disk full"),
    ] {
        let failed = Progress { done: Some(Err(Arc::new(Error::new(code, message)))), ..Progress::default() };
        let answer = deploy(&gateway, "", source(), vec![failed]).await;
        assert_eq!(answer.error(), want);
        assert_eq!(answer.header("hoistway-deployment"), gateway.deployer.id.to_string());
    }
    let error = Error::new(Code::SyntaxError, "build failed: agent.py line 3").with_details(["def handler(:".into()]);
    let failed = Progress { done: Some(Err(Arc::new(error))), ..Progress::default() };
    let answer = deploy(&gateway, "", source(), vec![failed]).await;
    assert_eq!(answer.error(), "500 syntax_error build failed: agent.py line 3 [\"def handler(:\"]");
    // A caller that does not wait does not receive the error.
    assert_eq!(deploy(&gateway, "?wait=none", source(), vec![]).await.status, 202);
}

#[tokio::test]
async fn an_error_before_work_began_keeps_its_status() {
    let gateway = TestGateway::start().await;
    for (code, want) in [
        (Code::Unavailable, "503 unavailable x"),
        (Code::ResourceExhausted, "429 resource_exhausted x"),
        (Code::Conflict, "409 conflict x"),
    ] {
        *gateway.deployer.refusal.lock().unwrap() = Some(Error::new(code, "x"));
        let answer = gateway.post("/api/deploy", source()).await;
        assert_eq!(answer.error(), want);
        assert_eq!(answer.header("retry-after").is_empty(), code == Code::Conflict);
    }
    let secret = Error::internal("writing the journal", "s3cr3t path");
    *gateway.deployer.refusal.lock().unwrap() = Some(secret);
    let answer = gateway.post("/api/deploy", source()).await;
    assert_eq!(answer.error(), "500 internal internal error while writing the journal");
}

#[tokio::test]
async fn several_callers_wait_for_one_deployment() {
    let gateway = TestGateway::start().await;
    let mut accepted = gateway.deployer.accepted.subscribe();
    let finish = async {
        accepted.wait_for(|accepted| accepted.len() == 3).await.unwrap();
        gateway.deployer.progress.send_replace(done(built()));
    };
    let call = || gateway.post("/api/deploy", source());
    let (a, b, c, ()) = tokio::join!(call(), call(), call(), finish);
    assert_eq!([a.status, b.status, c.status], [201; 3]);
    assert!(a.text == b.text && b.text == c.text);
}

#[tokio::test]
async fn a_large_request_is_read_whole() {
    let gateway = TestGateway::start().await;
    let text = "# é\n".repeat(1 << 20);
    let body = json!({"agent_name": "a", "source_files": {"agent.py": text}});
    let answer = deploy(&gateway, "", body, vec![done(built())]).await;
    assert_eq!(answer.status, 201);
    let accepted = gateway.deployer.accepted.borrow().clone();
    let hoistway_gateway::deploy::request::Source::Files(source) = &accepted[0].source else { panic!() };
    assert_eq!(source.files.get("agent.py").unwrap().len(), text.len());
}

#[tokio::test]
async fn a_source_with_too_many_files_or_bytes_is_refused() {
    let limits = Limits { max_source_files: 2, max_source_bytes: 40, ..Limits::default() };
    let gateway = TestGateway::with(limits).await;
    for (files, message) in [
        (
            json!({"agent.py": "", "a.py": "", "b.py": ""}),
            "source_files: 3 files are too many, 2 is the limit (setting max_source_files)",
        ),
        (
            json!({"agent.py": "#".repeat(40)}),
            "source_files: 48 bytes are too many, 40 is the limit (setting max_source_bytes)",
        ),
    ] {
        let answer = gateway.post("/api/deploy", json!({"agent_name": "a", "source_files": files})).await;
        assert_eq!(answer.error(), format!("400 invalid_argument {message}"));
    }
}
