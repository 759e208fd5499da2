//! Garbage collection: what goes, what stays, and that neither depends on who comes first.

use super::*;
use crate::registry::{
    Manifest, NewTag, Reference, RepoName, Swept,
    store::{Retention, collect_images, pin_images, publish_image, replace_pins},
    sweep,
};
use hoistway_model::{Code, image::StoredImage};
use std::{
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};
use tokio::sync::RwLock;

const HOUR: Duration = Duration::from_secs(3600);
/// Everything is old enough.
const ALL: Retention = Retention { built_before: i64::MAX, untagged_before: i64::MAX };

impl Registry {
    async fn sweep(&self, grace: Duration) -> Swept {
        sweep(&self.db, &self.blobs, grace).await.unwrap()
    }

    /// Makes everything that is there two hours old.
    async fn wait_two_hours(&self) {
        use sea_orm::ConnectionTrait;
        let ago = "UPDATE registry_blobs SET linked_at = linked_at - 7200000;
            UPDATE registry_manifests SET used_at = used_at - 7200000;
            UPDATE registry_pins SET pinned_at = pinned_at - 7200000;";
        self.db.write().execute_unprepared(ago).await.unwrap();
        let two_hours_ago = SystemTime::now() - 2 * HOUR;
        for entry in std::fs::read_dir(self.dir.path().join("registry/blobs/sha256")).unwrap() {
            File::open(entry.unwrap().path()).unwrap().set_modified(two_hours_ago).unwrap();
        }
    }

    /// Publishes an image as a build does; its digest.
    async fn build(&self, repo: &str, tag: &str, content: &str) -> Digest {
        let _lease = self.blobs.lease();
        let (config, layer) = (self.blobs.put_bytes(b"{}").unwrap(), self.blobs.put_bytes(content.as_bytes()).unwrap());
        let manifest = Manifest::parse(None, image(&config, &layer, content.len()).into()).unwrap();
        let txn = self.db.begin().await.unwrap();
        let tag = NewTag { tag: tag.parse().unwrap(), immutable: true };
        publish_image(&txn, &repo.parse().unwrap(), &manifest, &[], &tag).await.unwrap();
        txn.commit().await.unwrap();
        manifest.digest()
    }

    /// Removes images that are not in use, as often as there are any.
    async fn collect(&self, in_use: &[StoredImage], retention: Retention) -> Vec<StoredImage> {
        let mut all = Vec::new();
        loop {
            let txn = self.db.begin().await.unwrap();
            replace_pins(&txn, in_use, retention.built_before).await.unwrap();
            let gone = collect_images(&txn, retention, None).await.unwrap();
            txn.commit().await.unwrap();
            if gone.is_empty() {
                all.sort();
                return all;
            }
            all.extend(gone);
        }
    }

    async fn head(&self, path: &str) -> u16 {
        self.call("HEAD", path, &[], "").await.status.as_u16()
    }
}

fn stored(repository: &str, digest: Digest) -> StoredImage {
    StoredImage { repository: repository.into(), digest }
}

