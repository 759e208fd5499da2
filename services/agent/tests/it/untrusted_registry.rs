//! Registries that are nobody's friend: what they send is refused with its cause, and little of it is read.

use crate::{
    fake_image::{Image, layer},
    registry_answers::{PATIENCE, images},
};
use hoistway_agent::{images::Failure, interpreter::Interpreter};
use hoistway_model::{Code, Digest};
use std::sync::{Arc, Mutex};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// The bytes that the buffers of both ends may hold on top of what is read.
const BUFFERS: usize = 16 << 20;

enum Reply {
    /// Status and headers, and the body.
    Whole(String, Vec<u8>),
    /// The body begins so and has no end.
    Endless(Vec<u8>),
}

fn moved(to: &str) -> Reply {
    Reply::Whole(format!("307 Elsewhere\r\nLocation: {to}"), Vec::new())
}

fn ok(body: &[u8]) -> Reply {
    Reply::Whole("200 OK".to_owned(), body.to_vec())
}

struct UntrustedRegistry {
    host: String,
    /// The heads of all requests.
    heads: Arc<Mutex<Vec<String>>>,
    /// The bytes of each endless body that were sent.
    endless: mpsc::Receiver<usize>,
}

impl UntrustedRegistry {
    /// Answers by path and whole head.
    async fn start(script: impl Fn(&str, &str) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let (sent, endless) = mpsc::channel(64);
        let (seen, script) = (heads.clone(), Arc::new(script));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (seen, script, sent) = (seen.clone(), script.clone(), sent.clone());
                tokio::spawn(async move {
                    let head = head(&mut stream).await;
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    seen.lock().unwrap().push(head.clone());
                    match script(&path, &head) {
                        Reply::Whole(start, body) => {
                            let head = format!(
                                "HTTP/1.1 {start}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                                body.len()
                            );
                            let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                        }
                        Reply::Endless(start) => {
                            let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
                            let _ = stream.write_all(&[head.as_slice(), &start].concat()).await;
                            let mut total = 0;
                            while let Ok(written) = stream.write(&[b' '; 64 << 10]).await {
                                total += written;
                            }
                            let _ = sent.send(total).await;
                        }
                    }
                });
            }
        });
        Self { host, heads, endless }
    }

    async fn pull(&self, reference: &str) -> Failure {
        let (_dir, images) = images().await;
        images.pull(&format!("{}/team/agent{reference}", self.host).parse().unwrap(), PATIENCE).await.unwrap_err()
    }
}

/// The head of a request, in lower case.
async fn head(stream: &mut TcpStream) -> String {
    let (mut head, mut part) = (String::new(), [0; 1024]);
    while !head.contains("\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(read) if read > 0 => head.push_str(&String::from_utf8_lossy(&part[..read]).to_lowercase()),
            _ => break,
        }
    }
    head
}

fn told(failure: Failure, says: &str) {
    match failure {
        Failure::Unreachable(why) => assert!(why.contains(says), "{why}\nand not: {says}"),
        Failure::Final(e) => panic!("{e}"),
    }
}

async fn made() -> Image {
    let python = Interpreter::find(None).await.unwrap().python;
    Image::ours(vec![layer(&[("app/agent.py", "x")])], &python)
}

#[tokio::test]
async fn answers_without_end_are_not_read_to_the_end() {
    let begun = br#"{"schemaVersion": 2, "#.to_vec();
    let mut foreign = UntrustedRegistry::start(move |_, _| Reply::Endless(begun.clone())).await;
    told(foreign.pull(":v1").await, "its manifest is larger than 4096 KiB");
    assert!(foreign.endless.recv().await.unwrap() < BUFFERS);

    let mut foreign = UntrustedRegistry::start(|path, head| match path {
        "/token?service=s&scope=repository%3ateam%2fagent%3apull" => Reply::Endless(b"{\"token\": \"".to_vec()),
        _ => {
            let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
            let realm = format!("WWW-Authenticate: Bearer realm=\"http://{host}/token\",service=\"s\"");
            Reply::Whole(format!("401 Unauthorized\r\n{realm}"), Vec::new())
        }
    })
    .await;
    told(foreign.pull(":v1").await, "its answer with a token is larger than 64 KiB");
    assert!(foreign.endless.recv().await.unwrap() < BUFFERS);

    let made = made().await;
    let mut foreign = UntrustedRegistry::start(move |path, _| match path.contains("/manifests/") {
        true => ok(&made.manifest),
        false => Reply::Endless(made.config.clone()),
    })
    .await;
    told(foreign.pull(":v1").await, "its configuration is larger than 4096 KiB");
    assert!(foreign.endless.recv().await.unwrap() < BUFFERS);
}

