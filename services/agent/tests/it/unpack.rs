//! Hostile archives.

use crate::fake_image::{archive, gzip};
use hoistway_agent::images::{Bounds, Expected, Unreadable, unpack};
use hoistway_model::Digest;
use std::{io::Write, os::unix::fs::PermissionsExt, path::Path};
use tar::{Builder, EntryType, Header};

fn run(archive: &[u8], bounds: Bounds) -> (tempfile::TempDir, Result<(), Unreadable>) {
    let dir = tempfile::tempdir().unwrap();
    let inside = dir.path().join("layer");
    std::fs::create_dir(&inside).unwrap();
    let blob = gzip(archive);
    let expected = Expected { blob: Digest::of(&blob), diff_id: Digest::of(archive), gzip: true };
    let result = unpack(&blob[..], &inside, expected, bounds);
    (dir, result)
}

fn refused(archive: &[u8], says: &str) {
    let (dir, result) = run(archive, Bounds::default());
    match result {
        Err(Unreadable::Refused(why)) => assert!(why.contains(says), "{why}"),
        other => panic!("{says}: {other:?}"),
    }
    let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["layer"], "nothing came out");
}

/// An archive of raw entries, which the library would not write.
fn raw(entries: &[(&str, EntryType, &str, &[u8])]) -> Vec<u8> {
    let mut tar = Builder::new(Vec::new());
    for (name, kind, link, content) in entries {
        let mut header = Header::new_ustar();
        let bytes = header.as_mut_bytes();
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn paths_outside_the_layer_are_refused() {
    use EntryType::{Block, Char, Fifo, Link, Regular, Symlink};
    refused(&raw(&[("/etc/passwd", Regular, "", b"x")]), "not a path inside it");
    refused(&raw(&[("../evil", Regular, "", b"x")]), "not a path inside it");
    refused(&raw(&[("a/../../evil", Regular, "", b"x")]), "not a path inside it");
    refused(&raw(&[("a", Symlink, "/etc", b"")]), "a link out of it");
    refused(&raw(&[("a", Symlink, "..", b"")]), "a link out of it");
    refused(&raw(&[("a/b", Symlink, "../../x", b"")]), "a link out of it");
    refused(&raw(&[("d", Symlink, ".", b""), ("e", Symlink, "d/../..", b"")]), "a link out of it");
    for kind in [Link, Char, Block, Fifo] {
        refused(&raw(&[("a", kind, "b", b"")]), "neither a file");
    }
}

#[test]
fn duplicate_entries_and_whiteouts_are_refused() {
    use EntryType::{Regular, Symlink};
    refused(&archive(&[("a", "1"), ("a", "2")]), "twice");
    refused(&archive(&[("a", "1"), ("a/b", "2")]), "twice");
    refused(&raw(&[("a", Symlink, "b", b""), ("a", Regular, "", b"x")]), "twice");
    refused(&raw(&[("a", Symlink, "b", b""), ("a/x", Regular, "", b"x")]), "twice");
    refused(&archive(&[("app/.wh.agent.py", "")]), "removes files");
}

#[test]
fn too_many_files_or_bytes_are_refused() {
    let small = Bounds { bytes: 8192, entries: 3 };
    let (_dir, result) = run(&archive(&[("a", &"x".repeat(9000))]), small);
    assert!(matches!(&result, Err(Unreadable::Refused(why)) if why.contains("too large")), "{result:?}");
    let (_dir, result) = run(&archive(&[("a", ""), ("b", ""), ("c", ""), ("d", "")]), small);
    assert!(matches!(&result, Err(Unreadable::Refused(why)) if why.contains("more than 3")), "{result:?}");

    // A name that takes megabytes.
    let mut tar = Builder::new(Vec::new());
    let name = vec![b'n'; 3 << 20];
    let mut header = Header::new_gnu();
    header.set_path("././@LongLink").unwrap();
    header.set_entry_type(EntryType::GNULongName);
    header.set_size(name.len() as u64);
    header.set_cksum();
    tar.append(&header, &name[..]).unwrap();
    refused(&tar.into_inner().unwrap(), "too long");
}

#[test]
fn other_bytes_than_promised_are_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(&[("a", "1")]);
    let blob = gzip(&archive);
    let right = Expected { blob: Digest::of(&blob), diff_id: Digest::of(&archive), gzip: true };
    let mut longer = blob.clone();
    longer.write_all(&gzip(b"")).unwrap();
    for (blob, expected) in [
        (longer, right),
        (blob[..blob.len() - 9].to_vec(), right),
        (blob.clone(), Expected { diff_id: Digest::of(b"x"), ..right }),
        (blob.clone(), Expected { blob: Digest::of(b"x"), ..right }),
        (archive.clone(), right),
    ] {
        let inside = tempfile::tempdir_in(dir.path()).unwrap();
        let result = unpack(&blob[..], inside.path(), expected, Bounds::default());
        assert!(matches!(&result, Err(Unreadable::Transfer(_))), "{result:?}");
    }
    let inside = tempfile::tempdir_in(dir.path()).unwrap();
    let plain = Expected { blob: Digest::of(&archive), diff_id: Digest::of(&archive), gzip: false };
    unpack(&archive[..], inside.path(), plain, Bounds::default()).unwrap();
}

#[test]
fn an_honest_layer_is_unpacked_read_only() {
    use EntryType::{Directory, Regular, Symlink};
    let long = format!("deep/{}/{}", "d".repeat(90), "f".repeat(90));
    let mut tar = raw(&[
        ("./", Directory, "", b""),
        ("bin/tool", Regular, "", b"#!/bin/sh\n"),
        ("lib/link", Symlink, "../bin/tool", b""),
    ]);
    tar.truncate(tar.len() - 1024);
    tar.extend(archive(&[("lib/", ""), ("lib/data.txt", "data"), (&long, "x")]));
    let (dir, result) = run(&tar, Bounds::default());
    result.unwrap();
    let root = dir.path().join("layer");
    let mode = |path: &str| std::fs::metadata(root.join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!([mode("bin/tool"), mode("lib/data.txt"), mode("lib")], [0o555, 0o444, 0o555]);
    assert_eq!(std::fs::read_link(root.join("lib/link")).unwrap(), Path::new("../bin/tool"));
    assert_eq!(std::fs::read_to_string(root.join(long)).unwrap(), "x");
}