#[tokio::test]
async fn unreferenced_blobs_are_removed_after_the_grace_time() {
    let r = Registry::start().await;
    r.push_image("a", "v1", "kept").await;
    let orphan = r.push_blob("a", b"orphan").await;
    let stray = r.blobs.put_bytes(b"of a build that failed").unwrap();
    assert_eq!(r.sweep(HOUR).await.blobs, [], "its manifest may still come");
    r.wait_two_hours().await;
    let mut gone = r.sweep(HOUR).await;
    gone.blobs.sort();
    let mut expected = [orphan, stray];
    expected.sort();
    assert_eq!((gone.blobs.as_slice(), gone.bytes), (&expected[..], 6 + 22));
    assert_eq!(r.get(&format!("/v2/a/blobs/{orphan}")).await.verdict(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(r.get(&format!("/v2/a/blobs/{}", Digest::of(b"kept"))).await.body, "kept");
    // When its manifest goes, so does the rest.
    let manifest = Digest::of(&r.get("/v2/a/manifests/v1").await.body);
    assert_eq!(r.call("DELETE", &format!("/v2/a/manifests/{manifest}"), &[], "").await.status, 202);
    r.wait_two_hours().await;
    assert_eq!(r.sweep(HOUR).await.blobs.len(), 2);
    assert_eq!(r.get("/v2/a/tags/list").await.status, 404, "nothing is left of the repository");
}

#[tokio::test]
async fn recently_used_blobs_are_kept() {
    let r = Registry::start().await;
    let [headed, mounted, pushed, nothing] =
        ["headed", "mounted", "pushed", "nothing"].map(|text| (Digest::of(text.as_bytes()), text));
    for (_, text) in [headed, mounted, pushed, nothing] {
        r.push_blob("old", text.as_bytes()).await;
    }
    r.wait_two_hours().await;
    assert_eq!(r.head(&format!("/v2/old/blobs/{}", headed.0)).await, 200);
    let mount = format!("/v2/new/blobs/uploads/?mount={}&from=old", mounted.0);
    assert_eq!(r.call("POST", &mount, &[], "").await.status, 201);
    r.push_blob("new", pushed.1.as_bytes()).await;
    assert_eq!(r.sweep(HOUR).await.blobs, [nothing.0]);
    for (repo, (layer, text)) in [("old", headed), ("new", mounted), ("new", pushed)] {
        let config = r.push_blob(repo, b"{}").await;
        let put = r.put_manifest(repo, "late", &image(&config, &layer, text.len())).await;
        assert_eq!(put.status, 201, "{text}: {}", put.text());
        assert_eq!(r.get(&format!("/v2/{repo}/blobs/{layer}")).await.body, text);
    }
}

#[tokio::test]
async fn images_stay_while_agents_use_them() {
    let r = Registry::start().await;
    let (used, unused) =
        (r.build("agent", "111111111111", "used").await, r.build("agent", "222222222222", "old").await);
    let retagged = r.build("agent", "333333333333", "also tagged by somebody").await;
    let manifest = r.get("/v2/agent/manifests/333333333333").await.body;
    assert_eq!(r.put_manifest("agent", "release", &manifest).await.status, 201);
    let pushed = Digest::of(&r.push_image("team/tool", "v1", "pushed").await);
    let untagged = Digest::of(&r.push_image("team/tool", "v2", "untagged").await);
    assert_eq!(r.call("DELETE", "/v2/team/tool/manifests/v2", &[], "").await.status, 202);
    let digest_only = Digest::of(&r.push_image("team/tool", "v3", "used by digest").await);
    assert_eq!(r.call("DELETE", "/v2/team/tool/manifests/v3", &[], "").await.status, 202);
    let in_use = [stored("agent", used), stored("team/tool", digest_only)];

    let hour_ago = hoistway_kit::time::now_ms() - 3_600_000;
    let retention = Retention { built_before: hour_ago, untagged_before: hour_ago };
    assert_eq!(r.collect(&in_use, retention).await, [], "all of it is new");
    r.wait_two_hours().await;
    let month = Retention { built_before: hour_ago, untagged_before: 0 };
    assert_eq!(r.collect(&in_use, month).await, [stored("agent", unused)], "what has no tag stays longer");
    assert_eq!(r.collect(&in_use, retention).await, [stored("team/tool", untagged)]);
    for path in [
        format!("agent/manifests/{used}"),
        format!("agent/manifests/{retagged}"),
        format!("team/tool/manifests/{pushed}"),
        format!("team/tool/manifests/{digest_only}"),
    ] {
        assert_eq!(r.head(&format!("/v2/{path}")).await, 200, "{path}");
    }
    assert_eq!(r.get("/v2/agent/manifests/222222222222").await.verdict(), (404, "MANIFEST_UNKNOWN".into()));
    // The agent is gone: so is its image, and then its blobs.
    let far = Retention { built_before: i64::MAX, untagged_before: 0 };
    assert_eq!(r.collect(&[], far).await, [stored("agent", used)]);
    r.wait_two_hours().await;
    let swept = r.sweep(HOUR).await.blobs;
    assert!(swept.contains(&Digest::of(b"used")) && swept.contains(&Digest::of(b"old")));
    assert!(!swept.contains(&Digest::of(b"also tagged by somebody")));
}

#[tokio::test]
async fn asking_for_an_image_keeps_it() {
    let r = Registry::start().await;
    let image = r.build("agent", "111111111111", "content").await;
    r.wait_two_hours().await;
    let hour_ago = hoistway_kit::time::now_ms() - 3_600_000;
    assert_eq!(r.get("/v2/agent/manifests/111111111111").await.status, 200);
    assert_eq!(r.collect(&[], Retention { built_before: hour_ago, ..ALL }).await, []);
    r.wait_two_hours().await;
    assert_eq!(r.build("agent", "111111111111", "content").await, image, "and so does building it again");
    assert_eq!(r.collect(&[], Retention { built_before: hour_ago, ..ALL }).await, []);
    r.wait_two_hours().await;
    assert_eq!(r.collect(&[], Retention { built_before: hour_ago, ..ALL }).await, [stored("agent", image)]);
}

#[tokio::test]
async fn listed_and_signed_manifests_are_kept() {
    let r = Registry::start().await;
    let manifest = r.push_image("a", "child", "content").await;
    let child = Digest::of(&manifest);
    let entry = json!({"mediaType": OCI_MANIFEST, "digest": child, "size": manifest.len()});
    let media_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [entry]}).to_string();
    let signature = json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [],
        "subject": {"mediaType": media_type, "digest": Digest::of(index.as_bytes()), "size": 1}})
    .to_string();
    let signed = Digest::of(signature.as_bytes());
    for (reference, body) in [("all".to_owned(), &index), (signed.to_string(), &signature)] {
        let path = format!("/v2/a/manifests/{reference}");
        let put = r.call("PUT", &path, &[("content-type", media_type)], body.clone()).await;
        assert_eq!(put.status, 201);
    }
    assert_eq!(r.call("DELETE", "/v2/a/manifests/child", &[], "").await.status, 202);
    assert_eq!(r.collect(&[], ALL).await, []);
    assert_eq!(r.call("DELETE", "/v2/a/manifests/all", &[], "").await.status, 202);
    let mut all = [stored("a", child), stored("a", Digest::of(index.as_bytes())), stored("a", signed)];
    all.sort();
    assert_eq!(r.collect(&[], ALL).await, all, "one after the other");
}

