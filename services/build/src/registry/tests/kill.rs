//! A registry in a process of its own that is killed in the middle of everything: what it has said to be stored is
//! there, whole, when it is back.

use super::*;
use crate::registry::{Manifest, sweep};
use std::{
    process::Stdio,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};

/// Tells the process below where to work.
const DIR: &str = "HOISTWAY_TEST_REGISTRY_DIR";

/// Not a test: the process that is killed. It removes garbage all the time, without any grace.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "it is what the test below starts and kills"]
async fn registry_to_be_killed() {
    let Some(dir) = std::env::var_os(DIR) else { return };
    let config = RegistryConfig { min_free_bytes: 0, grace_seconds: 0, ..RegistryConfig::default() };
    let r = Registry::on(PathBuf::from(dir), config, None).await;
    println!("\nlistening on {}", r.addr);
    // The pause lets pushes through: a sweep takes everything that has no manifest yet.
    let mut every = tokio::time::interval(Duration::from_millis(15));
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        sweep(&r.db, &r.blobs, Duration::ZERO).await.unwrap();
    }
}

async fn spawn(dir: &Path) -> (Child, Peer) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "registry::tests::kill::registry_to_be_killed", "--ignored", "--nocapture"])
        .env(DIR, dir)
        .envs(hoistway_testing::shared_databases())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    while let Some(line) = lines.next_line().await.unwrap() {
        if let Some(addr) = line.strip_prefix("listening on ") {
            let addr = addr.parse().unwrap();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (child, Peer { addr });
        }
    }
    panic!("the registry did not start");
}

/// One request; nothing when the registry is gone.
async fn ask(peer: &Peer, method: &str, path: &str, headers: &[(&str, &str)], body: Vec<u8>) -> Option<Answer> {
    let bearer = format!("Bearer {KEY}");
    let headers = [&[("authorization", bearer.as_str())], headers].concat();
    peer.try_raw(method, path, &headers, body.into()).await.ok()
}

/// Pushes an image; whether it was accepted, or nothing when the registry is gone.
async fn push(peer: &Peer, repo: &str, tag: &str, content: &str) -> Option<bool> {
    let (config, layer) = (Digest::of(b"{}"), Digest::of(content.as_bytes()));
    for (digest, bytes) in [(config, "{}"), (layer, content)] {
        let path = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        ask(peer, "POST", &path, &[], bytes.into()).await?;
    }
    let path = format!("/v2/{repo}/manifests/{tag}");
    let manifest = image(&config, &layer, content.len());
    let put = ask(peer, "PUT", &path, &[("content-type", OCI_MANIFEST)], manifest).await?;
    Some(put.status == 201)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_killed_loses_nothing_that_it_accepted() {
    const ROUNDS: usize = 6;
    let dir = tempfile::tempdir().unwrap();
    let accepted: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let whole: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let (mut child, mut peer) = spawn(dir.path()).await;
    let upload = peer.open_upload("resumed").await;
    for round in 0..ROUNDS {
        // An upload goes on where the process before was killed.
        let at = peer.call("GET", &upload, &[], "").await;
        assert_eq!(at.status, 204, "{}", at.text());
        let last: usize = at.header("range").strip_prefix("0-").unwrap().parse().unwrap();
        let have = if last == 0 { 0 } else { last + 1 };
        let want = whole.len() * (round + 1) / (ROUNDS + 1);
        let range = format!("{have}-{}", want - 1);
        let piece = whole[have..want].to_vec();
        assert_eq!(peer.call("PATCH", &upload, &[("content-range", &range)], piece).await.status, 202);

        let pushed = Arc::new(AtomicUsize::new(0));
        let enough = Arc::new(tokio::sync::Notify::new());
        let pushing: Vec<_> = (0..3)
            .map(|pusher| {
                let (accepted, pushed, enough) = (accepted.clone(), pushed.clone(), enough.clone());
                tokio::spawn(async move {
                    for n in 0.. {
                        let (repo, tag) = (format!("repo{}", n % 2), format!("r{round}p{pusher}n{n}"));
                        let garbage = n % 3 == 0;
                        let content = if garbage { format!("garbage {tag}") } else { format!("content {}", n % 7) };
                        match push(&peer, &repo, &tag, &content).await {
                            Some(true) if garbage => {
                                let manifest =
                                    image(&Digest::of(b"{}"), &Digest::of(content.as_bytes()), content.len());
                                let path = format!("/v2/{repo}/manifests/{}", Digest::of(&manifest));
                                ask(&peer, "DELETE", &path, &[], Vec::new()).await;
                            }
                            Some(true) => accepted.lock().unwrap().push((repo, tag)),
                            // A sweep came in between.
                            Some(false) => continue,
                            None => return,
                        }
                        if pushed.fetch_add(1, Ordering::Relaxed) == 10 + round * 7 {
                            enough.notify_one();
                        }
                    }
                })
            })
            .collect();
        // A body is under way as well.
        let mut stream = TcpStream::connect(peer.addr).await.unwrap();
        let head = format!(
            "PATCH {upload} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 9999999\r\n\r\n",
            peer.addr
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&whole[want..want + 5_000]).await.unwrap();
        enough.notified().await;
        child.kill().await.unwrap();
        for task in pushing {
            task.await.unwrap();
        }
        (child, peer) = spawn(dir.path()).await;
        let so_far = accepted.lock().unwrap().clone();
        for (repo, tag) in so_far {
            let manifest = peer.get(&format!("/v2/{repo}/manifests/{tag}")).await;
            assert_eq!(manifest.status, 200, "{repo}:{tag} in round {round}: {}", manifest.text());
            for blob in Manifest::parse(None, manifest.body).unwrap().blobs() {
                let got = peer.get(&format!("/v2/{repo}/blobs/{blob}")).await;
                assert_eq!(Digest::of(&got.body), *blob, "{repo}:{tag} in round {round}: {}", got.text());
            }
        }
    }
    assert!(accepted.lock().unwrap().len() > ROUNDS);
    let at = peer.call("GET", &upload, &[], "").await;
    let have = at.header("range").strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
    let digest = Digest::of(&whole);
    let done = peer.call("PUT", &format!("{upload}?digest={digest}"), &[], whole[have..].to_vec()).await;
    assert_eq!(done.status, 201, "{}", done.text());
    child.kill().await.unwrap();
}
