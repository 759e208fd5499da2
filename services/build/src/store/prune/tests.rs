#![allow(clippy::unwrap_used)]

use super::*;
use crate::tests::database;
use crate::{image::ImageLayer, layer::Layer, store::PackageSet};
use hoistway_kit::time::now_ms;
use hoistway_model::Digest;
use sea_orm::ConnectionTrait;

const BOUNDS: Bounds = Bounds { operations: idempotency::kept(3600, 100), records: 2, locks: 2, packages: 3 };

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&database(dir.path()).await).await.unwrap();
    (dir, store)
}

async fn sql(store: &Store, text: &str) {
    store.0.write().execute_unprepared(text).await.unwrap();
}

/// The first column of a query, in order.
async fn texts(store: &Store, query: &str) -> Vec<String> {
    let rows = query_raw(store.0.read(), query, []).await.unwrap();
    rows.into_iter().map(|row| row.try_get_by_index(0).unwrap()).collect()
}

async fn build(store: &Store, attempt: &str, public_id: &str, status: &str, age: i64) {
    let at = now_ms() - age;
    let text = format!(
        "INSERT INTO builds (attempt, public_id, agent, status, inputs, log, created_at, completed_at)
         VALUES ('{attempt}', '{public_id}', 'a', '{status}', 'i', '', {at}, {at})"
    );
    sql(store, &text).await;
}

#[tokio::test]
async fn records_of_builds_that_left_nothing_are_few_and_those_of_images_stay() {
    let (_dir, store) = store().await;
    let day = 24 * 3600 * 1000;
    build(&store, "01", "failed-long-ago", "FAILED", day + 1000).await;
    for n in 2..=5 {
        build(&store, &format!("0{n}"), "failed", "FAILED", 1000 - n).await;
    }
    for n in 1..=5 {
        build(&store, &format!("1{n}"), "same-image", "SUCCEEDED", 2 * day - n).await;
        build(&store, &format!("2{n}"), &format!("image-{n}"), "SUCCEEDED", 3 * day).await;
    }
    store.purge(BOUNDS).await.unwrap();
    let left = texts(&store, "SELECT attempt FROM builds ORDER BY attempt").await;
    assert_eq!(left, ["04", "05", "13", "14", "15", "21", "22", "23", "24", "25"]);
}

#[tokio::test]
async fn the_newest_locks_of_each_agent_and_the_newest_packages_are_kept() {
    let (_dir, store) = store().await;
    for (agent, requirements, at) in [("a", 1, 5), ("a", 2, 4), ("a", 3, 3), ("b", 1, 1), ("a", 4, 2)] {
        sql(&store, &format!("INSERT INTO locks VALUES ('{agent}', 'r{requirements}', 'i', 'l', {at}, '')")).await;
    }
    for at in 1..=5 {
        sql(&store, &format!("INSERT INTO packages (inputs, size, created_at) VALUES ('p{at}', 1, {at})")).await;
    }
    store.purge(BOUNDS).await.unwrap();
    let left = texts(&store, "SELECT agent || ' ' || requirements FROM locks ORDER BY 1").await;
    assert_eq!(left, ["a r1", "a r2", "b r1"]);
    assert_eq!(texts(&store, "SELECT inputs FROM packages ORDER BY 1").await, ["p3", "p4", "p5"]);
}

#[tokio::test]
async fn layers_that_no_repository_has_are_forgotten_with_their_sets() {
    let (_dir, store) = store().await;
    let digest = |name: &str| Digest::of(name.as_bytes());
    let layer = |name: &str| Layer { digest: digest(name), diff_id: digest("x"), size: 1 };
    let in_image = |name: &str| ImageLayer { layer: layer(name), created_by: "packages".into() };
    let set = |layers| PackageSet { layers, clashes: Vec::new() };
    let made = ["kept", "gone"].map(|name| (digest(&format!("key of {name}")), layer(name)));
    store.remember_packages(&[], &made).await.unwrap();
    store.remember_set(digest("whole"), &set(vec![in_image("kept")])).await.unwrap();
    store.remember_set(digest("part"), &set(vec![in_image("kept"), in_image("gone")])).await.unwrap();
    store.remember_set(digest("empty"), &set(vec![])).await.unwrap();
    sql(&store, &format!("INSERT INTO registry_blobs VALUES ('a', '{}', 0)", digest("kept"))).await;

    // A recent record may be of a build that is not published yet.
    store.forget_unmade(now_ms() - 60_000).await.unwrap();
    assert_eq!(texts(&store, "SELECT inputs FROM dependency_layers").await.len(), 2);
    assert_eq!(texts(&store, "SELECT inputs FROM layer_sets").await.len(), 3);

    store.forget_unmade(now_ms() + 60_000).await.unwrap();
    let left = store.layers(made.iter().map(|(key, _)| *key)).await.unwrap();
    assert_eq!(left.into_keys().collect::<Vec<_>>(), [made[0].0]);
    assert_eq!(texts(&store, "SELECT inputs FROM layer_sets").await, [digest("whole").to_string()]);
}
