//! What an agent reaches: its own directories, and egress.

use super::docker_image::docker;
use super::test_runtime::{EGRESS_TOKEN, Kind, TestRuntime, ask};
use crate::runtime::GRACE;
use hoistway_agent::runtime::{Endpoint, Instance};
use std::net::UdpSocket;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

pub async fn the_working_directory_is_the_agents_own_and_new_for_each_run(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    let source = "import os, sys
def handler(message):
    if message == 'end': os._exit(0)
    for directory in ('.', os.environ['HOME'], os.environ['TMPDIR'], '/dev/shm'):
        open(os.path.join(directory, 'written'), 'w').write(message)
    script = os.path.join(os.environ['TMPDIR'], 'script')
    with open(script, 'w') as file: file.write('#!/bin/sh\\necho runs')
    os.chmod(script, 0o700)
    return [sorted(os.listdir('.')), os.popen(script).read()]";
    let (instance, started) = test.ready(source).await;
    let expected = r#"[["agent.py","written"],"runs\n"]"#;
    assert_eq!(ask(&started, "x").await, expected);
    let listing = "import os\ndef handler(message): return [os.listdir('.'), os.listdir(os.environ['TMPDIR'])]";
    let (other, second) = test.ready(listing).await;
    assert_eq!(ask(&second, "x").await, r#"[["agent.py"],[]]"#);
    for instance in [instance, other] {
        test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    }
}

/// A handler that connects where it is told, by TCP and by UDP.
const CONNECTS: &str = "import socket
def handler(message):
    host, port = message.rsplit(' ', 1)
    try:
        family = socket.AF_INET6 if ':' in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as peer: peer.sendto(b'x', (host, int(port)))
        return 'sent'
    except OSError: pass
    try: socket.create_connection((host, int(port)), 3)
    except OSError as error: return 'stopped'
    return 'connected'";

pub async fn a_closed_network_leads_to_egress_and_nowhere_else(kind: Kind) {
    let test = TestRuntime::new(kind).await;
    if test.runtime.egress_route().is_none() {
        println!("SKIPPED: this machine gives no network of their own to agents");
        return;
    }
    let (one, started) = test.ready(CONNECTS).await;
    let (other, neighbour) = test.ready("def handler(message): return message").await;
    let open = TcpListener::bind("0.0.0.0:0").await.unwrap();
    let port = open.local_addr().unwrap().port();
    let neighbours = neighbour.address.rsplit_once(':').unwrap().1.to_owned();
    // The address of this machine towards others, if it has one.
    let outside = UdpSocket::bind("0.0.0.0:0").unwrap();
    let outside = outside.connect("192.0.2.1:9").and_then(|()| outside.local_addr()).map(|at| at.ip().to_string());
    let mut hosts = vec!["172.17.0.1".to_owned(), "host.docker.internal".to_owned()];
    hosts.extend(outside);
    if kind == Kind::Docker {
        let gateway = "{{range .IPAM.Config}}{{.Gateway}}{{end}}";
        hosts.push(docker(&["network", "inspect", "bridge", "-f", gateway]));
    }
    let machine = hosts.iter().filter(|host| !host.is_empty()).flat_map(|host| {
        [format!("{host} {port}"), format!("{host} {neighbours}"), format!("{host} 22"), format!("{host} 2375")]
    });
    let elsewhere = ["1.1.1.1 53", "1.1.1.1 443", "169.254.169.254 80", "fd00:ec2::254 80", "2606:4700:4700::1111 53"];
    let local = [format!("127.0.0.1 {port}"), format!("127.0.0.1 {neighbours}"), format!("127.0.0.3 {port}")];
    for target in machine.chain(elsewhere.map(str::to_owned)) {
        assert_eq!(ask(&started, &target).await, "stopped", "{target}");
    }
    for target in local {
        // On its own loopback a datagram goes out and arrives nowhere.
        assert_ne!(ask(&started, &target).await, "connected", "{target}");
    }
    assert!(tokio::time::timeout(std::time::Duration::ZERO, open.accept()).await.is_err(), "nobody connected");
    for instance in [one, other] {
        test.runtime.remove(&instance.revision, GRACE).await.unwrap();
    }
}

pub async fn egress_knows_the_agent_by_its_connection(kind: Kind) {
    let egress = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = egress.local_addr().unwrap().to_string();
    let test = TestRuntime::with(kind, |settings| settings.egress = address).await;
    if test.runtime.egress_route().is_none_or(|route| !route.has_identity) {
        println!("SKIPPED: this machine gives no network of their own to agents");
        return;
    }
    let source = "import urllib.request
def handler(message):
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(message).read().decode()";
    // More listeners than fit in a message.
    let ports = 8080..8120;
    let endpoints = ports.map(|port| Endpoint::of_url(&format!("http://tool.example:{port}")).unwrap()).collect();
    let instance = Instance { endpoints, ..test.instance(source).await };
    let started = test.runtime.apply(instance.clone()).await.unwrap();
    started.ready().await.unwrap();
    let serving = tokio::spawn(async move {
        let mut prefaces = Vec::new();
        for _ in 0..2 {
            let (connection, _) = egress.accept().await.unwrap();
            let mut connection = BufReader::new(connection);
            let mut line = String::new();
            connection.read_line(&mut line).await.unwrap();
            prefaces.push(line.trim().to_owned());
            let answer = "HTTP/1.0 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\negress";
            while line.trim() != "" {
                line.clear();
                connection.read_line(&mut line).await.unwrap();
            }
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
        prefaces
    });
    assert_eq!(ask(&started, "http://127.0.0.1:3128/x").await, "egress");
    assert_eq!(ask(&started, "http://tool.example:8119/x").await, "egress");
    let expected = ["proxy 3128", "http 8119"].map(|rest| format!("HOISTWAY-EGRESS/1 {EGRESS_TOKEN} {rest}"));
    assert_eq!(serving.await.unwrap(), expected);
    test.runtime.remove(&instance.revision, GRACE).await.unwrap();
}
