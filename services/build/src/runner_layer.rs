//! The runtime layer: the runner that every image carries, with its bytecode, so that a start compiles nothing. Where
//! the host's interpreter cannot compile for an image's Python, the runner goes without.

use crate::{
    image::ImageLayer,
    layer::{Layer, LayerBuilder},
    python::{
        Interpreter, Sandbox, Target,
        installed::{Sources, compile_sources},
        sandbox::Role,
    },
    registry::BlobStore,
};
use hoistway_model::{
    Error, Result,
    image::{LAYER_HISTORY, RUNNER_PATH},
};
use std::{io, path::Path, time::Duration};
use tokio::{sync::OnceCell, task::spawn_blocking};

const DOING: &str = "making the runtime layer";
/// The time that compiling may take: it takes a moment, and this machine may be busy.
const LIMIT: Duration = Duration::from_secs(120);
/// The beginning of the paths of the package's files. The main file beside it is never taken from bytecode.
const PACKAGE: &str = "_hoistway_runner/";

macro_rules! files {
    ($($path:literal),+ $(,)?) => { [$(($path, include_bytes!(concat!("../runner/", $path)).as_slice())),+] };
}

/// The files of the runner, by their paths below its directory.
const FILES: &[(&str, &[u8])] = &files![
    "_hoistway_runner/__init__.py",
    "_hoistway_runner/annotations.py",
    "_hoistway_runner/app_routes.py",
    "_hoistway_runner/arguments.py",
    "_hoistway_runner/asgi.py",
    "_hoistway_runner/building.py",
    "_hoistway_runner/callers.py",
    "_hoistway_runner/capture.py",
    "_hoistway_runner/commands.py",
    "_hoistway_runner/confinement.py",
    "_hoistway_runner/data.py",
    "_hoistway_runner/discovery.py",
    "_hoistway_runner/end_users.py",
    "_hoistway_runner/environment.py",
    "_hoistway_runner/errors.py",
    "_hoistway_runner/fitting.py",
    "_hoistway_runner/frameworks.py",
    "_hoistway_runner/graphs.py",
    "_hoistway_runner/http.py",
    "_hoistway_runner/import_recording.py",
    "_hoistway_runner/kits.py",
    "_hoistway_runner/loading.py",
    "_hoistway_runner/loop.py",
    "_hoistway_runner/offered.py",
    "_hoistway_runner/own_files.py",
    "_hoistway_runner/pages.py",
    "_hoistway_runner/paths.py",
    "_hoistway_runner/remedies.py",
    "_hoistway_runner/results.py",
    "_hoistway_runner/scripts.py",
    "_hoistway_runner/sdks.py",
    "_hoistway_runner/server.py",
    "_hoistway_runner/servers.py",
    "_hoistway_runner/serving.py",
    "_hoistway_runner/start.py",
    "_hoistway_runner/steering.py",
    "_hoistway_runner/tables.py",
    "_hoistway_runner/unnamed.py",
    "_hoistway_runner/warm_parent.py",
    "_hoistway_runner/web.py",
    "_hoistway_runner/wsgi.py",
    "hoistway_runner.py",
];

/// The runtime layers, in the blob store.
#[derive(Debug)]
pub struct RunnerLayers {
    blobs: BlobStore,
    compiled: ImageLayer,
    /// Made when the first image needs it.
    plain: OnceCell<ImageLayer>,
}

impl RunnerLayers {
    /// Makes the layer with bytecode in `work`, and stores it.
    pub async fn open(interpreter: &Interpreter, sandbox: &Sandbox, work: &Path, blobs: BlobStore) -> Result<Self> {
        let compiled = stored(build(interpreter, sandbox, work).await?, &blobs).await?;
        Ok(Self { blobs, compiled, plain: OnceCell::new() })
    }

    /// The layer for a target.
    pub async fn layer(&self, target: &Target) -> Result<&ImageLayer> {
        if target.compiler().is_some() {
            return Ok(&self.compiled);
        }
        self.plain.get_or_try_init(|| async { stored(plain()?, &self.blobs).await }).await
    }
}

async fn stored((layer, bytes): (Layer, Vec<u8>), blobs: &BlobStore) -> Result<ImageLayer> {
    let into = blobs.clone();
    let storing = spawn_blocking(move || {
        let digest = into.put_bytes(&bytes)?;
        // Every image to come needs it.
        into.pin(digest);
        Ok(ImageLayer { layer, created_by: format!("{LAYER_HISTORY}runtime") })
    });
    storing.await.map_err(|e| Error::internal("writing the runtime layer", e))?
}

