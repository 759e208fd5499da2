//! The referrers of images that a build service makes: that they are there, once, and for as long as the image.
#![allow(clippy::unwrap_used)]

use super::{SBOM, STATEMENT};
use crate::{
    python::{Indexes, Interpreter},
    registry::{
        Manifest, NewTag, OCI_MANIFEST, Reference, RegistryConfig,
        store::{Deletion, delete_manifest, find_manifest, link_blobs, list_referrers, put_manifest},
    },
    tests::{Index, PASSWORD, SPELT, Service, request, with_uv},
};
use hoistway_model::{
    BuildService, Digest, Operation,
    build::{BuildRequest, BuildSource, BuiltImage},
    image::StoredImage,
};
use sea_orm::ConnectionTrait;
use serde_json::{Value, json};

/// A referrer as the registry lists it.
struct Listed {
    digest: Digest,
    kind: String,
    document: Digest,
}

impl Service {
    /// The referrers of an image, by their artifact type.
    async fn referrers(&self, image: &BuiltImage) -> Vec<Listed> {
        let repository = image.repository.parse().unwrap();
        let found = list_referrers(self.store.db().read(), &repository, &image.digest, None, None, 100).await.unwrap();
        let mut listed: Vec<Listed> = found
            .into_iter()
            .map(|referrer| {
                let manifest: Value = serde_json::from_slice(&referrer.bytes).unwrap();
                let document = manifest["layers"][0]["digest"].as_str().unwrap().parse().unwrap();
                Listed { digest: referrer.digest, kind: referrer.artifact_type.unwrap(), document }
            })
            .collect();
        listed.sort_by(|one, other| one.kind.cmp(&other.kind));
        listed
    }

    /// The SBOM and the statement about an image, which are its only referrers.
    async fn documents(&self, image: &BuiltImage) -> [Value; 2] {
        let listed = self.referrers(image).await;
        assert_eq!(listed.iter().map(|referrer| referrer.kind.as_str()).collect::<Vec<_>>(), [SBOM, STATEMENT]);
        let read = |referrer: &Listed| {
            serde_json::from_slice(&std::fs::read(self.blobs.path(&referrer.document)).unwrap()).unwrap()
        };
        [read(&listed[0]), read(&listed[1])]
    }

    /// A manifest of an image's repository.
    async fn manifest(&self, image: &BuiltImage, digest: Digest) -> Manifest {
        let repository = image.repository.parse().unwrap();
        let found = find_manifest(self.store.db().read(), &repository, &Reference::Digest(digest)).await.unwrap();
        let found = found.unwrap();
        Manifest::parse(Some(&found.media_type), found.bytes).unwrap()
    }

    async fn has_built(&self, request: BuildRequest) -> BuiltImage {
        self.builder.build(Operation::new(), request).await.unwrap()
    }
}

/// A small agent whose imports decide what is installed, which is nothing.
fn without_requirements() -> BuildRequest {
    let given = request("", false);
    let source = BuildSource { requirements: None, ..given.source.clone() };
    BuildRequest { source, ..given }
}

async fn service(dir: &std::path::Path) -> Service {
    let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
    let registry = RegistryConfig { grace_seconds: 0, ..RegistryConfig::default() };
    Service::with(dir, Indexes::default(), python, &registry).await
}

fn stored(image: &BuiltImage) -> StoredImage {
    StoredImage { repository: image.repository.clone(), digest: image.digest }
}

#[tokio::test]
async fn an_image_that_is_built_twice_has_one_of_each() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path()).await;
    let image = service.has_built(request("", false)).await;
    let [sbom, statement] = service.documents(&image).await;
    let names: Vec<&Value> =
        sbom["components"].as_array().unwrap().iter().map(|component| &component["name"]).collect();
    assert_eq!(names, ["python", "hoistway-runner"], "an image without packages has an SBOM too");
    assert_eq!(statement["subject"][0]["digest"]["sha256"], image.digest.hex());
    let parameters = |statement: &Value| statement["predicate"]["buildDefinition"]["externalParameters"].clone();
    assert_eq!(parameters(&statement)["requirements"], "");
    let first = service.referrers(&image).await;

    // The same image of another request: the statement is about the newer build, and the SBOM is the same.
    assert_eq!(service.has_built(without_requirements()).await, image);
    let [same, newer] = service.documents(&image).await;
    assert_eq!(same, sbom);
    assert_eq!(parameters(&newer).get("requirements"), None);
    let second = service.referrers(&image).await;
    assert_eq!(first[0].digest, second[0].digest);
    assert_ne!(first[1].digest, second[1].digest);
    service.builder.collect_images(vec![stored(&image)]).await.unwrap();
    assert!(!service.blobs.contains(&first[1].document), "the former statement is not kept");
    service.documents(&image).await;
    // The same request again is no build.
    assert_eq!(service.has_built(without_requirements()).await, image);
    assert_eq!(service.referrers(&image).await[1].digest, second[1].digest);
}

