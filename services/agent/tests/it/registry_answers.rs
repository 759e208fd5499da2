//! Answers of registries, and their meaning.

use crate::{
    fake_image::{Image, layer},
    fake_registry::Registry,
};
use hoistway_agent::{
    images::{Bounds, Failure, Images, LayerStore, Registries},
    interpreter::Interpreter,
};
use hoistway_kit::{registry_logins::RegistryLogins, tls::ServiceAddress};
use hoistway_model::{Code, Secret, image::ImageRef};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

pub const PATIENCE: Duration = Duration::from_secs(1);

pub async fn images() -> (tempfile::TempDir, Images) {
    let dir = tempfile::tempdir().unwrap();
    let registries =
        Registries::new(ServiceAddress::local("127.0.0.1:1"), &Secret::new("t"), RegistryLogins::new(None), Vec::new())
            .unwrap();
    let store = LayerStore::open(&dir.path().join("layers"), Bounds::default()).unwrap();
    (dir, Images::new(registries, store, Interpreter::find(None).await.unwrap()))
}

/// A server that answers every request with `status` and `body`; with nothing at all if there is no body.
async fn server(status: &'static str, content_type: &'static str, body: Option<&'static str>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut open = Vec::new();
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = stream.read(&mut head).await;
            match body {
                Some(body) => {
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
                    );
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                }
                None => open.push(stream),
            }
        }
    });
    addr.to_string()
}

fn image(host: &str) -> ImageRef {
    format!("{host}/team/agent:v1").parse().unwrap()
}

async fn ask(host: &str) -> Failure {
    let (_dir, images) = images().await;
    images.resolve(&image(host), PATIENCE).await.unwrap_err()
}

#[tokio::test]
async fn a_registry_that_cannot_be_asked_is_waited_for() {
    let json = "application/json";
    for (host, says) in [
        (server("401 Unauthorized", json, Some(r#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)).await, "wants a login"),
        (
            server("403 Forbidden", json, Some(r#"{"errors":[{"code":"DENIED","message":"no"}]}"#)).await,
            "it says \"no\"",
        ),
        (
            server("429 Slow Down", json, Some(r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"later"}]}"#)).await,
            "later",
        ),
    ] {
        match ask(&host).await {
            Failure::Unreachable(why) => assert!(why.contains(says), "{host}: {why}"),
            Failure::Final(e) => panic!("{host}: {e}"),
        }
    }
}

#[tokio::test]
async fn answers_of_other_servers_are_not_quoted() {
    let json = "application/json";
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let hangs_up = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let no_http = hangs_up.local_addr().unwrap().to_string();
    tokio::spawn(async move { while hangs_up.accept().await.is_ok() {} });
    for host in [
        closed,
        no_http,
        "registry.invalid".to_owned(),
        server("200 OK", "text/html", Some("<html>hello</html>")).await,
        server("401 Unauthorized", "text/html", Some("who are you?")).await,
        server("404 Not Found", "text/html", Some("<html>nothing</html>")).await,
        server("404 Not Found", json, Some(r#"{"detail":"Not Found"}"#)).await,
        server("500 Oops", "text/plain", Some("oops")).await,
        server("200 OK", json, None).await,
    ] {
        let why = "it cannot be reached, or is no registry; the agent service's log says which";
        match ask(&host).await {
            Failure::Unreachable(told) => {
                assert_eq!(told, format!("the registry of {host}/team/agent:v1 cannot be asked: {why}"));
            }
            Failure::Final(e) => panic!("{host}: {e}"),
        }
    }
}

#[tokio::test]
async fn a_registry_that_says_no_is_believed() {
    for code in ["MANIFEST_UNKNOWN", "NAME_UNKNOWN"] {
        let body = Box::leak(format!(r#"{{"errors":[{{"code":"{code}","message":"unknown"}}]}}"#).into_boxed_str());
        let host = server("404 Not Found", "application/json", Some(body)).await;
        match ask(&host).await {
            Failure::Final(e) => assert_eq!(
                (e.code, e.message),
                (Code::ImageNotFound, format!("{host}/team/agent:v1 does not exist: its registry does not have it"))
            ),
            Failure::Unreachable(why) => panic!("{code}: {why}"),
        }
    }
}

#[tokio::test]
async fn tags_are_resolved_and_spoilt_layers_refused() {
    let registry = Registry::start(None).await;
    let (_dir, images) = images().await;
    let python = Interpreter::find(None).await.unwrap().python;
    let made = Image::ours(vec![layer(&[("app/agent.py", "x")])], &python);
    let digest = registry.push("team/agent", "v1", &made);
    let image = image(&registry.addr.to_string());
    assert_eq!(images.resolve(&image, PATIENCE).await.unwrap(), digest);

    let blob = hoistway_model::Digest::of(&made.layers[0].blob);
    registry.spoil("team/agent", &blob);
    match images.pull(&image, PATIENCE).await.unwrap_err() {
        Failure::Unreachable(why) => assert!(why.contains("cannot be asked: the layer"), "{why}"),
        Failure::Final(e) => panic!("{e}"),
    }
    assert!(images.store().list().is_empty());
    registry.push("team/agent", "v1", &made);
    let (pulled, pins) = images.pull(&image, PATIENCE).await.unwrap();
    assert_eq!(
        (pulled.digest, pulled.layers.as_slice(), pulled.entry_point.as_deref()),
        (digest, &[blob][..], Some("agent.py"))
    );
    drop(pins);
    images.store().sweep().await;
    assert!(images.store().list().is_empty());
}
