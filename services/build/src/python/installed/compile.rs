//! Bytecode for packages that an installer left, and for the runner.

use super::{BIN, Installed};
use crate::layer::{FilePart, LayerBuilder};
use crate::python::{
    Interpreter, Sandbox, process,
    sandbox::{FileAccess, Role},
};
use hoistway_kit::fs::{io_error, open_without_links};
use hoistway_model::{Code, Error, Result, image::SITE_DIR};
use std::{
    io::{self, Read, Seek},
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::task::spawn_blocking;

/// Compiles packages.
const SCRIPT: &str = include_str!("../site.py");
/// A package with more files is compiled by several processes.
const LARGE: usize = 512;
/// The number of files that one process compiles. Part of the format: another number might give other bytes.
const PIECE: usize = 128;
const DOING: &str = "compiling installed packages";

/// The files that one process of the script compiles.
#[derive(Debug)]
pub struct Sources<'a> {
    /// Its name in errors.
    pub name: &'a str,
    /// Where the image has the sources.
    pub in_image: &'a str,
    /// Where they are.
    pub root: &'a Path,
    /// Their names below it.
    pub files: &'a [String],
    /// Where the bytecode goes, a directory that [`Sandbox::make_dir`] made.
    pub out: &'a Path,
}

/// Bytecode on disk, and the files below the directory of the sources in which Python looks for it.
#[derive(Debug, Default)]
pub struct Bytecode(Vec<(String, FilePart)>);

impl Bytecode {
    /// Adds the files to a layer that has the sources at `at`.
    pub fn add_to(&self, layer: &mut LayerBuilder, at: &str) -> Result<()> {
        self.0.iter().try_for_each(|(file, part)| layer.part_of_file(&format!("{at}/{file}"), part.clone()).map(drop))
    }

    /// The files, and where their content is.
    pub fn files(&self) -> &[(String, FilePart)] {
        &self.0
    }

    /// What the script has left in `out`. Blocks.
    pub(super) fn read(files: &[String], out: &Path, (major, minor): (u32, u32)) -> io::Result<Self> {
        let mut found = Vec::with_capacity(files.len());
        for (number, names) in files.chunks(PIECE).enumerate() {
            let path = out.join(number.to_string());
            let mut piece = open_without_links(&path)?;
            let (path, end, mut offset) = (path.into(), piece.metadata()?.len(), 0);
            for name in names {
                let mut size = [0; 8];
                piece.read_exact(&mut size)?;
                let part = FilePart { path: Arc::clone(&path), offset: offset + 8, size: u64::from_le_bytes(size) };
                offset = part.offset.checked_add(part.size).filter(|after| *after <= end).ok_or_else(damaged)?;
                piece.seek(io::SeekFrom::Start(offset))?;
                let (above, file) = name.split_at(name.rfind('/').map_or(0, |slash| slash + 1));
                let stem = file.strip_suffix(".py").filter(|stem| !stem.is_empty()).unwrap_or("py");
                let compiled = format!("{above}__pycache__/{stem}.cpython-{major}{minor}.pyc");
                found.push((compiled, part));
            }
            if offset != end {
                return Err(damaged());
            }
        }
        Ok(Self(found))
    }
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the bytecode is not that of the sources")
}

/// Compiles a package into a directory that [`Sandbox::make_dir`] made, by a process that reaches no other's: what a
/// file does to the compiler is done to its own package. A large one is compiled by so many processes at a time.
pub async fn compile(
    package: &Installed,
    out: &Path,
    interpreter: &Interpreter,
    sandbox: &Sandbox,
    at_once: usize,
    limit: Duration,
) -> Result<Bytecode> {
    let files: Vec<String> =
        package.files.keys().filter(|file| file.ends_with(".py") && !file.starts_with(BIN)).cloned().collect();
    if files.is_empty() {
        return Ok(Bytecode::default());
    }
    let forks = if files.len() > LARGE { at_once } else { 1 };
    let sources = Sources { name: &package.name, in_image: SITE_DIR, root: &package.root, files: &files, out };
    compile_sources(&sources, forks, interpreter, sandbox, limit).await
}

/// Compiles in so many processes at a time, which reach nothing but these sources.
pub async fn compile_sources(
    sources: &Sources<'_>,
    forks: usize,
    interpreter: &Interpreter,
    sandbox: &Sandbox,
    limit: Duration,
) -> Result<Bytecode> {
    let Sources { name, in_image, root, files, out } = *sources;
    let mut input = String::new();
    for piece in files.chunks(PIECE) {
        piece.iter().for_each(|name| input.extend([name, "\0"]));
        input.push('\0');
    }
    // No -I: it would ignore the hash seed. Nothing else is inherited, and -P's work is done by -S and the cleared
    // environment: the script imports only built-in and standard modules.
    let access = FileAccess { read: vec![root], write: vec![out], ..FileAccess::default() };
    let env = [("PYTHONHASHSEED", "0")];
    let mut command = sandbox.command(&interpreter.executable, env, Role::Reader, &access).map_err(io_error(DOING))?;
    command.args(["-s", "-S", "-B", "-c", SCRIPT, in_image]).args([root, out]).arg(forks.to_string()).current_dir("/");
    let refused = |why: String| Error::new(Code::BuildFailed, format!("the package {name} cannot be compiled: {why}"));
    match process::run(command, Some(input.as_bytes()), limit, &|_| ()).await {
        Ok(done) if done.status.success() => {}
        Ok(done) => {
            let why = process::cut_off(done.status, sandbox.memory());
            let why = why.unwrap_or_else(|| format!("Python ended with {}", done.status));
            return Err(refused(why).with_details(done.stderr.into_iter().rev().take(20).rev()));
        }
        Err(process::Failure::Io(e)) => return Err(io_error(DOING)(e)),
        Err(e) => return Err(refused(e.to_string())),
    }
    let (files, out, version) = (files.to_vec(), out.to_owned(), interpreter.version);
    let reading = spawn_blocking(move || Bytecode::read(&files, &out, version));
    let read = reading.await.map_err(|e| Error::internal(DOING, e))?;
    read.map_err(|e| refused(e.to_string()))
}
