#![allow(clippy::unwrap_used)]
use super::*;
use std::{cell::Cell, io::Read};

fn store() -> (tempfile::TempDir, BlobStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(dir.path(), Space::keep_free(0)).unwrap();
    (dir, store)
}

fn unfinished(store: &BlobStore) -> usize {
    std::fs::read_dir(&store.0.staging).unwrap().count()
}

thread_local! {
    pub(super) static FLUSHES: Cell<usize> = const { Cell::new(0) };
}

fn flushes(work: impl FnOnce()) -> usize {
    let before = FLUSHES.get();
    work();
    FLUSHES.get() - before
}

#[test]
fn a_batch_costs_one_flush_for_each_new_file_and_one_for_the_directory() {
    let (_dir, store) = store();
    let put = |blobs: &[&[u8]]| {
        let mut batch = store.batch();
        for bytes in blobs {
            batch.put_bytes(bytes).unwrap();
        }
        batch.commit().unwrap();
    };
    assert_eq!(flushes(|| put(&[b"a", b"b", b"c"])), 4);
    assert_eq!(flushes(|| put(&[b"a", b"b", b"d"])), 2, "only what is new");
    assert_eq!(flushes(|| put(&[b"a", b"b"])), 0, "nothing is new");
    assert_eq!(flushes(|| put(&[])), 0);
    assert_eq!(unfinished(&store), 0);
    assert_eq!(std::fs::read(store.path(&Digest::of(b"d"))).unwrap(), b"d");
}

#[test]
fn an_uncommitted_blob_leaves_no_file() {
    let (_dir, store) = store();
    let mut batch = store.batch();
    let digest = batch.put_bytes(b"x").unwrap();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"yy").unwrap();
    assert_eq!(unfinished(&store), 2);
    drop((batch, writer));
    assert_eq!(unfinished(&store), 0);
    assert!(!store.contains(&digest));
    assert!(store.read(&digest).unwrap().is_none());
}

#[test]
fn the_writer_hashes_what_it_writes() {
    let (_dir, store) = store();
    let mut writer = store.writer().unwrap();
    writer.write_all(b"hello ").unwrap();
    writer.write_all(b"world").unwrap();
    let staged = writer.finish();
    assert_eq!((staged.digest(), staged.size()), (Digest::of(b"hello world"), 11));
    let mut batch = store.batch();
    let digest = batch.add(staged);
    batch.commit().unwrap();
    let (mut file, size) = store.read(&digest).unwrap().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!((text.as_str(), size), ("hello world", 11));
}

#[test]
fn unfinished_files_are_purged_by_age() {
    let (dir, store) = store();
    std::fs::write(dir.path().join("staging/left-over"), b"x").unwrap();
    assert_eq!(store.purge_staging(Duration::from_secs(3600)).unwrap(), 0);
    assert_eq!(store.purge_staging(Duration::ZERO).unwrap(), 1);
    assert_eq!(unfinished(&store), 0);
}

#[test]
fn racing_writers_of_one_blob_agree() {
    let (_dir, store) = store();
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| store.put_bytes(b"same").unwrap());
        }
    });
    assert!(store.contains(&Digest::of(b"same")));
    assert_eq!(unfinished(&store), 0);
}

/// A moment that everything of this test is older than.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

#[test]
fn a_blob_that_was_looked_up_survives_collection() {
    let (_dir, store) = store();
    let long_ago = SystemTime::now() - Duration::from_secs(7200);
    let age = |digest: &Digest| File::open(store.path(digest)).unwrap().set_modified(long_ago).unwrap();
    let hour = Duration::from_secs(3600);
    let [asked, put, pinned, old] = [&b"asked"[..], b"put", b"pinned", b"old"].map(|b| store.put_bytes(b).unwrap());
    [asked, put, pinned, old].iter().for_each(age);
    assert!(store.contains(&asked));
    store.put_bytes(b"put").unwrap();
    store.pin(pinned);
    let before = store.unused_before(hour);
    assert_eq!(store.stale(before).unwrap(), [old]);
    for kept in [asked, put, pinned] {
        assert_eq!(store.remove_stale(&kept, before).unwrap(), None);
        assert!(store.contains(&kept));
    }
    assert_eq!(store.remove_stale(&old, before).unwrap(), Some(3));
    assert!(!store.contains(&old));
    assert_eq!(store.remove_stale(&old, before).unwrap(), None, "it is gone already");
}

#[test]
fn a_lease_keeps_what_was_asked_for_since_it_began() {
    let (_dir, store) = store();
    let digest = store.put_bytes(b"x").unwrap();
    let lease = store.lease();
    assert!(store.contains(&digest));
    let before = store.unused_before(Duration::ZERO);
    assert_eq!(store.stale(before).unwrap(), []);
    drop(lease);
    assert!(store.unused_before(Duration::ZERO) > before);
    assert_eq!(store.stale(later()).unwrap(), [digest]);
}

#[test]
fn a_full_disk_is_said_with_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    let space = Space { keep_free: 3 << 20, free: |_| Ok((2 << 20) + 1) };
    let e = BlobStore::open(dir.path(), space).unwrap().check_space().unwrap_err();
    assert_eq!(e.code, Code::InsufficientStorage);
    assert!(e.message.contains("2 MiB are free and 3 MiB are to be kept free"), "{e}");
    let space = Space { keep_free: 3 << 20, free: |_| Ok(3 << 20) };
    BlobStore::open(dir.path(), space).unwrap().check_space().unwrap();
}

#[test]
fn half_written_files_are_removed_at_the_next_start() {
    let (dir, store) = store();
    std::fs::write(dir.path().join("staging/left-over"), b"x").unwrap();
    std::fs::write(dir.path().join("uploads/of-a-client"), b"x").unwrap();
    drop(store);
    let store = BlobStore::open(dir.path(), Space::keep_free(0)).unwrap();
    assert_eq!(unfinished(&store), 0);
    assert!(dir.path().join("uploads/of-a-client").exists());
}
