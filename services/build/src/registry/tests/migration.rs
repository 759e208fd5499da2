//! A database of the first version, with what was pushed to it.

use super::*;
use hoistway_kit::db::{Migrations, execute_raw};

#[tokio::test]
async fn data_of_an_earlier_version_is_migrated() {
    // PostgreSQL came later.
    if hoistway_testing::uses_postgres() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (config, layer) = (Digest::of(b"{}"), Digest::of(b"content"));
    let manifest = image(&config, &layer, 7);
    let digest = Digest::of(&manifest);
    let entry = json!({"mediaType": OCI_MANIFEST, "digest": digest, "size": manifest.len()});
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [entry],
        "subject": entry, "artifactType": "application/x.set"});
    let index = index.to_string().into_bytes();
    {
        let first = Migrations { sqlite: &crate::migrations::ALL.sqlite[..2], postgres: &[] };
        let db = Db::open(&database(dir.path()).await, &first).await.unwrap();
        let run = async |text: &str, values: Vec<sea_orm::Value>| {
            execute_raw(db.write(), text, values).await.unwrap();
        };
        for (bytes, kind) in [(&manifest, OCI_MANIFEST), (&index, index_type)] {
            let values = vec![Digest::of(bytes).to_string().into(), kind.into(), bytes.clone().into()];
            run("INSERT INTO registry_manifests VALUES ('a', $1, $2, $3, 5)", values).await;
        }
        run("INSERT INTO registry_tags VALUES ('a', 'v1', $1, FALSE)", vec![digest.to_string().into()]).await;
        for blob in [config, layer] {
            run("INSERT INTO registry_blobs VALUES ('a', $1, 5)", vec![blob.to_string().into()]).await;
        }
        db.close().await;
        let blobs = BlobStore::open(&dir.path().join("registry"), Space::keep_free(0)).unwrap();
        blobs.put_bytes(b"{}").unwrap();
        blobs.put_bytes(b"content").unwrap();
    }
    let r = Registry::on(dir, RegistryConfig { min_free_bytes: 0, ..RegistryConfig::default() }, None).await;
    assert_eq!(r.get("/v2/a/manifests/v1").await.body, manifest);
    let referrers = r.get(&format!("/v2/a/referrers/{digest}?artifactType=application/x.set")).await.json();
    assert_eq!(referrers["manifests"][0]["digest"], Digest::of(&index).to_string());
    let swept = crate::registry::sweep(&r.db, &r.blobs, std::time::Duration::ZERO).await.unwrap();
    assert_eq!(swept.blobs, [], "all of it is referred to");
    for (path, status) in [
        (format!("/v2/a/blobs/{layer}"), 405),
        (format!("/v2/a/manifests/{digest}"), 405),
        (format!("/v2/a/manifests/{}", Digest::of(&index)), 202),
        (format!("/v2/a/manifests/{digest}"), 202),
        (format!("/v2/a/blobs/{layer}"), 202),
    ] {
        assert_eq!(r.call("DELETE", &path, &[], "").await.status, status, "{path}");
    }
}
