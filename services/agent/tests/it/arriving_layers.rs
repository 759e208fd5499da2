//! Layers that are unpacked while the build service of the same process makes them.

use crate::fake_image::{archive, gzip};
use hoistway_agent::images::{Bounds, Expected, LayerStore, unpack};
use hoistway_model::{Digest, image::RUNNER_PATH, unpacked_layers::UnpackedLayers};
use std::{
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

const FILES: [(&str, &str); 3] =
    [("opt/hoistway/site-packages/six.py", "x = 1"), ("opt/hoistway/site-packages/a/b/c", ""), ("app/agent.py", "y")];

fn store(dir: &Path) -> LayerStore {
    LayerStore::open(&dir.join("layers"), Bounds::default()).unwrap()
}

/// Hands over an archive as the layer of a blob.
fn hand_over(store: &LayerStore, archive: &[u8], blob: Digest, diff_id: Digest) -> io::Result<()> {
    let mut layer = store.begin()?;
    archive.chunks(1000).try_for_each(|piece| layer.write_all(piece))?;
    layer.finish(blob, diff_id)
}

/// Everything in a directory: path, mode, owner, time and content.
fn contents(dir: &Path) -> Vec<(PathBuf, u32, u32, i64, Vec<u8>)> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(path) = open.pop() {
        let meta = path.symlink_metadata().unwrap();
        let (time, content) = match meta.is_dir() {
            true => (0, Vec::new()),
            false => (meta.mtime(), std::fs::read(&path).unwrap()),
        };
        if meta.is_dir() {
            open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        found.push((path.strip_prefix(dir).unwrap().to_owned(), meta.mode(), meta.uid(), time, content));
    }
    found.sort();
    found
}

/// The names in the store's directory that are not those of layers.
fn unfinished(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir.join("layers")).unwrap().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).filter(|name| name.starts_with(".tmp-")).collect()
}

#[tokio::test]
async fn a_layer_that_is_handed_over_is_the_one_that_would_be_pulled_and_stays_for_its_deploy() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let archive = archive(&FILES);
    let blob = gzip(&archive);
    let expected = Expected { blob: Digest::of(&blob), diff_id: Digest::of(&archive), gzip: true };
    hand_over(&store, &archive, expected.blob, expected.diff_id).unwrap();
    hand_over(&store, &archive, expected.blob, expected.diff_id).unwrap();
    assert!(store.has(&expected.blob).await);
    assert!(unfinished(dir.path()).is_empty());

    let pulled = dir.path().join("pulled");
    std::fs::create_dir(&pulled).unwrap();
    unpack(&blob[..], &pulled, expected, Bounds::default()).unwrap();
    let handed_over = contents(&dir.path().join("layers").join(expected.blob.hex()));
    // The top is closed when a layer gets its name.
    assert_eq!(handed_over[1..], contents(&pulled)[1..]);
    assert_eq!(handed_over[0].1 & 0o777, 0o555);
    assert!(handed_over.iter().all(|(_, mode, ..)| mode & 0o222 == 0), "{handed_over:?}");

    store.sweep().await;
    assert!(store.has(&expected.blob).await, "no revision uses it yet");
    // In another process nobody waits for it any more.
    let reopened = self::store(dir.path());
    reopened.sweep().await;
    assert!(!reopened.has(&expected.blob).await);
}

#[tokio::test]
async fn packages_that_were_put_together_stay_as_long_as_their_layers_are_used() {
    let dir = tempfile::tempdir().unwrap();
    let (store, mut layers) = (store(dir.path()), Vec::new());
    let runner = RUNNER_PATH.trim_start_matches('/');
    for files in [
        [(runner, ""), ("app/agent.py", "")],
        [("opt/hoistway/site-packages/one.py", ""), ("opt/hoistway/site-packages/a/b", "")],
        [("opt/hoistway/site-packages/two.py", ""), ("opt/hoistway/site-packages/a/c", "")],
    ] {
        let archive = archive(&files);
        let blob = Digest::of(&gzip(&archive));
        hand_over(&store, &archive, blob, Digest::of(&archive)).unwrap();
        layers.push(blob);
    }
    let used = store.pin(&layers);
    let (tree, running) = store.tree(&layers).await.unwrap().unwrap();
    let [site] = &tree.site_dirs[..] else { panic!("{tree:?}") };
    assert!(["one.py", "two.py", "a/b", "a/c"].iter().all(|file| site.join(file).is_file()));
    drop(running);
    store.sweep().await;
    assert!(site.is_dir(), "an agent that was stopped starts again");
    drop(used);
    store.sweep().await;
    assert!(!site.exists());
}

#[tokio::test]
async fn a_layer_that_is_another_or_given_up_or_refused_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path());
    let (whole, other, blob) = (archive(&FILES), Digest::of(b"other"), Digest::of(b"blob"));
    let e = hand_over(&store, &whole, blob, other).unwrap_err();
    assert!(e.to_string().contains("should be"), "{e}");
    let half = &whole[..whole.len() / 2 + 100];
    hand_over(&store, half, blob, Digest::of(half)).unwrap_err();
    let twice = archive(&[("a", "1"), ("a", "2")]);
    let e = hand_over(&store, &twice, blob, Digest::of(&twice)).unwrap_err();
    assert!(e.to_string().contains("twice"), "{e}");

    // Who writes on after that hears why.
    let mut refused = store.begin().unwrap();
    let mut rest = std::iter::repeat_n([0; 1 << 16], 1 << 10);
    refused.write_all(&twice).unwrap();
    let e = rest.find_map(|piece| refused.write_all(&piece).err()).unwrap();
    assert!(e.to_string().contains("twice"), "{e}");
    drop(refused);

    let mut given_up = store.begin().unwrap();
    given_up.write_all(&whole).unwrap();
    drop(given_up);
    assert!(!store.has(&blob).await && store.list().is_empty());
    assert!(unfinished(dir.path()).is_empty());
}
