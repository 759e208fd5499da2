#![allow(clippy::unwrap_used)]

use super::{certificates::CertificateFiles, *};
use crate::{
    connection_limits::Limits,
    grpc::{Server, Transport},
    ports::{self, Listeners},
    token::ServiceToken,
    web,
};
use axum::{Router, routing::get};
use hoistway_testing::{TestAuthority, outer_address};
use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

fn service(dir: &Path, name: &str) -> ServiceTlsConfig {
    ServiceTlsConfig {
        cert_file: Some(dir.join(format!("{name}.pem"))),
        key_file: Some(dir.join(format!("{name}-key.pem"))),
        ca_file: Some(dir.join("ca.pem")),
        allow_plaintext: false,
    }
}

fn api(dir: &Path, name: &str) -> ApiTlsConfig {
    let ServiceTlsConfig { cert_file, key_file, .. } = service(dir, name);
    ApiTlsConfig { cert_file, key_file, allow_plaintext: false }
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

async fn serve_grpc(listeners: Listeners, token: &ServiceToken, stop: &CancellationToken) -> u16 {
    let port = listeners.port();
    let server = Server::new(token.clone());
    tokio::spawn(server.serve(listeners, stop.clone()));
    port
}

async fn health(transport: Transport) -> Result<(), tonic::Status> {
    HealthClient::new(transport).check(HealthCheckRequest::default()).await.map(drop)
}

#[tokio::test]
async fn services_answer_only_clients_with_a_certificate_of_their_authority() {
    let (dir, other_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (authority, other) = (TestAuthority::new(), TestAuthority::new());
    authority.issue(dir.path(), "build", &HOSTS);
    authority.issue(dir.path(), "gateway", &HOSTS);
    other.issue(other_dir.path(), "gateway", &HOSTS);
    let (token, stop) = (ServiceToken::generate().unwrap(), CancellationToken::new());
    let server = service(dir.path(), "build").load().unwrap();
    let listeners = server.secure_grpc("grpc_listen", ports::listen(any(0)).unwrap()).unwrap();
    let port = serve_grpc(listeners, &token, &stop).await;
    let uri = format!("https://localhost:{port}");

    let client = service(dir.path(), "gateway").load().unwrap();
    health(Transport::connect_tls("build", &uri, &token, &client).unwrap()).await.unwrap();

    // A server that another authority vouches for is not trusted, and neither is such a client.
    let stranger = service(other_dir.path(), "gateway").load().unwrap();
    let refused = health(Transport::connect_tls("build", &uri, &token, &stranger).unwrap()).await.unwrap_err();
    assert_eq!(refused.message(), "the build service cannot be reached");
    fs::write(other_dir.path().join("ca.pem"), format!("{}{}", authority.pem(), other.pem())).unwrap();
    let stranger = service(other_dir.path(), "gateway").load().unwrap();
    let refused = health(Transport::connect_tls("build", &uri, &token, &stranger).unwrap()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    // Nor one without any.
    let refused = health(Transport::connect("build", &format!("http://127.0.0.1:{port}"), &token).unwrap()).await;
    assert!(refused.is_err());
    stop.cancel();
}

#[tokio::test]
async fn a_renewed_certificate_is_used_without_a_restart_and_a_broken_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (first, second) = (TestAuthority::new(), TestAuthority::new());
    first.issue(dir.path(), "api", &HOSTS);
    let config = api(dir.path(), "api");
    let paths = (config.cert_file.clone().unwrap(), config.key_file.clone().unwrap());
    let paths = super::certificates::Paths { cert: paths.0, key: paths.1, ca: Some(dir.path().join("ca.pem")) };
    let files = CertificateFiles::load("tls", paths).unwrap();
    let before = files.current().await;
    fs::write(dir.path().join("api.pem"), "half a certif").unwrap();
    files.expire();
    assert!(Arc::ptr_eq(&before, &files.current().await), "a broken file changes nothing");
    second.issue(dir.path(), "api", &HOSTS);
    assert!(Arc::ptr_eq(&before, &files.current().await), "the files are not looked at each time");
    files.expire();
    assert!(!Arc::ptr_eq(&before, &files.current().await));
}

/// Asks for `/` with TLS that trusts `authority`, or without TLS.
async fn ask(at: SocketAddr, authority: Option<&TestAuthority>) -> String {
    async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
    let stream = TcpStream::connect(at).await.unwrap();
    let Some(authority) = authority else { return exchange(stream).await };
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    exchange(connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()).await
}

#[tokio::test]
async fn the_api_serves_tls_and_only_this_machine_may_do_without() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    authority.issue(dir.path(), "api", &HOSTS);
    let listeners = api(dir.path(), "api").secure(ports::listen(any(0)).unwrap()).unwrap();
    let (port, stop) = (listeners.port(), CancellationToken::new());
    let app = Router::new().route("/", get(|| async { "served" }));
    let serving = tokio::spawn(web::serve("api", listeners, app, Limits::default(), stop.clone()));
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    for authority in [Some(&authority), None] {
        assert!(ask(loopback, authority).await.ends_with("served"));
    }
    if let Some(outer) = outer_address() {
        let outer = SocketAddr::new(outer, port);
        assert!(ask(outer, Some(&authority)).await.ends_with("served"));
        let refused = ask(outer, None).await;
        assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("this address needs TLS: use https"));
    }
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn addresses_that_other_machines_reach_need_tls_or_permission() {
    let none = ServiceTlsConfig::default().load().unwrap();
    let local = || ports::listen((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let outside = || ports::listen(any(0)).unwrap();
    assert!(none.secure_grpc("grpc_listen", local()).is_ok());
    let refused = none.secure_grpc("grpc_listen", outside()).unwrap_err();
    assert!(refused.message.contains("grpc_listen") && refused.message.contains("tls.allow_plaintext"), "{refused}");
    let asked = ServiceTlsConfig { allow_plaintext: true, ..ServiceTlsConfig::default() }.load().unwrap();
    assert!(asked.secure_http("registry_listen", outside()).is_ok());
    assert!(ApiTlsConfig::default().secure(local()).is_ok());
    let refused = ApiTlsConfig::default().secure(outside()).unwrap_err();
    assert!(refused.message.contains("api_tls.cert_file"), "{refused}");

    let token = ServiceToken::generate().unwrap();
    let connect = |uri: &str, tls: &ServiceTls| Transport::connect_tls("build", uri, &token, tls).map(drop);
    for uri in ["http://127.0.0.1:1", "http://localhost:1", "http://[::1]:1"] {
        connect(uri, &none).unwrap();
    }
    let refused = connect("http://build:8095", &none).unwrap_err();
    assert!(refused.message.contains("is on another machine"), "{refused}");
    connect("http://build:8095", &asked).unwrap();
    assert!(connect("https://build:8095", &asked).unwrap_err().message.contains("tls.cert_file"));
}

#[test]
fn settings_that_cannot_work_name_the_file() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    authority.issue(dir.path(), "a", &HOSTS);
    authority.issue(dir.path(), "b", &HOSTS);
    let message = |config: ServiceTlsConfig| config.load().unwrap_err().message;
    let good = service(dir.path(), "a");
    let incomplete = ServiceTlsConfig { ca_file: None, ..good.clone() };
    assert!(message(incomplete).contains("tls: needs cert_file, key_file and ca_file"));
    let missing = ServiceTlsConfig { cert_file: Some(dir.path().join("none.pem")), ..good.clone() };
    assert!(message(missing).contains("tls.cert_file: "));
    let swapped = ServiceTlsConfig { key_file: Some(dir.path().join("b-key.pem")), ..good.clone() };
    assert!(message(swapped).contains("is not the key of"));
    let no_authority = ServiceTlsConfig { ca_file: Some(dir.path().join("a-key.pem")), ..good.clone() };
    assert!(message(no_authority).contains("tls.ca_file: "));
    let elsewhere = dir.path().join("elsewhere.pem");
    fs::write(&elsewhere, TestAuthority::new().pem()).unwrap();
    let other_authority = ServiceTlsConfig { ca_file: Some(elsewhere), ..good.clone() };
    assert!(message(other_authority).contains("it is of another authority"));
    let tls = good.load().unwrap();
    assert!(tls.check_host("agents_host", "localhost").is_ok() && tls.check_host("agents_host", "127.0.0.1").is_ok());
    assert!(tls.check_host("agents_host", "agent").unwrap_err().message.contains("agents_host"));
}

#[test]
fn the_expiry_of_a_certificate_is_known() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    authority.issue_until(dir.path(), "old", &HOSTS, -1);
    authority.issue_until(dir.path(), "soon", &HOSTS, 10);
    authority.issue(dir.path(), "new", &HOSTS);
    let expiry = |name: &str| {
        let paths = super::certificates::Paths {
            cert: dir.path().join(format!("{name}.pem")),
            key: dir.path().join(format!("{name}-key.pem")),
            ca: Some(dir.path().join("ca.pem")),
        };
        // One that has expired is no reason not to start.
        CertificateFiles::load("tls", paths).unwrap().last().expiry()
    };
    assert_eq!(expiry("old").as_deref(), Some("has expired"));
    assert!(expiry("soon").is_some_and(|text| text.starts_with("expires in ")));
    assert_eq!(expiry("new"), None);
    // A chain is worth nothing any more when one of its certificates is not.
    let chain = ["new", "soon"].map(|name| fs::read_to_string(dir.path().join(format!("{name}.pem"))).unwrap());
    fs::write(dir.path().join("new.pem"), chain.concat()).unwrap();
    assert!(expiry("new").is_some_and(|text| text.starts_with("expires in ")));
}

#[tokio::test]
async fn the_expiry_of_a_renewed_certificate_is_measured_without_a_connection() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    let paths = super::certificates::Paths {
        cert: dir.path().join("own.pem"),
        key: dir.path().join("own-key.pem"),
        ca: Some(dir.path().join("ca.pem")),
    };
    authority.issue_until(dir.path(), "own", &HOSTS, 10);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let days = || super::expiry_times().get("of this test").map(|at| (at - now).div_ceil(86_400));
    let files = CertificateFiles::load("of this test", paths).unwrap();
    assert_eq!(days(), Some(10));
    authority.issue_until(dir.path(), "own", &HOSTS, 90);
    files.expire();
    assert_eq!(days(), Some(90));
    drop(files);
    assert_eq!(days(), None, "it is in use no more");
}

