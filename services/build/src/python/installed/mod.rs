//! The files of one package as an installer left them in a directory, or as its wheel has them, checked against the
//! package's own list and made the same for everybody: without notes about the installation, with commands that find
//! their packages wherever they are, and with bytecode that needs no check when it is loaded.

mod compile;

pub use compile::{Bytecode, Sources, compile, compile_sources};

use crate::layer::LayerBuilder;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hoistway_kit::fs::{io_error, open_without_links};
use hoistway_model::{Code, Error, Result};
use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
};

/// Files that an installer writes about the installation.
const NOTES: [&str; 4] = ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"];
/// The number of files of a package that are kept in [`Installed::file_list`], and of characters of each one's
/// checksum.
const MAX_FILES_KEPT: usize = 100_000;
const CHECKSUM_KEPT: usize = 16;
/// The largest RECORD and entry_points.txt that are read, in bytes: those of the largest packages have a few MiB.
const MAX_RECORD: u64 = 8 << 20;
const MAX_ENTRY_POINTS: u64 = 1 << 20;
/// The part of a command that is read to find its interpreter, in bytes.
const FIRST_LINE: u64 = 4 << 10;
/// Where an installer puts commands.
const BIN: &str = "bin/";

/// The files of one package, in a directory of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// The normalised name of its distribution.
    pub name: String,
    /// The directory.
    pub root: PathBuf,
    /// Paths below it, and the checksum of each as the wheel's RECORD has it; none for RECORD itself.
    pub files: BTreeMap<String, String>,
    /// The content of those that are not what the directory has: RECORD, and commands.
    pub written: BTreeMap<String, Arc<[u8]>>,
    /// Bytes of them.
    pub size: u64,
}

impl Installed {
    /// Adds its files to a layer, below `site`. Blocks.
    pub fn add_to(&self, layer: &mut LayerBuilder, site: &str) -> Result<()> {
        for file in self.files.keys() {
            let path = format!("{site}/{file}");
            match self.written.get(file) {
                Some(written) => layer.package_file(&path, Arc::clone(written))?,
                None => layer.disk_file(&path, self.root.join(file))?,
            };
        }
        Ok(())
    }

    /// The files, each with as much of its checksum as tells it from others; of very many only the first.
    pub fn file_list(&self) -> BTreeMap<String, String> {
        let short = |checksum: &String| {
            let (_, hash) = checksum.split_once('=').unwrap_or_default();
            hash.chars().take(CHECKSUM_KEPT).collect()
        };
        self.files.iter().take(MAX_FILES_KEPT).map(|(path, checksum)| (path.clone(), short(checksum))).collect()
    }
}

/// Takes stock of a directory that [`super::Uv::install`] filled with one package alone, or of a wheel that
/// [`super::Uv::fetch`] found, and checks every file against the wheel's RECORD. Nothing when the directory is empty: the
/// package's marker does not hold here. Blocks.
pub fn take_stock(root: &Path, name: &str) -> Result<Option<Installed>> {
    let failed = |e| io_error("taking stock of an installed package")(e);
    let found: Vec<String> = fs::read_dir(root)
        .map_err(failed)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|entry| entry.ends_with(".dist-info"))
        .collect();
    let dist_info = match &found[..] {
        [] => return Ok(None),
        [one] if normalised(distribution(one)) == name => one,
        others => {
            let text = format!("the wheel of {name} has the metadata of other packages: {}", others.join(", "));
            return Err(malformed(text));
        }
    };
    let list = root.join(dist_info).join("RECORD");
    // A file that the installer was made to write may be a link to a file of this service.
    let is = |path: &Path, wanted: fn(&fs::FileType) -> bool| {
        fs::symlink_metadata(path).is_ok_and(|meta| wanted(&meta.file_type()))
    };
    if !is(&root.join(dist_info), fs::FileType::is_dir) || !is(&list, fs::FileType::is_file) {
        return Err(malformed(format!("the package {name} has no list of its files that can be read")));
    }
    let record = read_list(&list, MAX_RECORD).map_err(|e| {
        malformed(format!("the package {name} has no list of its files that can be read")).with_source(e)
    })?;
    let own = format!("{dist_info}/RECORD");
    let mut listed = HashMap::new();
    let mut kept = vec![written_line(&own, "", "")];
    for line in record.lines() {
        let Some((path, checksum, size)) = record_line(line) else { continue };
        if is_kept(dist_info, &path) && !path.starts_with(BIN) && path != own {
            kept.push(written_line(&path, checksum, size));
        }
        listed.insert(path, checksum.to_owned());
    }
    let mut package = Installed {
        name: name.to_owned(),
        root: root.to_owned(),
        files: BTreeMap::new(),
        written: BTreeMap::new(),
        size: 0,
    };
    let mut present = regular_files(root).map_err(failed)?;
    present.retain(|path| is_kept(dist_info, path));
    for path in present {
        let checksum = listed.remove(&path).unwrap_or_default();
        let shown = path.escape_debug();
        if path == own {
            // The list cannot have its own checksum.
        } else if checksum.is_empty() {
            if is_unlisted_by_rule(dist_info, &path) {
                continue;
            }
            return Err(malformed(format!(
                "the wheel of {name} has the file {shown} and no checksum of it in its RECORD"
            )));
        } else if !has_checksum(&root.join(&path), &checksum).map_err(failed)? {
            return Err(malformed(format!("the wheel of {name} has another file {shown} than its RECORD says")));
        }
        package.files.insert(path, checksum);
    }
    if let Some(path) = listed.into_keys().filter(|path| is_kept(dist_info, path)).min() {
        return Err(malformed(format!("the package {name} lacks its file {}", path.escape_debug())));
    }
    kept.sort_unstable();
    kept.dedup();
    package.written.insert(own, (kept.join("\n") + "\n").into_bytes().into());
    let commands = commands(&root.join(dist_info)).map_err(|e| {
        malformed(format!("the package {name} has no list of its commands that can be read")).with_source(e)
    })?;
    package.files.retain(|path, _| {
        path.strip_prefix(BIN).is_none_or(|name| !commands.contains_key(name) && is_program(&root.join(path)))
    });
    for (name, target) in &commands {
        let script = target.as_deref().and_then(script);
        let Some(script) = script.filter(|_| is_command(name)) else { continue };
        let path = format!("{BIN}{name}");
        let digest = ring::digest::digest(&ring::digest::SHA256, script.as_bytes());
        package.files.insert(path.clone(), format!("sha256={}", URL_SAFE_NO_PAD.encode(digest)));
        package.written.insert(path, script.into_bytes().into());
    }
    for path in package.files.keys() {
        package.size += match package.written.get(path) {
            Some(written) => written.len() as u64,
            None => fs::symlink_metadata(root.join(path)).map_err(failed)?.len(),
        };
    }
    Ok(Some(package))
}

