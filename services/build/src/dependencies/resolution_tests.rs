//! Versions over the changes of an agent's requirements, with the real resolver and an index on loopback.
#![allow(clippy::unwrap_used)]

use crate::{
    python::{Indexes, Interpreter},
    tests::{Index, SPELT, Service, names, request, with_uv},
};
use hoistway_model::{BuildService, Code, Digest, Operation, build::BuildSource};
use sea_orm::ConnectionTrait;
use std::path::Path;

/// An index, and a build service that uses it.
struct World {
    index: Index,
    service: Service,
}

impl World {
    async fn open(dir: &Path, python: Interpreter) -> Self {
        let index = Index::serve().await;
        Self { service: Self::service(&index, dir, python).await, index }
    }

    async fn service(index: &Index, dir: &Path, python: Interpreter) -> Service {
        let configured = Indexes { index: Some(index.url(SPELT)), ..Indexes::default() };
        Service::open(dir, configured, python).await
    }

    /// Publishes a package with these lines of metadata.
    fn publish(&self, name: &str, version: &str, lines: &[&str]) {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        let metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{lines}");
        let file = format!("{name}-{version}.dist-info/METADATA");
        self.index.publish(name, version, &[(&format!("{name}.py"), "x = 1\n"), (&file, &metadata)]);
    }

    /// The packages of an image for requirements between commas, and the projects that the index was asked for.
    async fn build(&self, requirements: &str) -> (String, String) {
        self.index.asked();
        let image = self.service.build(&requirements.replace(", ", "\n"), false).await.unwrap();
        let packages = self.service.packages(&image).await;
        (names(&packages).join(", "), self.index.asked().join(" "))
    }

    async fn packages(&self, requirements: &str) -> String {
        self.build(requirements).await.0
    }
}

