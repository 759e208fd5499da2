//! Uploads across restarts.

use super::*;

async fn length(r: &Registry, upload: &str) -> String {
    let status = r.call("GET", upload, &[], "").await;
    assert_eq!(status.status, 204, "{}", status.text());
    status.header("range").to_owned()
}

#[tokio::test]
async fn an_upload_survives_restarts() {
    let r = Registry::start().await;
    let bytes: Vec<u8> = (0..500_000u32).flat_map(u32::to_le_bytes).collect();
    let digest = Digest::of(&bytes);
    let upload = r.open_upload("team/app").await;
    let (untouched, given_up) = (r.open_upload("team/app").await, r.open_upload("other").await);
    assert_eq!(r.call("PATCH", &upload, &[("content-range", "0-699999")], bytes[..700_000].to_vec()).await.status, 202);
    assert_eq!(r.call("DELETE", &given_up, &[], "").await.status, 204);

    let r = r.killed_and_started_again().await;
    assert_eq!(length(&r, &upload).await, "0-699999");
    assert_eq!(length(&r, &untouched).await, "0-0");
    assert_eq!(r.call("GET", &given_up, &[], "").await.status, 404);
    let elsewhere = upload.replace("team/app", "team/b");
    assert_eq!(r.call("GET", &elsewhere, &[], "").await.status, 404, "it belongs to its repository");
    let stale = r.call("PATCH", &upload, &[("content-range", "0-699999")], bytes[..700_000].to_vec()).await;
    assert_eq!((stale.status.as_u16(), stale.header("range")), (416, "0-699999"));
    let more = bytes[700_000..1_500_000].to_vec();
    assert_eq!(r.call("PATCH", &upload, &[("content-range", "700000-1499999")], more).await.status, 202);

    let r = r.killed_and_started_again().await;
    let rest = bytes[1_500_000..].to_vec();
    let done = r.call("PUT", &format!("{upload}?digest={digest}"), &[], rest).await;
    assert_eq!(done.status, 201, "{}", done.text());
    assert_eq!(r.get(&format!("/v2/team/app/blobs/{digest}")).await.body, bytes);
    let empty = r.call("PUT", &format!("{untouched}?digest={}", Digest::of(b"")), &[], "").await;
    assert_eq!(empty.status, 201, "{}", empty.text());

    let r = r.killed_and_started_again().await;
    assert_eq!(r.call("GET", &upload, &[], "").await.status, 404, "it is a blob now");
    assert_eq!(r.get(&format!("/v2/team/app/blobs/{digest}")).await.body, bytes);
    assert_eq!(std::fs::read_dir(r.dir.path().join("registry/uploads")).unwrap().count(), 0);
}

#[tokio::test]
async fn bytes_that_were_lost_show_in_the_digest() {
    let r = Registry::start().await;
    let upload = r.open_upload("a").await;
    assert_eq!(r.call("PATCH", &upload, &[], "0123456789").await.status, 202);
    let id = upload.rsplit('/').next().unwrap();
    // As a power cut may leave a file that was not flushed.
    std::fs::write(r.dir.path().join("registry/uploads").join(id), "01234\0\0\0\0\0").unwrap();
    let r = r.killed_and_started_again().await;
    assert_eq!(length(&r, &upload).await, "0-9");
    let done = r.call("PUT", &format!("{upload}?digest={}", Digest::of(b"0123456789")), &[], "").await;
    assert_eq!(done.verdict(), (400, "DIGEST_INVALID".into()));
    assert_eq!(r.call("GET", &upload, &[], "").await.status, 404);
}

#[tokio::test]
async fn files_that_belong_to_no_upload_are_removed_at_start() {
    let r = Registry::start().await;
    let dir = r.dir.path().join("registry/uploads");
    let kept = r.open_upload("a").await;
    let id = uuid::Uuid::now_v7();
    for (name, content) in [
        ("of-an-earlier-version".to_owned(), "x"),
        (id.to_string(), "data without a note"),
        (format!("{}.repo", uuid::Uuid::now_v7()), "cut/off"),
        (format!("{}.repo", uuid::Uuid::now_v7()), "NOT A NAME\n"),
    ] {
        std::fs::write(dir.join(name), content).unwrap();
    }
    let r = r.killed_and_started_again().await;
    assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
    assert_eq!(length(&r, &kept).await, "0-0");
}