/// Reads a text that a wheel brought, if it is no larger than such a text is.
fn read_list(path: &Path, limit: u64) -> io::Result<String> {
    let mut text = String::new();
    let read = open_without_links(path)?.take(limit + 1).read_to_string(&mut text)?;
    match read as u64 > limit {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it is larger than {limit} bytes"))),
        false => Ok(text),
    }
}

fn malformed(text: String) -> Error {
    Error::new(Code::RequirementFailed, text)
}

/// The name in `NAME-VERSION.dist-info`.
pub fn distribution(dist_info: &str) -> &str {
    let stem = dist_info.trim_end_matches(".dist-info");
    stem.rsplit_once('-').map_or(stem, |(name, _)| name)
}

/// Everything below `root` that is not a directory, by its path; a name that is not UTF-8 is an error.
fn regular_files(root: &Path) -> io::Result<Vec<String>> {
    let (mut files, mut open) = (Vec::new(), vec![String::new()]);
    while let Some(below) = open.pop() {
        for entry in fs::read_dir(root.join(&below))? {
            let entry = entry?;
            let name = entry.file_name().into_string().map_err(|name| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} is not UTF-8", name.to_string_lossy()))
            })?;
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            if entry.file_type()?.is_dir() { open.push(path) } else { files.push(path) }
        }
    }
    Ok(files)
}

/// Files that a wheel's RECORD never has: signatures of itself, and the installer's lock of the directory.
fn is_unlisted_by_rule(dist_info: &str, path: &str) -> bool {
    let of_record = path.strip_prefix(dist_info).and_then(|rest| rest.strip_prefix("/RECORD."));
    path == ".lock" || of_record.is_some_and(|kind| matches!(kind, "jws" | "p7s"))
}

/// Whether a regular file has a checksum, `sha256=` and its like with base64url, as RECORD has them.
fn has_checksum(file: &Path, checksum: &str) -> io::Result<bool> {
    let (algorithm, wanted) = checksum.split_once('=').unwrap_or_default();
    let algorithm = match algorithm {
        "sha256" => &ring::digest::SHA256,
        "sha384" => &ring::digest::SHA384,
        "sha512" => &ring::digest::SHA512,
        _ => return Ok(false),
    };
    if !fs::symlink_metadata(file)?.is_file() {
        return Ok(false);
    }
    let (mut file, mut hash, mut piece) =
        (open_without_links(file)?, ring::digest::Context::new(algorithm), [0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            n => hash.update(&piece[..n]),
        }
    }
    Ok(URL_SAFE_NO_PAD.encode(hash.finish()) == wanted.trim_end_matches('='))
}

