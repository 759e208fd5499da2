//! The real runtime and the real runner, with an image made by hand.

use crate::{
    fake_image::{Image, Layer, layer},
    fake_registry::Registry,
};
use hoistway_agent::{
    Config, Deps, open,
    runtime::{ProcessConfig, ProcessRuntime},
};
use hoistway_kit::{
    db::DatabaseConfig, egress_auth::EgressKey, log_collect, secrets::MasterKey, tls::ServiceTls, token::ServiceToken,
};
use hoistway_model::{
    AgentService, Code, Operation, RevisionId,
    agent::{AgentSpec, Phase, Route, RouteEvent},
    image::ImageRef,
    log::LogQuery,
};
use serde_json::{Value, json};
use std::{path::Path, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const RUNNER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../build/runner");
const AGENT: &str = "import dep, os
print('imported')
def handler(request, context):
    return {'response': dep.word + request['message'], 'key': os.environ['KEY'], 'home': os.environ['HOME']}
";

/// The main file and the package beside it.
fn runner() -> Layer {
    let package = std::fs::read_dir(format!("{RUNNER}/_hoistway_runner")).unwrap();
    let names = package.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let modules = names.filter(|name| name.ends_with(".py")).map(|name| format!("_hoistway_runner/{name}"));
    let read = |name: String| {
        let text = std::fs::read_to_string(format!("{RUNNER}/{name}")).unwrap();
        (format!("opt/hoistway/runner/{name}"), text)
    };
    let files: Vec<_> = modules.chain(["hoistway_runner.py".to_owned()]).map(read).collect();
    layer(&files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect::<Vec<_>>())
}

fn layers(agent: &str) -> Vec<Layer> {
    vec![runner(), layer(&[("opt/hoistway/site-packages/dep.py", "word = 'hi '\n")]), layer(&[("app/agent.py", agent)])]
}

async fn route(agents: &Arc<dyn AgentService>) -> Route {
    use futures_util::StreamExt;
    let mut stream = agents.watch_routes("test".into()).await.unwrap();
    loop {
        let routes = match stream.next().await.unwrap().unwrap().event {
            RouteEvent::Snapshot(routes) => routes,
            RouteEvent::Changed(route) => vec![*route],
            RouteEvent::Removed(_) => Vec::new(),
        };
        if let Some(route) = routes.into_iter().find(|r| r.ready) {
            return route;
        }
    }
}

async fn invoke(route: &Route, token: &str) -> (u16, Value) {
    let target = route.target.as_ref().unwrap();
    let body = json!({"message": "there"}).to_string();
    let request = format!(
        "POST /invoke HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         X-Hoistway-Invoke-Token: {token}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut stream = TcpStream::connect(&target.address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_becomes_an_agent_that_answers() {
    let dir = tempfile::tempdir().unwrap();
    let token = ServiceToken::generate().unwrap();
    let registry = Registry::start(Some(token.secret().expose())).await;
    let config = Config {
        data_dir: dir.path().to_owned(),
        registry_address: registry.addr.to_string(),
        database: DatabaseConfig::from(hoistway_testing::database_url(dir.path())),
        ..Config::default()
    };
    let python = hoistway_agent::interpreter::Interpreter::find(None).await.unwrap();
    let process = |config: &Config| ProcessConfig {
        launcher: env!("CARGO_BIN_EXE_hoistway-agent").into(),
        ..ProcessConfig::new(config.service_dir(), python.path.clone())
    };
    let mut deps = Deps {
        token,
        master_key: MasterKey::from_bytes(&[7; 32]).unwrap(),
        egress_key: EgressKey::generate().unwrap(),
        runtime: Some(Arc::new(ProcessRuntime::new(process(&config)).await.unwrap())),
        tls: ServiceTls::default(),
    };
    let service = open(&config, &deps).await.unwrap();
    let agents = service.handle();
    let push = |agent: &str| {
        let digest = registry.push("real", "v", &Image::ours(layers(agent), &python.python));
        ImageRef::platform("real", Some("v".into()), digest)
    };

    let spec = crate::fake_runtime::spec("real", &push(AGENT));
    let revision = RevisionId::mint();
    let status = agents.start_revision(Operation::new(), revision, spec.clone()).await.unwrap();
    assert_eq!(status.phase, Phase::Running);
    agents.switch_route(Operation::new(), spec.agent.clone(), revision).await.unwrap();
    let there = route(&agents).await;
    let secret = there.target.as_ref().unwrap().token.expose().to_owned();
    let (status, answer) = invoke(&there, &secret).await;
    assert_eq!((status, &answer["response"], &answer["key"]), (200, &json!("hi there"), &json!("hunter2")));
    let home = Path::new(answer["home"].as_str().unwrap());
    assert!(home == "/home/agent" || home.starts_with(dir.path()), "{answer}");
    assert_eq!(invoke(&there, "wrong").await.0, 403);
    let logs =
        log_collect::texts(agents.agent_logs(spec.agent.clone(), LogQuery::last(10)).await.unwrap()).await.unwrap();
    assert!(logs.iter().any(|l| l.contains("imported")), "{logs:?}");

    let broken =
        AgentSpec { image: push("raise RuntimeError('kaboom hunter2')\ndef handler(r): pass\n"), ..spec.clone() };
    let (operation, id) = (Operation::new(), RevisionId::mint());
    let e = agents.start_revision(operation.clone(), id, broken).await.unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::AgentStartFailed, "RuntimeError: kaboom ********"));
    assert!(e.details.iter().any(|l| l.contains("agent.py")), "{:?}", e.details);
    agents.undo_start(operation.id, spec.agent.clone(), id).await.unwrap();
    assert_eq!(invoke(&route(&agents).await, &secret).await.0, 200);

    service.shutdown().await;
    drop((service, agents));
    deps.runtime = Some(Arc::new(ProcessRuntime::new(process(&config)).await.unwrap()));
    let service = open(&config, &deps).await.unwrap();
    let agents = service.handle();
    let back = route(&agents).await;
    assert_eq!(invoke(&back, &secret).await.1["response"], json!("hi there"));
    agents.delete_agent(Operation::new(), spec.agent).await.unwrap();
    assert!(TcpStream::connect(&back.target.unwrap().address).await.is_err());
    service.shutdown().await;
}