/// The layer without bytecode, and its bytes.
fn plain() -> Result<(Layer, Vec<u8>)> {
    source_layer()?.to_bytes()
}

/// The runner's files.
fn source_layer() -> Result<LayerBuilder> {
    let in_image = directory().trim_start_matches('/');
    let mut layer = LayerBuilder::new();
    for (path, bytes) in FILES {
        layer.file(&format!("{in_image}/{path}"), *bytes)?;
    }
    Ok(layer)
}

/// The runner's directory in the image.
fn directory() -> &'static str {
    RUNNER_PATH.rsplit_once('/').map_or("", |(directory, _)| directory)
}

/// The layer and its bytes, which depend on the runner and the interpreter alone. It is put together in `work`.
async fn build(interpreter: &Interpreter, sandbox: &Sandbox, work: &Path) -> Result<(Layer, Vec<u8>)> {
    let failed = |e: io::Error| Error::internal(DOING, e);
    let in_image = directory();
    let (work, owner) = (work.to_owned(), sandbox.clone());
    let preparing = spawn_blocking(move || {
        let scratch = tempfile::tempdir_in(work)?;
        let (root, out) = (scratch.path().join("source"), scratch.path().join("bytecode"));
        owner.make_dir(&out, Role::Reader)?;
        for directory in [root.clone(), root.join(PACKAGE)] {
            owner.make_dir(&directory, Role::Reader)?;
        }
        for (path, bytes) in FILES {
            std::fs::write(root.join(path), bytes)?;
            owner.change_owner(&root.join(path), Role::Reader)?;
        }
        Ok((scratch, root, out))
    });
    let (scratch, root, out) = preparing.await.map_err(|e| failed(e.into()))?.map_err(failed)?;
    let names = FILES.iter().map(|(path, _)| (*path).to_owned());
    let files: Vec<String> = names.filter(|path| path.starts_with(PACKAGE)).collect();
    let sources = Sources { name: "runner", in_image, root: &root, files: &files, out: &out };
    let bytecode = compile_sources(&sources, 1, interpreter, sandbox, LIMIT).await?;
    let packing = spawn_blocking(move || {
        let mut layer = source_layer()?;
        bytecode.add_to(&mut layer, in_image)?;
        let made = layer.to_bytes()?;
        drop(scratch);
        Ok(made)
    });
    packing.await.map_err(|e| failed(e.into()))?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::{fs, process::Command};

    #[test]
    fn the_layer_has_every_file_of_the_runner() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("runner");
        let below = |part: &str| {
            let entries = fs::read_dir(directory.join(part)).unwrap().map(|entry| entry.unwrap());
            let names = entries.map(|entry| format!("{part}{}", entry.file_name().into_string().unwrap()));
            names.filter(|name| name.ends_with(".py") && name != "test_runner.py").collect::<Vec<_>>()
        };
        let mut there = [below(""), below(PACKAGE)].concat();
        there.sort();
        assert_eq!(FILES.iter().map(|(path, _)| *path).collect::<Vec<_>>(), there);
    }

    #[tokio::test]
    async fn the_layer_is_reproducible_and_starts_without_compiling() {
        let work = tempfile::tempdir().unwrap();
        let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
        let (made, bytes) = build(&python, &Sandbox::default(), work.path()).await.unwrap();
        assert_eq!(build(&python, &Sandbox::default(), work.path()).await.unwrap().0, made);
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 0, "nothing is left behind");

        let unpacked = work.path().join("unpacked");
        tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..])).unpack(&unpacked).unwrap();
        let runner = unpacked.join(RUNNER_PATH.trim_start_matches('/'));
        for (path, _) in FILES.iter().filter(|(path, _)| path.starts_with(PACKAGE)) {
            fs::write(runner.with_file_name(path), "raise SystemExit('it was compiled')").unwrap();
        }
        let ran =
            Command::new(&python.executable).args(["-s", "-S"]).arg(&runner).args(["--none", "1"]).output().unwrap();
        let said = String::from_utf8(ran.stderr).unwrap();
        assert_eq!(said, "hoistway_runner.py: unknown option or missing value: --none\n");
    }
}