/// A distribution's name as PEP 503 has it; extras are none of it.
pub fn normalised(name: &str) -> String {
    let name = name.split('[').next().unwrap_or(name).trim();
    let parts: Vec<&str> = name.split(['-', '_', '.']).filter(|part| !part.is_empty()).collect();
    parts.join("-").to_ascii_lowercase()
}

/// Path, checksum and size of a line of RECORD; quotes are there when the path has a comma or a quote in it.
fn record_line(line: &str) -> Option<(String, &str, &str)> {
    let (path, rest) = match line.strip_prefix('"') {
        None => line.split_once(',').map(|(path, rest)| (path.to_owned(), rest))?,
        Some(quoted) => {
            let end = quoted.replace("\"\"", "\0\0").find('"')?;
            (quoted[..end].replace("\"\"", "\""), quoted.get(end + 2..)?)
        }
    };
    let (checksum, size) = rest.split_once(',').unwrap_or((rest, ""));
    (!path.is_empty()).then_some((path, checksum, size))
}

/// A line of RECORD, with quotes only where they have to be, and the size without any.
fn written_line(path: &str, checksum: &str, size: &str) -> String {
    let size = size.trim_matches('"').parse::<u64>().map_or_else(|_| String::new(), |size| size.to_string());
    match path.contains([',', '"']) {
        true => format!("\"{}\",{checksum},{size}", path.replace('"', "\"\"")),
        false => format!("{path},{checksum},{size}"),
    }
}

/// Whether a file goes into the image: not notes, nor bytecode that others compiled, nor what lies outside.
fn is_kept(dist_info: &str, path: &str) -> bool {
    let inside = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    let note = path.strip_prefix(dist_info).and_then(|rest| rest.strip_prefix('/'));
    inside && !note.is_some_and(|note| NOTES.contains(&note)) && !path.split('/').any(|part| part == "__pycache__")
}

/// The package's own commands, `name` to `module:attribute`; to nothing for those with a window, which no agent has.
fn commands(dist_info: &Path) -> io::Result<BTreeMap<String, Option<String>>> {
    let text = match read_list(&dist_info.join("entry_points.txt"), MAX_ENTRY_POINTS) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text?,
    };
    let mut section = "";
    let mut found = BTreeMap::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if let Some((name, target)) = line.split_once('=') {
            let target = target.split('[').next().unwrap_or_default();
            match section {
                "[console_scripts]" => found.insert(name.trim().to_owned(), Some(target.trim().to_owned())),
                "[gui_scripts]" => found.insert(name.trim().to_owned(), None),
                _ => continue,
            };
        }
    }
    Ok(found)
}

/// Whether a command is a program, or a script for another interpreter than Python: an installer writes the
/// interpreter's path into what it generates, and into scripts of the package's own.
fn is_program(path: &Path) -> bool {
    let mut beginning = Vec::new();
    let read = open_without_links(path).and_then(|file| file.take(FIRST_LINE).read_to_end(&mut beginning));
    read.is_ok_and(|_| {
        let first = beginning.split(|b| *b == b'\n').next().unwrap_or_default();
        !(first.starts_with(b"#!") && first.windows(6).any(|word| word == b"python"))
    })
}

/// Whether a command has a name that the entry points of packages may have.
fn is_command(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    name.chars().all(fine) && !matches!(name, "" | "." | "..")
}

/// A command for `module:attribute` that depends on no machine; none if the target is no such thing.
fn script(target: &str) -> Option<String> {
    let names = |text: &str| {
        let word = |part: &str| {
            part.starts_with(|c: char| c.is_alphabetic() || c == '_')
                && part.chars().all(|c| c.is_alphanumeric() || c == '_')
        };
        text.split('.').all(word)
    };
    let (module, attribute) = target.split_once(':')?;
    let (module, attribute) = (module.trim(), attribute.trim());
    if !names(module) || !names(attribute) {
        return None;
    }
    let first = attribute.split('.').next().unwrap_or_default();
    Some(format!(
        "#!/usr/bin/env python3\nimport os, site, sys\n\
         sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))\n\
         site.addsitedir(sys.path[0])\n\
         from {module} import {first}\nsys.exit({attribute}())\n"
    ))
}

/// The files that several packages have with different content: two of the packages, and the file.
pub fn clashes<'a>(
    packages: impl Iterator<Item = (&'a str, &'a BTreeMap<String, String>)>,
) -> Vec<(&'a str, &'a str, &'a str)> {
    let mut owners: HashMap<&str, (&str, &str)> = HashMap::new();
    let mut found = Vec::new();
    for (package, files) in packages {
        for (path, checksum) in files {
            if let Some((other, theirs)) = owners.insert(path, (package, checksum))
                && theirs != checksum
            {
                found.push((other, package, path.as_str()));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