#[tokio::test]
async fn images_in_use_cannot_be_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let base = Some(("base/python".parse::<RepoName>().unwrap(), Reference::Tag("1".parse().unwrap())));
    let config = RegistryConfig { min_free_bytes: 0, ..RegistryConfig::default() };
    let r = Registry::on(dir, config, base).await;
    let built = r.build("agent", "111111111111", "content").await;
    let base = Digest::of(&r.push_image("base/python", "1", "base").await);
    let pushed = Digest::of(&r.push_image("team/tool", "v1", "tool").await);
    let txn = r.db.begin().await.unwrap();
    pin_images(&txn, &[stored("team/tool", pushed)]).await.unwrap();
    txn.commit().await.unwrap();
    for (path, why) in [
        ("agent/manifests/111111111111".to_owned(), "is an agent's image"),
        (format!("agent/manifests/{built}"), "it is the agent's image"),
        (format!("agent/blobs/{}", Digest::of(b"content")), "needs it"),
        ("base/python/manifests/1".to_owned(), "is the base image of builds"),
        (format!("base/python/manifests/{base}"), "it is the base image of builds"),
        (format!("team/tool/manifests/{pushed}"), "an agent uses it"),
    ] {
        let refused = r.call("DELETE", &format!("/v2/{path}"), &[], "").await;
        assert_eq!(refused.verdict(), (405, "DENIED".into()), "{path}");
        assert!(refused.text().contains(why), "{path}: {}", refused.text());
        assert_eq!(r.head(&format!("/v2/{path}")).await, 200, "{path}");
    }
    // Its tag is not what the agent uses. When no agent uses it any more, it can go.
    assert_eq!(r.call("DELETE", "/v2/team/tool/manifests/v1", &[], "").await.status, 202);
    let txn = r.db.begin().await.unwrap();
    replace_pins(&txn, &[], 0).await.unwrap();
    txn.commit().await.unwrap();
    let path = format!("/v2/team/tool/manifests/{pushed}");
    assert_eq!(r.call("DELETE", &path, &[], "").await.status, 405, "a list that is older than the pin says nothing");
    let txn = r.db.begin().await.unwrap();
    replace_pins(&txn, &[], i64::MAX).await.unwrap();
    txn.commit().await.unwrap();
    assert_eq!(r.call("DELETE", &path, &[], "").await.status, 202);
    let txn = r.db.begin().await.unwrap();
    let gone = pin_images(&txn, &[stored("team/tool", pushed)]).await.unwrap_err();
    assert_eq!(gone.code, Code::ImageNotFound);
}

