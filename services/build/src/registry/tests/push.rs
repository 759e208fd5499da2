//! Taking in: uploads in every form, manifests, and what is refused.

use super::*;
use crate::registry::{Manifest, NewTag, PutOutcome, RepoName};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_blob_comes_in_whole_or_piece_by_piece() {
    let r = Registry::start().await;
    // POST and PUT.
    let upload = r.open_upload("a/b").await;
    let digest = Digest::of(b"hello");
    let done = r.call("PUT", &format!("{upload}?digest={digest}"), &[], "hello").await;
    assert_eq!(done.status, 201);
    assert_eq!(done.header("location"), format!("/v2/a/b/blobs/{digest}"));
    assert_eq!(done.header("docker-content-digest"), digest.to_string());
    assert_eq!(r.get(done.header("location")).await.body, "hello");

    // POST, PATCH, PATCH, status, PUT without a body; the digest as clients escape it.
    let upload = r.open_upload("a/b").await;
    assert_eq!(r.call("GET", &upload, &[], "").await.header("range"), "0-0");
    let first = r.call("PATCH", &upload, &[("content-range", "0-4")], "12345").await;
    assert_eq!((first.status.as_u16(), first.header("range"), first.header("location")), (202, "0-4", &*upload));
    let second = r.call("PATCH", &upload, &[], "6789").await;
    assert_eq!((second.status.as_u16(), second.header("range")), (202, "0-8"));
    let status = r.call("GET", &upload, &[], "").await;
    assert_eq!((status.status.as_u16(), status.header("range")), (204, "0-8"));
    let digest = Digest::of(b"123456789");
    let escaped = digest.to_string().replace(':', "%3A");
    assert_eq!(r.call("PUT", &format!("{upload}?digest={escaped}"), &[], "").await.status, 201);
    assert_eq!(std::fs::read(r.blobs.path(&digest)).unwrap(), b"123456789");

    // POST alone; a large one, and an empty one.
    let large: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    for bytes in [large.as_slice(), b""] {
        let digest = r.push_blob("big", bytes).await;
        assert_eq!(r.get(&format!("/v2/big/blobs/{digest}")).await.body, bytes);
    }
    assert_eq!(std::fs::read_dir(r.dir.path().join("registry/uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn invalid_uploads_are_refused_with_the_reason() {
    let r = Registry::start().await;
    let digest = Digest::of(b"x");
    let upload = r.open_upload("a").await;
    r.call("PATCH", &upload, &[], "abc").await;
    let elsewhere = upload.replace("/v2/a/", "/v2/b/");
    let nobody = "/v2/a/blobs/uploads/0190a4a0-0000-7000-8000-000000000000";
    for (method, path, headers, status, code) in [
        ("POST", "/v2/a/blobs/uploads/?digest=sha256:00", &[][..], 400, "DIGEST_INVALID"),
        ("POST", &*format!("/v2/a/blobs/uploads/?digest={digest}"), &[], 400, "DIGEST_INVALID"),
        ("POST", "/v2/A/blobs/uploads/", &[], 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/uploads/", &[], 405, "UNSUPPORTED"),
        ("GET", nobody, &[], 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", "/v2/a/blobs/uploads/what", &[], 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", &elsewhere, &[], 404, "BLOB_UPLOAD_UNKNOWN"),
        ("PATCH", &upload, &[("content-range", "0-2")], 416, "BLOB_UPLOAD_INVALID"),
        ("PATCH", &upload, &[("content-range", "4-6")], 416, "BLOB_UPLOAD_INVALID"),
        ("PATCH", &upload, &[("content-range", "3-99")], 400, "SIZE_INVALID"),
        ("PATCH", &upload, &[("content-range", "x")], 400, "BLOB_UPLOAD_INVALID"),
        ("PUT", &upload, &[], 400, "DIGEST_INVALID"),
        ("POST", &upload, &[], 405, "UNSUPPORTED"),
    ] {
        let answer = r.call(method, path, headers, "abc").await;
        assert_eq!(answer.verdict(), (status, code.to_owned()), "{method} {path} {headers:?}");
        if status == 416 {
            assert_eq!(answer.header("range"), "0-2");
        }
    }
    // None of it disturbed the upload; a wrong digest ends it.
    assert_eq!(r.call("GET", &upload, &[], "").await.header("range"), "0-2");
    let wrong = r.call("PUT", &format!("{upload}?digest={digest}"), &[], "").await;
    assert_eq!(wrong.verdict(), (400, "DIGEST_INVALID".into()));
    assert_eq!(r.call("GET", &upload, &[], "").await.status, 404);
    assert!(!r.blobs.contains(&digest) && !r.blobs.contains(&Digest::of(b"abc")));
    // And so does giving it up.
    let upload = r.open_upload("a").await;
    assert_eq!(r.call("DELETE", &upload, &[], "").await.status, 204);
    assert_eq!(r.call("DELETE", &upload, &[], "").await.verdict(), (404, "BLOB_UPLOAD_UNKNOWN".into()));
}

/// Sends the head of a `PATCH` and the beginning of its body, and returns when the registry is reading the body.
async fn half_a_patch(r: &Registry, upload: &str, beginning: &str) -> TcpStream {
    let mut stream = TcpStream::connect(r.addr).await.unwrap();
    let head = format!(
        "PATCH {upload} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {KEY}\r\nContent-Length: 100\r\n\
         Expect: 100-continue\r\n\r\n",
        r.addr
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(beginning.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn an_upload_goes_on_where_a_client_that_went_away_left_it() {
    let r = Registry::start().await;
    let upload = r.open_upload("a").await;
    drop(half_a_patch(&r, &upload, "0123456789").await);
    let give_up = Instant::now() + Duration::from_secs(10);
    let status = loop {
        let answer = r.call("GET", &upload, &[], "").await;
        if answer.status == 204 {
            break answer;
        }
        assert_eq!(answer.verdict(), (429, "TOOMANYREQUESTS".into()));
        assert!(Instant::now() < give_up);
    };
    assert_eq!(status.header("range"), "0-9");
    let digest = Digest::of(b"0123456789abc");
    let done = r.call("PUT", &format!("{upload}?digest={digest}"), &[("content-range", "10-12")], "abc").await;
    assert_eq!(done.status, 201);
    assert_eq!(r.get(&format!("/v2/a/blobs/{digest}")).await.body, "0123456789abc");
}

#[tokio::test]
async fn an_upload_has_one_writer_and_the_registry_few() {
    let config = RegistryConfig { min_free_bytes: 0, max_concurrent_uploads: 1, ..RegistryConfig::default() };
    let r = Registry::with(config).await;
    let upload = r.open_upload("a").await;
    let mut first = half_a_patch(&r, &upload, "").await;
    for (method, path) in [
        ("GET", &*upload),
        ("DELETE", &upload),
        ("PATCH", &upload),
        ("POST", &format!("/v2/a/blobs/uploads/?digest={}", Digest::of(b""))),
    ] {
        let answer = r.call(method, path, &[], "").await;
        assert_eq!(answer.verdict(), (429, "TOOMANYREQUESTS".into()), "{method} {path}");
        assert_eq!(answer.header("retry-after"), "1");
    }
    first.write_all(&[b'x'; 100]).await.unwrap();
    let mut answer = [0; 12];
    first.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 202");
    assert_eq!(r.call("GET", &upload, &[], "").await.header("range"), "0-99");
}

#[tokio::test]
async fn upload_limits_are_enforced() {
    let small = RegistryConfig { min_free_bytes: 0, max_blob_bytes: 10, ..RegistryConfig::default() };
    let r = Registry::with(small).await;
    let upload = r.open_upload("a").await;
    let digest = Digest::of(b"0123456789a");
    let too_large = (413, "SIZE_INVALID".to_owned());
    let whole = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(r.call("POST", &whole, &[], "0123456789a").await.verdict(), too_large);
    assert_eq!(r.call("PATCH", &upload, &[], "0123456789").await.status, 202);
    assert_eq!(r.call("PATCH", &upload, &[], "a").await.verdict(), too_large);
    assert_eq!(r.call("GET", &upload, &[], "").await.status, 404, "it is over");
    let fat = vec![b' '; crate::registry::MAX_MANIFEST_BYTES + 1];
    assert_eq!(r.put_manifest("a", "v1", &fat).await.verdict(), too_large);

    let full = Registry::with(RegistryConfig { min_free_bytes: u64::MAX, ..RegistryConfig::default() }).await;
    for (method, path) in [("POST", "/v2/a/blobs/uploads/"), ("PUT", "/v2/a/manifests/v1")] {
        let answer = full.call(method, path, &[], "").await;
        assert_eq!(answer.verdict(), (507, "UNAVAILABLE".into()), "{method} {path}");
        assert!(answer.text().contains("nearly full"), "{}", answer.text());
    }
    // A call that frees space, or needs none, goes on.
    for (method, path, status) in [
        ("GET", "/v2/_catalog", 200),
        ("GET", "/v2/a/tags/list", 404),
        ("DELETE", "/v2/a/manifests/v1", 404),
        ("DELETE", &*format!("/v2/a/blobs/{digest}"), 404),
    ] {
        assert_eq!(full.call(method, path, &[], "").await.status, status, "{method} {path}");
    }
}

#[tokio::test]
async fn a_manifest_needs_everything_it_refers_to() {
    let r = Registry::start().await;
    let manifest = r.push_image("team/app", "v1", "layer one").await;
    let digest = Digest::of(&manifest);
    let by_digest = r.put_manifest("team/app", &digest.to_string(), &manifest).await;
    assert_eq!(by_digest.status, 201);
    assert_eq!(by_digest.header("location"), format!("/v2/team/app/manifests/{digest}"));
    assert_eq!(by_digest.header("docker-content-digest"), digest.to_string());

    let stranger = r.put_manifest("team/other", "v1", &manifest).await;
    assert_eq!(stranger.verdict(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(stranger.json()["errors"][0]["detail"]["digests"].as_array().unwrap().len(), 2);
    for (reference, body, code) in [
        (Digest::of(b"other").to_string(), manifest.clone(), "DIGEST_INVALID"),
        ("sha256:77".to_owned(), manifest.clone(), "DIGEST_INVALID"),
        (".v1".to_owned(), manifest.clone(), "MANIFEST_INVALID"),
        ("v1".to_owned(), b"{}".to_vec(), "MANIFEST_INVALID"),
        ("v1".to_owned(), b"not json".to_vec(), "MANIFEST_INVALID"),
    ] {
        let answer = r.put_manifest("team/app", &reference, &body).await;
        assert_eq!(answer.verdict(), (400, code.to_owned()), "{reference}");
    }

    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = |of: Digest| {
        let entry = json!({"mediaType": OCI_MANIFEST, "digest": of, "size": manifest.len()});
        json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [entry]}).to_string()
    };
    let path = "/v2/team/app/manifests/all";
    let put = async |body: String| r.call("PUT", path, &[("content-type", index_type)], body).await;
    assert_eq!(put(index(Digest::of(b"nobody"))).await.verdict(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(put(index(digest)).await.status, 201);
    assert_eq!(r.get(path).await.header("content-type"), index_type);
}

#[tokio::test]
async fn sizes_in_a_manifest_are_those_of_what_it_refers_to() {
    let r = Registry::start().await;
    let manifest = r.push_image("a", "v1", "content").await;
    let wrong = image(&Digest::of(b"{}"), &Digest::of(b"content"), 8);
    let answer = r.put_manifest("a", "v2", &wrong).await;
    assert_eq!(answer.verdict(), (400, "MANIFEST_INVALID".into()));
    assert_eq!(answer.json()["errors"][0]["detail"]["digests"], json!([Digest::of(b"content")]));
    let index_type = "application/vnd.oci.image.index.v1+json";
    let put = async |size: usize| {
        let entry = json!({"mediaType": OCI_MANIFEST, "digest": Digest::of(&manifest), "size": size});
        let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [entry]}).to_string();
        r.call("PUT", "/v2/a/manifests/all", &[("content-type", index_type)], index).await
    };
    assert_eq!(put(manifest.len() + 1).await.verdict(), (400, "MANIFEST_INVALID".into()));
    assert_eq!(put(manifest.len()).await.status, 201);
    assert_eq!(r.get("/v2/a/manifests/v2").await.status, 404);
}

#[tokio::test]
async fn a_blob_whose_file_was_lost_is_asked_for_again() {
    let r = Registry::start().await;
    let manifest = r.push_image("a", "v1", "content").await;
    let lost = Digest::of(b"content");
    std::fs::remove_file(r.blobs.path(&lost)).unwrap();
    let path = format!("/v2/a/blobs/{lost}");
    assert_eq!(r.call("HEAD", &path, &[], "").await.status, 404);
    assert_eq!(r.call("POST", &format!("/v2/b/blobs/uploads/?mount={lost}"), &[], "").await.status, 202);
    let again = r.put_manifest("a", "v1", &manifest).await;
    assert_eq!(again.verdict(), (400, "MANIFEST_BLOB_UNKNOWN".into()));
    assert_eq!(again.json()["errors"][0]["detail"]["digests"], json!([lost]));
    r.push_image("a", "v1", "content").await;
    assert_eq!(r.get(&path).await.body, "content");
}

#[tokio::test]
async fn an_agents_tag_is_never_moved() {
    let r = Registry::start().await;
    let repo: RepoName = "payment".parse().unwrap();
    let put = async |content: &str, tag: &str, immutable: bool| {
        let (config, layer) = (r.blobs.put_bytes(b"{}").unwrap(), r.blobs.put_bytes(content.as_bytes()).unwrap());
        let manifest = Manifest::parse(None, image(&config, &layer, content.len()).into()).unwrap();
        let txn = r.db.begin().await.unwrap();
        let tag = NewTag { tag: tag.parse().unwrap(), immutable };
        let outcome = store::publish_image(&txn, &repo, &manifest, &[], &tag).await.unwrap();
        txn.commit().await.unwrap();
        outcome
    };
    assert_eq!(put("one", "0123456789ab", true).await, PutOutcome::Stored);
    assert_eq!(put("one", "0123456789ab", true).await, PutOutcome::Stored, "again");
    assert_eq!(put("two", "0123456789ab", true).await, PutOutcome::TagTaken);
    let one = r.get("/v2/payment/manifests/0123456789ab").await;
    assert_eq!(one.status, 200);

    // From outside: another image is refused, the same one is no change, other tags move.
    let two = {
        let (config, layer) = (r.push_blob("payment", b"{}").await, r.push_blob("payment", b"two").await);
        image(&config, &layer, 3)
    };
    let moved = r.put_manifest("payment", "0123456789ab", &two).await;
    assert_eq!(moved.verdict(), (403, "DENIED".into()));
    assert!(moved.json()["errors"][0]["message"].as_str().unwrap().contains("never moved"));
    assert_eq!(r.put_manifest("payment", "0123456789ab", &one.body).await.status, 201);
    assert_eq!(r.put_manifest("payment", "0123456789ab", &two).await.status, 403, "still not");
    for manifest in [&one.body[..], &two] {
        assert_eq!(r.put_manifest("payment", "latest", manifest).await.status, 201);
        assert_eq!(r.get("/v2/payment/manifests/latest").await.body, manifest);
    }
    // A tag that somebody else holds is not taken by the build either; the build chooses a longer one.
    assert_eq!(put("one", "latest", true).await, PutOutcome::TagTaken);
    assert_eq!(put("two", "latest", true).await, PutOutcome::Stored);
    assert_eq!(r.put_manifest("payment", "latest", &one.body).await.status, 403);
}

#[tokio::test]
async fn forgotten_uploads_are_purged() {
    let r = Registry::start().await;
    let upload = r.open_upload("a").await;
    r.call("PATCH", &upload, &[], "abc").await;
    std::fs::write(r.dir.path().join("registry/staging/of-a-request"), "x").unwrap();
    assert_eq!(r.state.purge_uploads(Duration::from_secs(3600)).await.unwrap(), 0);
    assert_eq!(r.call("GET", &upload, &[], "").await.status, 204);
    assert_eq!(r.state.purge_uploads(Duration::ZERO).await.unwrap(), 2);
    assert_eq!(r.call("GET", &upload, &[], "").await.status, 404);
    assert_eq!(std::fs::read_dir(r.dir.path().join("registry/uploads")).unwrap().count(), 0);
}