#[test]
fn addresses_of_services_are_checked() {
    let (dir, authority) = (tempfile::tempdir().unwrap(), TestAuthority::new());
    authority.issue(dir.path(), "agent", &HOSTS);
    let (tls, none) = (service(dir.path(), "agent").load().unwrap(), ServiceTls::default());
    let message = |tls: &ServiceTls, text: &str| tls.address("registry_address", text).unwrap_err().message;
    for (text, shown) in [("https://build:5000", "build:5000"), ("https://build:5000/", "build:5000")] {
        let address = tls.address("registry_address", text).unwrap();
        assert!(address.has_tls() && address.to_string() == shown, "{text}");
    }
    for text in ["127.0.0.1:5000", "http://localhost:5000", "[::1]:5000"] {
        assert!(!tls.address("registry_address", text).unwrap().has_tls(), "{text}");
    }
    assert!(message(&tls, "build:5000").contains("must begin with https://"));
    assert!(message(&none, "build:5000").contains("tls.allow_plaintext = true"));
    assert!(message(&none, "https://build:5000").contains("which are not set"));
    for wrong in ["build", "https://build:5000/v2", "ftp://build:5000", "a@build:5000", ""] {
        assert!(message(&tls, wrong).contains("is not HOST:PORT or https://HOST:PORT"), "{wrong}");
    }
}