/// Pushes an image as a client does, from the beginning again when something of it is gone; its manifest.
/// One that was overtaken often waits until no sweep is under way and none begins, so that every push ends.
async fn push(r: &Registry, calm: &RwLock<()>, repo: &str, content: &str) -> Vec<u8> {
    let (config, layer) = (Digest::of(b"{}"), Digest::of(content.as_bytes()));
    let manifest = image(&config, &layer, content.len());
    for attempt in 0..1_000 {
        let _calm = if attempt < 100 { None } else { Some(calm.read().await) };
        for (digest, bytes) in [(config, "{}"), (layer, content)] {
            if r.head(&format!("/v2/{repo}/blobs/{digest}")).await == 200 {
                continue;
            }
            let mount = r.call("POST", &format!("/v2/{repo}/blobs/uploads/?mount={digest}"), &[], "").await;
            if mount.status == 202 {
                let put = format!("{}?digest={digest}", mount.header("location"));
                assert_eq!(r.call("PUT", &put, &[], bytes.to_owned()).await.status, 201);
            }
        }
        let put = r.put_manifest(repo, "latest", &manifest).await;
        if put.status == 201 {
            return manifest;
        }
        assert_eq!(put.verdict(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    }
    panic!("garbage collection was quicker a thousand times");
}

/// The hardest case: no grace time at all, so that everything without a manifest is garbage at once, and blobs that are
/// garbage now and needed in the next moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_manifest_that_was_accepted_is_whole_whatever_is_collected_meanwhile() {
    let config = RegistryConfig { min_free_bytes: 0, grace_seconds: 0, ..RegistryConfig::default() };
    let r = Arc::new(Registry::on(tempfile::tempdir().unwrap(), config, None).await);
    let (done, calm) = (Arc::new(AtomicBool::new(false)), Arc::new(RwLock::new(())));
    let sweeping = {
        let (r, done, calm) = (r.clone(), done.clone(), calm.clone());
        tokio::spawn(async move {
            let (mut sweeps, mut blobs) = (0, 0);
            while !done.load(Ordering::Relaxed) {
                let _turn = calm.write().await;
                blobs += r.sweep(Duration::ZERO).await.blobs.len();
                sweeps += 1;
            }
            (sweeps, blobs)
        })
    };
    let pushing: Vec<_> = (0..4)
        .map(|pusher: usize| {
            let (r, calm) = (r.clone(), calm.clone());
            tokio::spawn(async move {
                for round in 0..25 {
                    // Contents that all pushers and builds share, each in a repository of its own or a shared one.
                    let content = format!("content {}", round % 5);
                    let repo = if round % 2 == 0 { "shared".to_owned() } else { format!("own{pusher}") };
                    push(&r, &calm, &repo, &content).await;
                    if round % 5 < 4 {
                        // A deleted blob is garbage in the next moment; somebody else may have deleted it before.
                        let digest =
                            Digest::of(&image(&Digest::of(b"{}"), &Digest::of(content.as_bytes()), content.len()));
                        let gone = r.call("DELETE", &format!("/v2/{repo}/manifests/{digest}"), &[], "").await;
                        assert!(matches!(gone.status.as_u16(), 202 | 404), "{}", gone.text());
                    }
                }
            })
        })
        .collect();
    let building = {
        let r = r.clone();
        tokio::spawn(async move {
            for round in 0..40 {
                let content = format!("content {}", round % 5);
                let digest = r.build("agent", &format!("tag{}", round % 5), &content).await;
                assert_eq!(r.get(&format!("/v2/agent/manifests/{digest}")).await.status, 200);
                assert_eq!(r.get(&format!("/v2/agent/blobs/{}", Digest::of(content.as_bytes()))).await.body, content);
                if round % 5 < 3 {
                    r.collect(&[], ALL).await;
                }
            }
        })
    };
    for task in pushing {
        task.await.unwrap();
    }
    building.await.unwrap();
    done.store(true, Ordering::Relaxed);
    let (sweeps, blobs) = sweeping.await.unwrap();
    assert!(sweeps > 0 && blobs > 0, "{sweeps} sweeps removed {blobs} blobs");
    r.sweep(Duration::ZERO).await;

    let mut images = 0;
    for repo in r.get("/v2/_catalog").await.json()["repositories"].as_array().unwrap() {
        let repo = repo.as_str().unwrap();
        for tag in r.get(&format!("/v2/{repo}/tags/list")).await.json()["tags"].as_array().unwrap() {
            let manifest = r.get(&format!("/v2/{repo}/manifests/{}", tag.as_str().unwrap())).await;
            assert_eq!(manifest.status, 200, "{repo}:{tag}");
            for blob in Manifest::parse(None, manifest.body).unwrap().blobs() {
                let got = r.get(&format!("/v2/{repo}/blobs/{blob}")).await;
                assert_eq!(Digest::of(&got.body), *blob, "{repo}:{tag}: {}", got.text());
            }
            images += 1;
        }
    }
    assert!(images > 0);
}
