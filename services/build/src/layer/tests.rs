#![allow(clippy::unwrap_used)]
use super::*;
use flate2::read::MultiGzDecoder;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;

fn unpack(bytes: &[u8]) -> Vec<(String, u32, u64, Vec<u8>)> {
    let mut archive = tar::Archive::new(MultiGzDecoder::new(bytes));
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap()), (0, 0));
            let (mode, time) = (header.mode().unwrap(), header.mtime().unwrap());
            (String::from_utf8(entry.path_bytes().into_owned()).unwrap(), mode, time, content)
        })
        .collect()
}

#[test]
fn the_order_of_insertion_does_not_matter() {
    let make = |names: &[&str]| {
        let mut layer = LayerBuilder::new();
        for name in names {
            layer.file(name, name.trim_start_matches('/').as_bytes()).unwrap();
        }
        layer.to_bytes().unwrap()
    };
    let (one, bytes) = make(&["/app/b.py", "app/a/x.py", "app/a-b"]);
    let (two, again) = make(&["app/a-b", "app/a/x.py", "app/b.py"]);
    assert_eq!((one, &bytes), (two, &again));
    assert_eq!(one.digest, Digest::of(&bytes));
    assert_eq!(one.size, bytes.len() as u64);
    let names: Vec<String> = unpack(&bytes).into_iter().map(|e| e.0).collect();
    assert_eq!(names, ["app/", "app/a/", "app/a-b", "app/a/x.py", "app/b.py"].map(String::from).to_vec());
}

#[test]
fn the_bytes_are_the_format_and_do_not_change() {
    let (layer, bytes) = LayerBuilder::new().file("/app/agent.py", &b"x = 1\n"[..]).unwrap().to_bytes().unwrap();
    let diff_id = "sha256:6860a2438a6f13a70f6a2c829c4a83e5b1b870591b31175fe63568448dd0b592";
    assert_eq!(layer.diff_id.to_string(), diff_id);
    assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    assert_eq!(unpack(&bytes)[1], ("app/agent.py".into(), 0o644, 0, b"x = 1\n".to_vec()));
}

#[test]
fn files_of_a_source_that_name_their_interpreter_are_executable_and_others_are_as_before() {
    let (_, bytes) = LayerBuilder::new()
        .source_file("app/tool", &b"#!/bin/sh\n"[..])
        .and_then(|layer| layer.source_file("app/agent.py", &b"# !\n#!\n"[..]))
        .and_then(|layer| layer.source_file("app/empty", &b""[..]))
        .unwrap()
        .to_bytes()
        .unwrap();
    let modes: Vec<_> = unpack(&bytes).into_iter().map(|(name, mode, ..)| (name, mode)).collect();
    let want = [("app/", 0o755), ("app/agent.py", 0o644), ("app/empty", 0o644), ("app/tool", 0o755)];
    assert_eq!(modes, want.map(|(name, mode)| (name.to_owned(), mode)));
    let (plain, source) = (&mut LayerBuilder::new(), &mut LayerBuilder::new());
    let plain = plain.file("app/agent.py", &b"x = 1\n"[..]).unwrap().to_bytes().unwrap();
    assert_eq!(source.source_file("app/agent.py", &b"x = 1\n"[..]).unwrap().to_bytes().unwrap(), plain);
}

#[test]
fn files_on_disk_are_the_same_in_memory_and_in_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("tree");
    fs::create_dir_all(root.join("pkg")).unwrap();
    let noise: Vec<u8> = (0..3_500_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    fs::write(root.join("pkg/big.bin"), &noise).unwrap();
    fs::write(root.join("pkg/tool"), "#!").unwrap();
    let long = format!("{}/{}.py", "d".repeat(120), "größe".repeat(20));
    fs::create_dir_all(root.join(&long).parent().unwrap()).unwrap();
    fs::write(root.join(&long), "long").unwrap();
    fs::set_permissions(root.join("pkg/tool"), fs::Permissions::from_mode(0o700)).unwrap();
    let mut layer = LayerBuilder::new();
    layer.directory("/opt/x/pkg/empty").unwrap();
    for file in ["pkg/big.bin", "pkg/tool", &long] {
        layer.disk_file(&format!("/opt/x/{file}"), root.join(file)).unwrap();
    }
    let part = FilePart { path: root.join("pkg/big.bin").into(), offset: 5, size: 1_500_000 };
    layer.part_of_file("/opt/x/pkg/part.bin", part).unwrap();
    let (described, bytes) = layer.to_bytes().unwrap();
    let (mut file, mut plain) = (Vec::new(), Vec::new());
    assert_eq!(layer.write_to(&mut file, &mut plain).unwrap(), described);
    assert_eq!(file, bytes);
    let entries = unpack(&bytes);
    let find = |name: &str| entries.iter().find(|e| e.0 == name).unwrap();
    assert_eq!(find("opt/x/pkg/big.bin").3, noise);
    assert_eq!(find("opt/x/pkg/part.bin").3, noise[5..1_500_005]);
    assert_eq!(find("opt/x/pkg/empty/").1, 0o755);
    assert_eq!(find("opt/x/pkg/tool").1, 0o755);
    assert_eq!(find(&format!("opt/x/{long}")).3, b"long");
    let archive: Vec<u8> = {
        let mut out = Vec::new();
        MultiGzDecoder::new(&bytes[..]).read_to_end(&mut out).unwrap();
        out
    };
    assert_eq!(Digest::of(&archive), described.diff_id);
    assert_eq!(plain, archive);
}

#[test]
fn paths_cannot_leave_the_image_or_be_two_things() {
    let mut layer = LayerBuilder::new();
    for bad in ["../x", "a/../x", "a//b", "//a", "a/.", "a\0b"] {
        assert!(layer.file(bad, &b""[..]).is_err(), "{bad:?}");
    }
    layer.file("a/b", &b""[..]).unwrap();
    assert!(layer.file("a/b", &b""[..]).is_err());
    assert!(layer.file("a/b/c", &b""[..]).is_err());
    assert!(layer.file("a", &b""[..]).is_err());
    assert!(layer.directory("a/b").is_err());
    assert!(layer.directory("a").is_ok());
}

#[test]
fn a_full_disk_is_told_with_its_cause() {
    struct Full;
    impl io::Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::from_raw_os_error(28))
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut layer = LayerBuilder::new();
    layer.file("a", &b"x"[..]).unwrap();
    let e = layer.write_to(&mut Full, &mut io::sink()).unwrap_err();
    assert_eq!((e.code, e.message.as_str()), (Code::InsufficientStorage, "the disk is full while writing a layer"));
    assert!(e.chain().contains("No space left"), "{}", e.chain());
}
