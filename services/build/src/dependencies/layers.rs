//! Packages become layers in the blob store.

use super::staging::{Staged, processors};
use crate::{
    layer::{Layer, LayerBuilder},
    registry::{BlobStore, StagedBlob},
};
use hoistway_kit::telemetry;
use hoistway_model::{Digest, Error, Result, image::SITE_DIR};
use std::{io::Write, sync::Arc};
use tempfile::TempDir;
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::{Instrument, info_span};

/// From this many unpacked bytes on a layer is compressed by several threads, and not in memory.
const LARGE: u64 = 16 << 20;
const DOING: &str = "packing packages";

/// Makes layers. Their bytes depend on the packages in them alone.
pub struct Packer {
    blobs: BlobStore,
    /// Where the packages are.
    scratch: Arc<TempDir>,
    slots: Semaphore,
}

/// A layer that is written and not stored yet.
pub struct PackedLayer {
    key: Digest,
    layer: Layer,
    blob: StagedBlob,
}

impl PackedLayer {
    /// The key of its group.
    pub fn key(&self) -> Digest {
        self.key
    }
}

impl Packer {
    /// Makes layers of what is in `scratch`.
    pub fn new(blobs: BlobStore, scratch: Arc<TempDir>) -> Self {
        Self { blobs, scratch, slots: Semaphore::new(processors()) }
    }

    /// The layer of a group of packages, those that take precedence last.
    pub async fn pack(&self, key: Digest, group: Vec<Arc<Staged>>) -> Result<PackedLayer> {
        let _slot = self.slots.acquire().await.map_err(|e| Error::internal(DOING, e))?;
        let span = info_span!("build.pack", hoistway.build.packages = group.len());
        let (blobs, scratch) = (self.blobs.clone(), Arc::clone(&self.scratch));
        let packing = spawn_blocking(move || {
            let _scratch = scratch;
            let (layer, blob) = write(&group, &blobs)?;
            Ok(PackedLayer { key, layer, blob })
        });
        let packed: Result<PackedLayer> =
            packing.instrument(span.clone()).await.map_err(|e| Error::internal(DOING, e))?;
        match &packed {
            Ok(PackedLayer { layer, .. }) => {
                telemetry::set_attribute(&span, "hoistway.build.bytes", i64::try_from(layer.size).unwrap_or(i64::MAX));
            }
            Err(e) => telemetry::set_error(&span, e.code.as_str()),
        }
        packed
    }

    /// Stores layers together, and tells them by their keys.
    pub async fn store(&self, packed: Vec<PackedLayer>) -> Result<Vec<(Digest, Layer)>> {
        let mut batch = self.blobs.batch();
        let storing = spawn_blocking(move || {
            let mut stored = Vec::new();
            for PackedLayer { key, layer, blob } in packed {
                batch.add(blob);
                stored.push((key, layer));
            }
            batch.commit()?;
            Ok(stored)
        });
        storing.await.map_err(|e| Error::internal(DOING, e))?
    }
}

fn write(group: &[Arc<Staged>], blobs: &BlobStore) -> Result<(Layer, StagedBlob)> {
    let mut builder = LayerBuilder::new();
    let site = SITE_DIR.trim_start_matches('/');
    let installed = || group.iter().map(|package| &package.installed);
    for package in installed() {
        for file in package.files.keys() {
            builder.disk_file(&format!("{site}/{file}"), package.root.join(file))?;
        }
    }
    for directory in group.iter().filter_map(|package| package.bytecode.as_deref()) {
        builder.tree(site, directory)?;
    }
    let mut blob = blobs.writer()?;
    let layer = if installed().map(|package| package.size).sum::<u64>() > LARGE {
        builder.write_to(&mut blob)?
    } else {
        let (layer, bytes) = builder.to_bytes()?;
        blob.write_all(&bytes).map_err(|e| Error::internal("writing a layer", e))?;
        layer
    };
    Ok((layer, blob.finish()))
}
