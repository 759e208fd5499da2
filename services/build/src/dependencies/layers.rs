//! Packages become layers in the blob store.

use super::{layer_grouping::Package, staging::Staging};
use crate::{
    layer::{Layer, LayerBuilder},
    registry::{BlobStore, StagedBlob},
};
use hoistway_model::{Digest, Error, Result, image::SITE_DIR};
use std::{
    io::Write,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
};

/// Up to this many unpacked bytes a layer is made in memory, and several at a time.
const SMALL: u64 = 16 << 20;

/// A layer to be made.
struct Job {
    key: Digest,
    builder: LayerBuilder,
    size: u64,
}

/// Makes the layer of each group and stores them together. The bytes depend on the group alone.
pub async fn write_layers(
    groups: &[(Digest, &[Package])],
    staging: &Staging<'_>,
    blobs: &BlobStore,
) -> Result<Vec<(Digest, Layer)>> {
    let mut plans = Vec::new();
    for (key, group) in groups {
        let mut files: Vec<(String, PathBuf)> = Vec::new();
        let mut bytecode: Vec<PathBuf> = Vec::new();
        for package in *group {
            let found = staging.package(&package.name);
            let (installed, compiled) =
                found.ok_or_else(|| Error::internal("packing packages", format!("{} is missing", package.name)))?;
            files.extend(installed.files.keys().map(|file| (file.clone(), installed.root.join(file))));
            bytecode.extend(compiled.map(PathBuf::from));
        }
        plans.push((*key, files, bytecode, group.iter().map(|package| package.size).sum::<u64>()));
    }
    let (blobs, scratch) = (blobs.clone(), staging.scratch().to_owned());
    let packed = tokio::task::spawn_blocking(move || {
        let mut jobs = Vec::new();
        for (key, files, bytecode, size) in plans {
            let mut builder = LayerBuilder::new();
            let site = SITE_DIR.trim_start_matches('/');
            for (file, source) in files {
                builder.disk_file(&format!("{site}/{file}"), source)?;
            }
            for directory in bytecode {
                builder.tree(site, &directory)?;
            }
            jobs.push(Job { key, builder, size });
        }
        store(jobs, &blobs, &scratch)
    });
    packed.await.map_err(|e| Error::internal("packing packages", e))?
}

fn store(jobs: Vec<Job>, blobs: &BlobStore, scratch: &std::path::Path) -> Result<Vec<(Digest, Layer)>> {
    let mut batch = blobs.batch();
    let mut made = Vec::new();
    let (small, large): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.size <= SMALL);
    // Those that are worth it are compressed by several threads each.
    for (number, job) in large.into_iter().enumerate() {
        let file = scratch.join(format!("layer-{number}"));
        let layer = job.builder.write_to(&file)?;
        batch.adopt_file(file, &layer.digest)?;
        made.push((job.key, layer));
    }
    for (key, layer, staged) in in_parallel(small, blobs)? {
        batch.add(staged);
        made.push((key, layer));
    }
    batch.commit()?;
    Ok(made)
}

/// Each thread takes the next job until none is left.
fn in_parallel(jobs: Vec<Job>, blobs: &BlobStore) -> Result<Vec<(Digest, Layer, StagedBlob)>> {
    let threads = thread::available_parallelism().map_or(1, usize::from).clamp(1, 4);
    let jobs = Mutex::new(jobs.into_iter());
    let next = || jobs.lock().unwrap_or_else(PoisonError::into_inner).next();
    let work = || {
        let mut done = Vec::new();
        while let Some(job) = next() {
            let (layer, bytes) = job.builder.to_bytes()?;
            let mut writer = blobs.writer()?;
            writer.write_all(&bytes).map_err(|e| Error::internal("writing a layer", e))?;
            done.push((job.key, layer, writer.finish()));
        }
        Ok::<_, Error>(done)
    };
    let finished: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut all = Vec::new();
    for done in finished {
        all.extend(done.map_err(|_| Error::internal("packing packages", "a thread ended early"))??);
    }
    Ok(all)
}
