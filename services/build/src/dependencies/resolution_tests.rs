//! Versions over the changes of an agent's requirements, with the real resolver and an index on loopback.
#![allow(clippy::unwrap_used)]

use crate::{
    python::Indexes,
    tests::{Index, SPELT, Service, names, with_uv},
};
use hoistway_model::Code;

/// Publishes a package with these requirements.
fn publish(index: &Index, name: &str, version: &str, requires: &str) {
    let requires = if requires.is_empty() { String::new() } else { format!("Requires-Dist: {requires}\n") };
    let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}");
    let file = format!("{name}-{version}.dist-info/METADATA");
    index.publish(name, version, &[(&format!("{name}.py"), "x = 1\n"), (&file, &metadata)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packages_keep_their_versions_when_others_are_added() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let index = Index::serve().await;
    for name in ["alpha", "beta", "stable"] {
        publish(&index, name, "1.0", "");
    }
    let configured = Indexes { index: Some(index.url(SPELT)), ..Indexes::default() };
    let service = Service::open(dir.path(), configured, python).await;
    let build = async |requirements: &str, refresh| {
        let image = service.build(&requirements.replace(' ', "\n"), refresh).await.unwrap();
        let packages = service.packages(&image).await;
        (names(&packages).join(", "), index.asked().join(" "))
    };
    let has = |packages: &str, asked: &str| (packages.to_owned(), asked.to_owned());
    assert_eq!(build("alpha beta", false).await, has("alpha 1.0, beta 1.0", "alpha beta"));
    for name in ["alpha", "beta"] {
        publish(&index, name, "2.0", "");
    }
    publish(&index, "gamma", "1.0", "alpha");
    publish(&index, "delta", "1.0", "");
    publish(&index, "needs_newer", "1.0", "alpha>=2");
    publish(&index, "stable", "2.0b1", "");
    publish(&index, "needs_preview", "1.0", "stable>1");

    // What is added is resolved by itself.
    assert_eq!(build("alpha beta gamma", false).await, has("alpha 1.0, beta 1.0, gamma 1.0", "alpha gamma"));
    assert_eq!(build("gamma beta alpha", false).await, has("alpha 1.0, beta 1.0, gamma 1.0", ""));
    // The versions are those of what was deployed last, not of what was resolved last.
    assert_eq!(build("alpha beta", false).await, has("alpha 1.0, beta 1.0", ""));
    let wrong = service.build("alpha\nbeta\nnowhere", false).await.unwrap_err();
    assert_eq!(wrong.code, Code::RequirementFailed);
    assert!(wrong.message.contains("nowhere was not found"), "{wrong}");
    index.asked();
    let (packages, asked) = build("alpha beta delta", false).await;
    assert_eq!((packages.as_str(), asked.as_str()), ("alpha 1.0, beta 1.0, delta 1.0", "delta"));

    // Other versions only where they have to be: what is added needs them, its line changes, or somebody asks for them.
    let (packages, _) = build("alpha beta delta needs-newer", false).await;
    assert_eq!(packages, "alpha 2.0, beta 1.0, delta 1.0, needs-newer 1.0");
    assert_eq!(build("alpha beta", false).await.0, "alpha 1.0, beta 1.0");
    assert_eq!(build("alpha", false).await.0, "alpha 1.0");
    assert_eq!(build("alpha>=1 beta==1.0", false).await.0, "alpha 2.0, beta 1.0");
    assert_eq!(build("alpha>=1 beta", false).await.0, "alpha 2.0, beta 2.0");
    assert_eq!(build("alpha beta", true).await.0, "alpha 2.0, beta 2.0");

    // A requirement allows what one that is added needs, and that alone could not have.
    assert_eq!(build("stable>=2.0b1", false).await.0, "stable 2.0b1");
    assert_eq!(build("stable>=2.0b1 needs-preview", false).await.0, "needs-preview 1.0, stable 2.0b1");
}