fn was(packages: &str, asked: &str) -> (String, String) {
    (packages.to_owned(), asked.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_added_is_resolved_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let world = World::open(dir.path(), python).await;
    for name in ["alpha", "beta", "stable", "more"] {
        world.publish(name, "1.0", &["Provides-Extra: fast", "Requires-Dist: delta ; extra == 'fast'"]);
    }
    assert_eq!(world.build("alpha, beta").await, was("alpha 1.0, beta 1.0", "alpha beta"));
    for name in ["alpha", "beta", "delta"] {
        world.publish(name, "2.0", &[]);
    }
    world.publish("delta", "1.0", &[]);
    world.publish("gamma", "1.0", &["Requires-Dist: alpha"]);
    world.publish("needs_newer", "1.0", &["Requires-Dist: alpha>=2"]);

    assert_eq!(world.build("alpha, beta, gamma").await, was("alpha 1.0, beta 1.0, gamma 1.0", "alpha gamma"));
    assert_eq!(world.build("gamma, beta, alpha").await, was("alpha 1.0, beta 1.0, gamma 1.0", ""));
    let extra = was("alpha 1.0, beta 1.0, delta 2.0, gamma 1.0", "beta delta");
    assert_eq!(world.build("gamma, beta, alpha, beta[fast]").await, extra);
    // The versions are those of what was deployed last, not of what was resolved last.
    assert_eq!(world.build("alpha, beta").await, was("alpha 1.0, beta 1.0", ""));
    let wrong = world.service.build("alpha\nbeta\nnowhere", false).await.unwrap_err();
    assert_eq!(wrong.code, Code::RequirementFailed);
    assert!(wrong.message.contains("nowhere was not found"), "{wrong}");
    assert_eq!(world.build("alpha, beta, delta").await, was("alpha 1.0, beta 1.0, delta 2.0", "delta"));
    // What it needs may move what is there.
    let newer = "alpha 2.0, beta 1.0, delta 2.0, needs-newer 1.0";
    assert_eq!(world.build("alpha, beta, delta, needs-newer").await, was(newer, "alpha beta delta needs-newer"));
    // Bounds of a constraints file hold for what is added, too.
    assert_eq!(world.packages("more, ~ delta<2").await, "more 1.0");
    assert_eq!(world.build("more, delta, ~ delta<2").await, was("delta 1.0, more 1.0", "delta"));
    // A requirement allows what one that is added needs, and that alone could not have.
    world.publish("stable", "2.0b1", &[]);
    assert_eq!(world.packages("stable>=2.0b1").await, "stable 2.0b1");
    world.publish("stable", "2.0b2", &[]);
    world.publish("needs_preview", "1.0", &["Requires-Dist: stable>2.0b1"]);
    let preview = was("needs-preview 1.0, stable 2.0b2", "needs-preview stable");
    assert_eq!(world.build("stable>=2.0b1, needs-preview").await, preview);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_move_only_where_they_have_to() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let world = World::open(dir.path(), python).await;
    for name in ["alpha", "beta", "delta"] {
        world.publish(name, "1.0", &["Requires-Dist: delta"][..usize::from(name == "alpha")]);
    }
    assert_eq!(world.packages("alpha, beta==1.0").await, "alpha 1.0, beta 1.0, delta 1.0");
    for name in ["alpha", "beta", "delta"] {
        world.publish(name, "2.0", &[]);
    }
    let newer = Digest::of(&world.index.wheel("delta")).hex();
    // Without its bound, one is free; the others are not.
    assert_eq!(world.packages("alpha, beta").await, "alpha 1.0, beta 2.0, delta 1.0");
    assert_eq!(world.packages("alpha>=1").await, "alpha 1.0, delta 1.0");
    assert_eq!(world.packages("alpha>=1, delta").await, "alpha 1.0, delta 1.0");
    let hashed = format!("alpha>=1, delta>=1 --hash=sha256:{newer}");
    assert_eq!(world.packages(&hashed).await, "alpha 1.0, delta 2.0", "no other file is allowed");
    assert_eq!(world.packages("alpha>1").await, "alpha 2.0");
    let refreshed = world.service.build("alpha\nbeta==1.0", true).await.unwrap();
    assert_eq!(names(&world.service.packages(&refreshed).await), ["alpha 2.0", "beta 1.0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_of_what_was_deployed_last_is_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let Some(python) = with_uv(dir.path()).await else { return };
    let world = World::open(dir.path(), python.clone()).await;
    for name in ["six", "rich", "click"] {
        world.publish(name, "1.0", &[]);
    }
    // Requirements from imports.
    let from_imports = async |code: &str| {
        let mut request = request("", false);
        let files = [("agent.py".to_owned(), format!("import {code}\ndef run(): return 1\n").into_bytes())];
        request.source = BuildSource::parse(files.into(), None, None).unwrap();
        let image = world.service.builder.build(Operation::new(), request).await.unwrap();
        names(&world.service.packages(&image).await).join(", ")
    };
    assert_eq!(from_imports("six").await, "six 1.0");
    world.publish("six", "2.0", &[]);
    assert_eq!(world.packages("six>1").await, "six 2.0");
    assert_eq!(from_imports("six").await, "six 1.0", "the image of before");
    assert_eq!(from_imports("six, rich").await, "rich 1.0, six 1.0");

    // Of several interpreters, the one that the image is for.
    let (major, minor) = python.version;
    let other = Interpreter { identity: "cpython-other".into(), version: (major, minor + 1), ..python };
    let index = &world.index;
    let service = World::service(index, dir.path(), other).await;
    let build = async |requirements: &str, refresh| {
        names(&service.packages(&service.build(requirements, refresh).await.unwrap()).await).join(", ")
    };
    assert_eq!(build("six\nrich", true).await, "rich 1.0, six 2.0");
    assert_eq!(build("rich\nsix\nclick", true).await, "click 1.0, rich 1.0, six 2.0");
    assert_eq!(build("six\nrich", false).await, "rich 1.0, six 2.0");
    let locked = Digest::of(&world.index.wheel("six")).hex();
    world.publish("six", "3.0", &[]);
    assert_eq!(build("six\nrich\nclick", false).await, "click 1.0, rich 1.0, six 2.0");

    // The index has other files than those that are locked.
    world.publish("delta", "1.0", &[]);
    let sql = format!("UPDATE locks SET lock = replace(lock, '{locked}', '{}')", "0".repeat(64));
    service.store.db().write().execute_unprepared(&sql).await.unwrap();
    let e = service.build("six\nrich\nclick\ndelta", false).await.unwrap_err();
    assert!(e.details.last().unwrap().contains("?refresh=true"), "{e:?}");

    // One that cannot be read, as of another version of Hoistway, fails nothing.
    let sql = "UPDATE locks SET lock = 'as of another version of Hoistway'";
    service.store.db().write().execute_unprepared(sql).await.unwrap();
    assert_eq!(build("click\nrich\nsix", false).await, "click 1.0, rich 1.0, six 3.0");
    for (text, requirements) in [("", "click\nsix>0"), ("git+https://example.org/x", "click\nsix>2")] {
        let sql = format!("UPDATE locks SET requirements_text = '{text}'");
        service.store.db().write().execute_unprepared(&sql).await.unwrap();
        assert_eq!(build(requirements, false).await, "click 1.0, six 3.0");
    }
}
