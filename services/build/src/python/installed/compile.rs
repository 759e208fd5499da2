//! Bytecode for packages that an installer left, and for the runner.

use super::{BIN, Installed};
use crate::python::{
    Interpreter, Sandbox, process,
    sandbox::{FileAccess, Role},
};
use hoistway_model::{Code, Error, Result, image::SITE_DIR};
use serde::Serialize;
use std::{io, path::Path, time::Duration};

/// Compiles packages.
const SCRIPT: &str = include_str!("../site.py");
/// A package with more files is compiled by several processes.
const LARGE: usize = 512;

/// The files that one process of the script compiles.
#[derive(Debug, Serialize)]
pub struct Sources<'a> {
    /// Its name in errors.
    #[serde(skip)]
    pub name: &'a str,
    /// Where the image has the sources.
    #[serde(skip)]
    pub in_image: &'a str,
    /// Where they are.
    pub root: &'a Path,
    /// Their names below it.
    pub files: &'a [String],
    /// Where the bytecode goes, a directory that [`Sandbox::make_dir`] made.
    pub out: &'a Path,
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
) -> Result<()> {
    let files: Vec<String> =
        package.files.keys().filter(|file| file.ends_with(".py") && !file.starts_with(BIN)).cloned().collect();
    if files.is_empty() {
        return Ok(());
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
) -> Result<()> {
    let failed = |e: io::Error| Error::internal("compiling installed packages", e);
    let input = serde_json::to_vec(&[sources]).map_err(|e| failed(e.into()))?;
    // No -I: it would ignore the hash seed. Nothing else is inherited, and -P's work is done by -S and the cleared
    // environment: the script imports only built-in and standard modules.
    let access = FileAccess { read: vec![sources.root], write: vec![sources.out], ..FileAccess::default() };
    let env = [("PYTHONHASHSEED", "0")];
    let mut command = sandbox.command(&interpreter.executable, env, Role::Reader, &access).map_err(failed)?;
    command.args(["-s", "-S", "-B", "-c", SCRIPT, sources.in_image]).arg(forks.to_string()).current_dir("/");
    let refused =
        |why: String| Error::new(Code::BuildFailed, format!("the package {} cannot be compiled: {why}", sources.name));
    match process::run(command, Some(&input), limit, &|_| ()).await {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => {
            let why = process::cut_off(done.status, sandbox.memory());
            let why = why.unwrap_or_else(|| format!("Python ended with {}", done.status));
            Err(refused(why).with_details(done.stderr.into_iter().rev().take(20).rev()))
        }
        Err(process::Failure::Io(e)) => Err(failed(e)),
        Err(e) => Err(refused(e.to_string())),
    }
}
