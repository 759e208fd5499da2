//! An installed directory of packages made the same for everybody: without scripts and notes about the installation,
//! and with bytecode that needs no check when it is loaded.

use super::{Interpreter, process};
use hoistway_model::{Code, Error, Result, image::SITE_DIR};
use std::{fs, io, path::Path, time::Duration};

/// Compiles one share of the files.
const SCRIPT: &str = include_str!("site.py");
/// How many processes compile. Fixed, because which files a process has compiled before can show in its bytes.
const SHARES: usize = 2;
/// What an installer writes about the installation.
const NOTES: [&str; 4] = ["INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"];

/// Normalises and compiles a directory that [`super::Uv::install`] filled. `limit` is for the compilation.
pub async fn finish(target: &Path, interpreter: &Interpreter, limit: Duration) -> Result<()> {
    let failed = |e: io::Error| Error::internal("normalising installed packages", e);
    let root = target.to_owned();
    tokio::task::spawn_blocking(move || normalise(&root))
        .await
        .map_err(|e| Error::internal("normalising installed packages", e))?
        .map_err(failed)?;
    let shares = (0..SHARES).map(|share| compile(target, interpreter, share, limit));
    futures_util::future::try_join_all(shares).await.map(|_| ())
}

async fn compile(target: &Path, interpreter: &Interpreter, share: usize, limit: Duration) -> Result<()> {
    // No -I: it would ignore the hash seed. Nothing else is inherited, and -P's work is done by -S and the cleared
    // environment: the script imports only built-in and standard modules before it reads its arguments.
    let mut command = process::command(&interpreter.executable, [("PYTHONHASHSEED", "0")]);
    command.args(["-s", "-S", "-B", "-c", SCRIPT]).arg(target).arg(SITE_DIR);
    command.arg(share.to_string()).arg(SHARES.to_string()).current_dir("/");
    match process::run(command, None, limit, &|_| ()).await {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => {
            let message = format!("the installed packages cannot be compiled: Python ended with {}", done.status);
            Err(Error::new(Code::BuildFailed, message).with_details(done.stderr.into_iter().rev().take(20).rev()))
        }
        Err(process::Failure::Io(e)) => Err(Error::internal("compiling installed packages", e)),
        Err(e) => Err(Error::new(Code::BuildFailed, format!("the installed packages cannot be compiled: {e}"))),
    }
}

/// Removes what differs from one installation to the next, and scripts, which name this machine's interpreter.
fn normalise(root: &Path) -> io::Result<()> {
    remove(&root.join("bin"))?;
    remove(&root.join(".lock"))?;
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let path = entry.path();
            if !entry.file_type()?.is_dir() {
                continue;
            }
            if name == "__pycache__" {
                fs::remove_dir_all(&path)?;
            } else if directory == root && name.to_string_lossy().ends_with(".dist-info") {
                normalise_notes(&path)?;
            } else {
                open.push(path);
            }
        }
    }
    Ok(())
}

fn normalise_notes(dist_info: &Path) -> io::Result<()> {
    for note in NOTES {
        remove(&dist_info.join(note))?;
    }
    let record = dist_info.join("RECORD");
    let text = match fs::read_to_string(&record) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    let name = dist_info.file_name().unwrap_or_default().to_string_lossy();
    let gone = |line: &&str| {
        let file = line.trim_start_matches('"');
        NOTES.iter().any(|note| {
            let rest = file.strip_prefix(&*name).and_then(|rest| rest.strip_prefix('/')?.strip_prefix(note));
            rest.is_some_and(|rest| rest.starts_with([',', '"']))
        }) || file.starts_with("bin/")
            || file.starts_with("../")
            || file.contains("__pycache__/")
    };
    let mut lines: Vec<&str> = text.lines().filter(|line| !gone(line)).collect();
    lines.sort_unstable();
    fs::write(&record, lines.join("\n") + "\n")
}

/// Removes a file or a directory that may not be there.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match removed {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::layer::LayerBuilder;
    use std::process::Command;

    const LIMIT: Duration = Duration::from_secs(120);

    fn install(root: &Path, noise: &str) {
        let files = [
            ("pkg/__init__.py", "import sys\nWHERE = sys._getframe().f_code.co_filename\nSET = 1 in {'a', 2}\n"),
            ("pkg/broken.py", "print 'two'\n"),
            ("pkg/data.txt", "x"),
            ("single.py", "def f(a, *, b=(1, 2.5, 'c')):\n    return [a, b, a[1:2]]\n"),
            ("pkg-1.dist-info/METADATA", "Name: pkg"),
            ("pkg-1.dist-info/INSTALLER", noise),
            ("pkg-1.dist-info/REQUESTED", ""),
            (".lock", ""),
            ("bin/pkg", noise),
            ("pkg/__pycache__/old.cpython-311.pyc", noise),
        ];
        for (name, text) in files {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        }
        let record = format!(
            "single.py,sha256=x,3\npkg/__init__.py,,\nbin/pkg,{noise},1\npkg-1.dist-info/INSTALLER,{noise},2\n\
             pkg-1.dist-info/REQUESTED,,\npkg-1.dist-info/RECORD,,\n../../bin/x,,\npkg/__pycache__/a.pyc,,\n"
        );
        fs::write(root.join("pkg-1.dist-info/RECORD"), record).unwrap();
    }

    #[tokio::test]
    async fn two_installations_become_one_and_the_bytecode_is_used() {
        let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut layers = Vec::new();
        for noise in ["uv", "pip"] {
            let root = dir.path().join(noise);
            install(&root, noise);
            finish(&root, &python, LIMIT).await.unwrap();
            layers.push(LayerBuilder::new().tree(SITE_DIR, &root).unwrap().to_bytes().unwrap().0);
        }
        assert_eq!(layers[0], layers[1]);

        let root = dir.path().join("uv");
        let record = fs::read_to_string(root.join("pkg-1.dist-info/RECORD")).unwrap();
        assert_eq!(record, "pkg-1.dist-info/RECORD,,\npkg/__init__.py,,\nsingle.py,sha256=x,3\n");
        for gone in ["bin", ".lock", "pkg-1.dist-info/INSTALLER", "pkg/__pycache__/old.cpython-311.pyc"] {
            assert!(!root.join(gone).exists(), "{gone}");
        }
        // A changed source is not looked at: the bytecode alone decides.
        fs::write(root.join("single.py"), "raise SystemExit('source was read')").unwrap();
        let script = "import sys; sys.path.insert(0, sys.argv[1]); import single, pkg; print(single.f('abc'), pkg.SET)";
        let run = Command::new(&python.executable).args(["-I", "-B", "-c", script]).arg(&root).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&run.stdout), "['abc', (1, 2.5, 'c'), 'b'] False\n", "{run:?}");
        let cached = fs::read_dir(root.join("pkg/__pycache__")).unwrap().map(|e| fs::read(e.unwrap().path()).unwrap());
        let name = format!("{SITE_DIR}/pkg/__init__.py");
        assert!(cached.into_iter().any(|bytes| bytes.windows(name.len()).any(|w| w == name.as_bytes())));
    }
}