#[tokio::test]
async fn a_layer_is_as_long_as_its_manifest_says() {
    let made = made().await;
    let config = Digest::of(&made.config).to_string();
    let mut foreign = UntrustedRegistry::start(move |path, _| match path {
        _ if path.contains("/manifests/") => ok(&made.manifest),
        _ if path.ends_with(&config) => ok(&made.config),
        _ => Reply::Endless(made.layers[0].blob.clone()),
    })
    .await;
    told(foreign.pull(":v1").await, "the layer");
    assert!(foreign.endless.recv().await.unwrap() < BUFFERS);
}

#[tokio::test]
async fn redirects_are_checked_as_the_first_address_is() {
    for (to, says) in [
        ("http://169.254.169.254/latest/meta-data", "it leads elsewhere, and there it is at an address that may not"),
        ("https://[fd00:ec2::254]/latest", "it leads elsewhere, and there it is at an address that may not"),
        ("//2852039166/x", "it leads elsewhere, and there it is at an address that may not"),
        ("http://10.0.0.1/", "it leads to an address without TLS"),
        ("/again", "it redirects more than 3 times"),
    ] {
        let foreign = UntrustedRegistry::start(move |_, _| moved(to)).await;
        told(foreign.pull(":v1").await, says);
        assert_eq!(foreign.heads.lock().unwrap().len(), if to == "/again" { 4 } else { 1 });
    }
}

#[tokio::test]
async fn cloud_metadata_is_no_registry() {
    let (_dir, images) = images().await;
    for host in ["169.254.169.254", "169.254.169.254:80", "[fd20:ce::254]:80", "100.100.100.200", "2852039166.:80"] {
        let Ok(image) = format!("{host}/team/agent:v1").parse() else { continue };
        match images.resolve(&image, PATIENCE).await.unwrap_err() {
            Failure::Final(e) => assert_eq!((e.code, e.field.as_deref()), (Code::InvalidArgument, Some("image"))),
            Failure::Unreachable(why) => panic!("{host}: {why}"),
        }
    }
}

#[tokio::test]
async fn blobs_with_a_wrong_digest_are_refused() {
    let made = made().await;
    let (digest, other) = (made.digest(), Digest::of(b"other"));
    let manifest = made.manifest.clone();
    let foreign = UntrustedRegistry::start(move |_, _| ok(&manifest)).await;
    told(foreign.pull(&format!("@{other}")).await, &format!("the manifest is {digest}, and should be {other}"));

    let manifest = made.manifest.clone();
    let foreign = UntrustedRegistry::start(move |_, _| {
        Reply::Whole(format!("200 OK\r\nDocker-Content-Digest: {other}"), manifest.clone())
    })
    .await;
    told(foreign.pull(":v1").await, &format!("the manifest is {digest}, and should be {other}"));

    let manifest = made.manifest.clone();
    let foreign = UntrustedRegistry::start(move |path, _| match path.contains("/manifests/") {
        true => ok(&manifest),
        false => ok(b"{}"),
    })
    .await;
    told(
        foreign.pull(":v1").await,
        "the configuration is sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
    );
}

#[tokio::test]
async fn a_token_goes_to_the_registry_that_it_is_for_and_to_no_other() {
    let made = Arc::new(made().await);
    let blobs = made.clone();
    let store = UntrustedRegistry::start(move |path, _| {
        let config = path.ends_with(&Digest::of(&blobs.config).to_string());
        ok(if config { &blobs.config } else { &blobs.layers[0].blob })
    })
    .await;
    let (at, manifest) = (store.host.clone(), made.manifest.clone());
    let registry = UntrustedRegistry::start(move |path, head| {
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let challenge = format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"http://{host}/token\"");
        match path {
            _ if path.starts_with("/token") => ok(br#"{"access_token": "given"}"#),
            _ if !head.contains("\r\nauthorization: bearer given\r\n") => Reply::Whole(challenge, Vec::new()),
            _ if path.contains("/manifests/") => ok(&manifest),
            _ => moved(&format!("http://{at}{path}")),
        }
    })
    .await;
    let (_dir, images) = images().await;
    let image = format!("{}/team/agent:v1", registry.host).parse().unwrap();
    assert_eq!(images.pull(&image, PATIENCE).await.unwrap().0.digest, made.digest());
    let asked = store.heads.lock().unwrap().clone();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|head| !head.contains("authorization")), "{asked:?}");
    let asked = registry.heads.lock().unwrap().clone();
    assert_eq!(asked.iter().filter(|head| head.starts_with("get /token")).count(), 1, "one token does for all");
}
