//! Giving out: blobs, manifests, tags, and which repository may read what.

use super::{super::MAX_READS, *};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn a_blob_is_read_whole_in_part_or_not_at_all() {
    let r = Registry::start().await;
    let digest = r.push_blob("a/b", b"0123456789").await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let whole = r.get(&path).await;
    assert_eq!((whole.status.as_u16(), &whole.body[..]), (200, &b"0123456789"[..]));
    let head = r.call("HEAD", &path, &[], "").await;
    for answer in [&whole, &head] {
        assert_eq!(answer.header("content-length"), "10");
        assert_eq!(answer.header("content-type"), "application/octet-stream");
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("docker-distribution-api-version"), "registry/2.0");
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
    }
    assert!(head.body.is_empty());
    let part = r.call("GET", &path, &[("range", "bytes=3-5")], "").await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &b"345"[..]));
    assert_eq!((part.header("content-range"), part.header("content-length")), ("bytes 3-5/10", "3"));
    let beyond = r.call("GET", &path, &[("range", "bytes=10-")], "").await;
    assert_eq!((beyond.status.as_u16(), beyond.header("content-range")), (416, "bytes */10"));
}

#[tokio::test]
async fn missing_content_is_reported_with_specified_error_codes() {
    let r = Registry::start().await;
    r.push_image("a", "v1", "content").await;
    let digest = Digest::of(b"nobody");
    for (method, path, status, code) in [
        ("GET", "/v2/a/manifests/v2", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/manifests/.not-a-tag", 404, "MANIFEST_UNKNOWN"),
        ("GET", &*format!("/v2/a/manifests/{digest}"), 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/a/manifests/sha256:77", 400, "DIGEST_INVALID"),
        ("GET", "/v2/b/manifests/v1", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/b/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", &*format!("/v2/a/blobs/{digest}"), 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/a/blobs/sha512:77", 400, "UNSUPPORTED"),
        ("GET", "/v2/a/manifests/md5:77", 400, "DIGEST_INVALID"),
        ("GET", "/v2/UPPER/manifests/v1", 400, "NAME_INVALID"),
        ("GET", "/v2/a/%2e%2e/manifests/v1", 400, "NAME_INVALID"),
        ("GET", "/v2/a/%ff/manifests/v1", 400, "NAME_INVALID"),
        ("GET", "/v2/a/tags/list?n=x", 400, "UNSUPPORTED"),
        ("GET", "/v2/_catalog?n=-1", 400, "UNSUPPORTED"),
        ("GET", "/v2/a/referrers/sha256:77", 400, "DIGEST_INVALID"),
        ("GET", "/v2/nothing", 404, "UNSUPPORTED"),
        ("GET", "/", 404, "UNSUPPORTED"),
        ("DELETE", "/v2/a/tags/list", 405, "UNSUPPORTED"),
        ("DELETE", "/v2/a/manifests/v2", 404, "MANIFEST_UNKNOWN"),
        ("DELETE", "/v2/b/manifests/v2", 404, "NAME_UNKNOWN"),
        ("DELETE", &*format!("/v2/a/blobs/{digest}"), 404, "BLOB_UNKNOWN"),
        ("POST", "/v2/a/tags/list", 405, "UNSUPPORTED"),
        ("PUT", "/v2/", 405, "UNSUPPORTED"),
    ] {
        let answer = r.call(method, path, &[], "").await;
        assert_eq!(answer.verdict(), (status, code.to_owned()), "{method} {path}");
        assert_eq!(answer.header("content-type"), "application/json", "{method} {path}");
        assert_eq!(answer.header("allow").is_empty(), status != 405, "{method} {path}");
    }
    let head = r.call("HEAD", "/v2/a/manifests/v2", &[], "").await;
    assert_eq!((head.status.as_u16(), head.body.len()), (404, 0));
}

#[tokio::test]
async fn a_manifest_comes_back_byte_for_byte() {
    let r = Registry::start().await;
    let manifest = r.push_image("a/b/c", "v1.0_x", "content").await;
    let digest = Digest::of(&manifest);
    for reference in ["v1.0_x".to_owned(), digest.to_string(), digest.to_string().replace(':', "%3A")] {
        let path = format!("/v2/a/b/c/manifests/{reference}");
        let got = r.get(&path).await;
        assert_eq!((got.status.as_u16(), &got.body[..]), (200, &manifest[..]));
        let head = r.call("HEAD", &path, &[], "").await;
        for answer in [got, head] {
            assert_eq!(answer.header("content-type"), OCI_MANIFEST);
            assert_eq!(answer.header("content-length"), manifest.len().to_string());
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        }
    }
}

#[tokio::test]
async fn a_blob_is_readable_where_it_was_pushed_or_mounted() {
    let r = Registry::start().await;
    let digest = r.push_blob("a", b"shared").await;
    let in_b = format!("/v2/b/blobs/{digest}");
    assert_eq!(r.get(&in_b).await.verdict(), (404, "BLOB_UNKNOWN".into()));
    assert_eq!(r.call("HEAD", &in_b, &[], "").await.status, 404);
    // A blob that the named repository does not have becomes an ordinary upload.
    for from in ["&from=c", "&from=B%20AD"] {
        let mounted = r.call("POST", &format!("/v2/b/blobs/uploads/?mount={digest}{from}"), &[], "").await;
        assert_eq!(mounted.status, 202, "{from}");
        assert!(mounted.header("location").starts_with("/v2/b/blobs/uploads/"));
    }
    let mounted = r.call("POST", &format!("/v2/b/blobs/uploads/?mount={digest}&from=a"), &[], "").await;
    assert_eq!((mounted.status.as_u16(), mounted.header("location")), (201, &*in_b));
    assert_eq!(r.get(&in_b).await.body, "shared");
    // Without a name, any repository will do, if there is one.
    let mounted = r.call("POST", &format!("/v2/d/blobs/uploads/?mount={digest}"), &[], "").await;
    assert_eq!((mounted.status.as_u16(), mounted.header("location")), (201, &*format!("/v2/d/blobs/{digest}")));
    let nowhere = r.call("POST", &format!("/v2/d/blobs/uploads/?mount={}", Digest::of(b"x")), &[], "").await;
    assert_eq!(nowhere.status, 202);
}

#[tokio::test]
async fn tags_are_listed_in_pages() {
    let r = Registry::start().await;
    let manifest = r.push_image("a", "b", "content").await;
    for tag in ["c", "A", "a"] {
        assert_eq!(r.put_manifest("a", tag, &manifest).await.status, 201);
    }
    let all = r.get("/v2/a/tags/list").await;
    assert_eq!(all.json(), json!({"name": "a", "tags": ["A", "a", "b", "c"]}));
    assert_eq!(all.header("link"), "");
    let first = r.get("/v2/a/tags/list?n=2").await;
    assert_eq!(first.json()["tags"], json!(["A", "a"]));
    assert_eq!(first.header("link"), "</v2/a/tags/list?n=2&last=a>; rel=\"next\"");
    let second = r.get("/v2/a/tags/list?n=2&last=a").await;
    assert_eq!((second.json()["tags"].clone(), second.header("link")), (json!(["b", "c"]), ""));
    assert_eq!(r.get("/v2/a/tags/list?n=0").await.json()["tags"], json!([]));
    assert_eq!(r.get("/v2/a/tags/list?last=zzz").await.json()["tags"], json!([]));
}

#[tokio::test]
async fn downloads_that_nobody_reads_do_not_keep_services_from_theirs() {
    let r = Registry::start().await;
    let bytes = vec![7; 16 << 20];
    let path = format!("/v2/a/blobs/{}", r.push_blob("a", &bytes).await);
    let mut unread = Vec::new();
    for _ in 0..MAX_READS {
        let mut stream = TcpStream::connect(r.addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'H');
        unread.push(stream);
    }
    assert_eq!(r.get(&path).await.verdict(), (429, "TOOMANYREQUESTS".into()));
    let bearer = format!("Bearer {TOKEN}");
    assert!(r.raw("GET", &path, &[("authorization", &bearer)], "").await.body == bytes);
}