#[tokio::test]
async fn documents_stay_as_long_as_their_image() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path()).await;
    let image = service.has_built(request("", false)).await;
    let own = service.referrers(&image).await;
    let repository = image.repository.parse().unwrap();

    // A client attaches something of the same type, and tags the SBOM.
    let pushed = json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST, "artifactType": STATEMENT,
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::of(b"{}"), "size": 2 },
        "layers": [{ "mediaType": STATEMENT, "digest": Digest::of(b"{}"), "size": 2 }],
        "subject": { "mediaType": OCI_MANIFEST, "digest": image.digest, "size": 1 },
    });
    let pushed = Manifest::parse(None, pushed.to_string().into()).unwrap();
    let sbom = service.manifest(&image, own[0].digest).await;
    let txn = service.store.db().begin().await.unwrap();
    link_blobs(&txn, &repository, pushed.blobs()).await.unwrap();
    put_manifest(&txn, &repository, &pushed, None).await.unwrap();
    let tag = NewTag { tag: "bill-of-materials".parse().unwrap(), immutable: false };
    put_manifest(&txn, &repository, &sbom, Some(&tag)).await.unwrap();
    // What the build wrote is not a client's to delete.
    let Deletion::Kept(why) = delete_manifest(&txn, &repository, &own[1].digest, &None).await.unwrap() else {
        panic!("deleted")
    };
    assert!(why.contains(&format!("belongs to the agent's image {}", image.digest)), "{why}");
    txn.commit().await.unwrap();

    let in_use = service.builder.collect_images(vec![stored(&image)]).await.unwrap();
    assert_eq!((in_use.images, in_use.blobs), (0, 0));
    assert_eq!(service.referrers(&image).await.len(), 3);
    // Another build replaces the statement, and nothing that a client pushed.
    service.has_built(without_requirements()).await;
    let replaced = service.referrers(&image).await;
    assert_eq!(replaced.len(), 3);
    assert!(replaced.iter().any(|referrer| referrer.digest == pushed.digest()));
    let statement = replaced.iter().find(|referrer| {
        referrer.kind == STATEMENT && referrer.digest != pushed.digest() && referrer.digest != own[1].digest
    });
    let statement = statement.unwrap();

    // What is used in the very millisecond stays.
    while service.builder.collect_images(Vec::new()).await.unwrap().images == 0 {}
    let left: Vec<Digest> = service.referrers(&image).await.iter().map(|referrer| referrer.digest).collect();
    assert_eq!(
        left,
        [sbom.digest(), pushed.digest()],
        "a tag keeps what it names, and what was pushed stays for untagged_days"
    );
    assert!(service.blobs.contains(&own[0].document) && !service.blobs.contains(&statement.document));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_sbom_has_exactly_the_installed_packages_and_no_password() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let index = Index::serve().await;
    index.publish("alpha", "1.0", &[("alpha.py", "A = 1\n")]);
    index.publish("beta_x", "2.0", &[("beta.py", "B = 1\n")]);
    index.publish("unused", "1.0", &[("unused.py", "U = 1\n")]);
    let configured = Indexes { index: Some(index.url(SPELT)), ..Indexes::default() };
    let service = Service::open(dir.path(), configured, python).await;
    let wheel = |name: &str| Digest::of(&index.wheel(name)).hex();
    let expected = |sbom: &Value, statement: &Value| {
        let purls = |list: &Value, key: &str| -> Vec<(String, Value)> {
            let packages = list
                .as_array()
                .unwrap()
                .iter()
                .filter(|entry| entry[key].as_str().is_some_and(|purl| purl.starts_with("pkg:pypi/")));
            packages.map(|entry| (entry[key].as_str().unwrap().to_owned(), entry.clone())).collect()
        };
        let listed = purls(&sbom["components"], "purl");
        let used = purls(&statement["predicate"]["buildDefinition"]["resolvedDependencies"], "uri");
        let both = [("pkg:pypi/alpha@1.0", wheel("alpha")), ("pkg:pypi/beta-x@2.0", wheel("beta_x"))];
        assert_eq!((listed.len(), used.len()), (2, 2));
        for (n, (purl, hash)) in both.iter().enumerate() {
            assert_eq!((&listed[n].0[..], &used[n].0[..]), (*purl, *purl));
            assert_eq!(listed[n].1["hashes"], json!([{ "alg": "SHA-256", "content": hash }]));
            assert_eq!(used[n].1["digest"], json!({ "sha256": hash }));
        }
        for secret in [PASSWORD, SPELT, "reader"] {
            assert!(!format!("{sbom} {statement}").contains(secret));
        }
    };
    let image = service.has_built(request("alpha\nbeta-x\nunused ; sys_platform == 'win32'", false)).await;
    let [sbom, statement] = service.documents(&image).await;
    expected(&sbom, &statement);
    // The layers of the whole lock are known, and then that but not what is in them.
    let other = service.has_built(request("beta-x\nalpha", false)).await;
    let [sbom, statement] = service.documents(&other).await;
    expected(&sbom, &statement);
    service.store.db().write().execute_unprepared("DELETE FROM packages").await.unwrap();
    let third = service.has_built(request("beta-x==2.0\nalpha", false)).await;
    let [sbom, statement] = service.documents(&third).await;
    expected(&sbom, &statement);
}
