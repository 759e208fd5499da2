//! The C library of a base image, found in its layers: no image's configuration names it, and a wheel with native code
//! is for one of them. Everything here blocks.

use crate::python::Libc;
use flate2::bufread::MultiGzDecoder;
use std::io::{self, BufRead, BufReader, Read};
use zstd::stream::read::Decoder as ZstdDecoder;

/// The largest C library that is read, in bytes; they have about 2 MiB.
const MAX_LIBRARY: u64 = 16 << 20;
/// The most unpacked bytes of one layer that are read.
const MAX_LAYER: u64 = 8 << 30;
/// The beginning of a program or library, and where its processor is named.
const ELF: &[u8] = b"\x7fELF";
const MACHINE: usize = 18;
/// The beginning of a gzip.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The beginning of a Zstandard frame.
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// The C library for a processor in a layer; nothing if there is none. A distribution's own is in a low layer.
pub fn find(layer: impl Read, architecture: &str) -> io::Result<Option<Libc>> {
    let mut layer = BufReader::new(layer);
    match layer.fill_buf()? {
        gzip if gzip.starts_with(&GZIP) => in_archive(MultiGzDecoder::new(layer), architecture),
        zstd if zstd.starts_with(&ZSTD) => in_archive(ZstdDecoder::with_buffer(layer)?, architecture),
        _ => in_archive(layer, architecture),
    }
}

fn in_archive(archive: impl Read, architecture: &str) -> io::Result<Option<Libc>> {
    let (machine, loader) = match architecture {
        "arm64" => (183, "ld-musl-aarch64.so.1"),
        _ => (62, "ld-musl-x86_64.so.1"),
    };
    let mut archive = tar::Archive::new(archive.take(MAX_LAYER));
    let mut musl = None;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path_bytes();
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        // Before 2.34 the file had the version in its name, and the name that programs look for was a link to it.
        let is_glibc = name == b"libc.so.6" || name.starts_with(b"libc-2.") && name.ends_with(b".so");
        let is_musl = name == loader.as_bytes();
        if !(is_glibc || is_musl) || !entry.header().entry_type().is_file() {
            continue;
        }
        let mut library = Vec::new();
        entry.by_ref().take(MAX_LIBRARY).read_to_end(&mut library)?;
        if !library.starts_with(ELF) || library.get(MACHINE..MACHINE + 2) != Some(&[machine, 0]) {
            continue;
        }
        match glibc_version(&library) {
            Some(version) if is_glibc => return Ok(Some(version)),
            _ if is_musl => musl = Some(Libc::Musl),
            _ => {}
        }
    }
    // A distribution with glibc may have musl for its compilers besides.
    Ok(musl)
}

/// The version in the text that glibc prints when it is started as a program: `GNU C Library (Debian GLIBC 2.36-9)
/// stable release version 2.36.`
fn glibc_version(library: &[u8]) -> Option<Libc> {
    const TEXT: &[u8] = b"GNU C Library";
    const VERSION: &str = "release version ";
    let at = library.windows(TEXT.len()).position(|window| window == TEXT)?;
    let line = library[at..].split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(&line[..line.len().min(300)]).into_owned();
    let (major, rest) = line.split_once(VERSION)?.1.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some(Libc::Glibc(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::layer::LayerBuilder;

    /// The beginning of a library for a processor, and a text in it.
    fn library(machine: u8, text: &str) -> Vec<u8> {
        let mut bytes = ELF.to_vec();
        bytes.resize(MACHINE, 0);
        bytes.extend([machine, 0, 0, 0]);
        bytes.extend(text.as_bytes());
        bytes
    }

    fn found(files: &[(&str, &[u8])], architecture: &str) -> Option<Libc> {
        let mut layer = LayerBuilder::new();
        for (path, bytes) in files {
            layer.file(path, *bytes).unwrap();
        }
        let (_, bytes) = layer.to_bytes().unwrap();
        let mut plain = Vec::new();
        MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        let found = find(&bytes[..], architecture).unwrap();
        assert_eq!(find(&plain[..], architecture).unwrap(), found);
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 3).unwrap();
        assert_eq!(find(&zstd(&plain)[..], architecture).unwrap(), found);
        // Files of a layer may be frames of their own, with a table of contents in one that is to be skipped.
        let table = [&[0x50, 0x2a, 0x4d, 0x18, 5, 0, 0, 0][..], b"table"].concat();
        let frames = plain.chunks(700).flat_map(|part| [zstd(part), table.clone()].concat()).collect::<Vec<u8>>();
        assert_eq!(find(&frames[..], architecture).unwrap(), found);
        let cut = find(&zstd(&plain)[..20], architecture).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
        let other = find(&b"\x28\xb5\x2f\xfd of zstd"[..], architecture).unwrap_err();
        assert_eq!(other.kind(), io::ErrorKind::Other);
        found
    }

    #[test]
    fn the_library_for_the_images_processor_is_found() {
        let debian = "x\0GNU C Library (Debian GLIBC 2.36-9+deb12u9) stable release version 2.36.\nCopyright";
        let (arm, intel) = (library(183, debian), library(62, debian));
        let old = library(62, "GNU C Library (GNU libc) stable release version 2.31.\n");
        let musl = library(183, "musl libc (%s)\nVersion %s\n");
        for (files, architecture, want) in [
            (&[("usr/lib/aarch64-linux-gnu/libc.so.6", &arm[..])][..], "arm64", Some(Libc::Glibc(2, 36))),
            (&[("usr/lib/aarch64-linux-gnu/libc.so.6", &intel[..])], "arm64", None),
            (&[("lib/x86_64-linux-gnu/libc-2.31.so", &old[..])], "amd64", Some(Libc::Glibc(2, 31))),
            (&[("lib/ld-musl-aarch64.so.1", &musl[..])], "arm64", Some(Libc::Musl)),
            (&[("lib/ld-musl-aarch64.so.1", &musl[..])], "amd64", None),
            (&[("lib/ld-musl-aarch64.so.1", &musl[..]), ("lib64/libc.so.6", &arm)], "arm64", Some(Libc::Glibc(2, 36))),
            (&[("lib/libc.so.6", b"no library")], "amd64", None),
            (&[("etc/os-release", b"ID=alpine")], "amd64", None),
        ] {
            assert_eq!(found(files, architecture), want, "{architecture} {:?}", files.iter().map(|f| f.0));
        }
    }

    #[test]
    fn this_machines_own_library_says_its_version() {
        let told = std::process::Command::new("getconf").arg("GNU_LIBC_VERSION").output();
        let told = told.map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned()).unwrap_or_default();
        let places = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6", "/lib64/libc.so.6"];
        let library = places.iter().find_map(|place| std::fs::read(place).ok());
        if let (Ok(told), Some(library)) = (told.parse(), library) {
            assert_eq!(glibc_version(&library), Some(told));
        }
    }
}
