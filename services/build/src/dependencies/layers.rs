//! Packages become layers in the blob store.

use super::{
    stage::{Stage, WhileWanted},
    staging::Staged,
};
use crate::{
    layer::{Layer, LayerBuilder},
    registry::{BlobStore, StagedBlob},
};
use hoistway_kit::{parallelism::workers, telemetry};
use hoistway_model::{
    Digest, Error, Result,
    image::SITE_DIR,
    unpacked_layers::{UnpackedLayers, UnpackingLayer},
};
use std::{
    io::{self, Write},
    sync::Arc,
};
use tokio::{sync::Semaphore, task::spawn_blocking};
use tracing::{Instrument, info_span};

const DOING: &str = "packing packages";

/// Makes layers. Their bytes depend on the packages in them alone.
pub struct Packer {
    blobs: BlobStore,
    /// Keeps the packages where they are.
    stage: Arc<Stage>,
    /// Where layers are unpacked as well, if agents run in this process.
    unpacked: Option<Arc<dyn UnpackedLayers>>,
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
    /// Makes layers of what is on `stage`.
    pub fn new(blobs: BlobStore, stage: Arc<Stage>, unpacked: Option<Arc<dyn UnpackedLayers>>) -> Self {
        Self { blobs, stage, unpacked, slots: Semaphore::new(workers()) }
    }

    /// The layer of a group of packages, those that take precedence last.
    pub async fn pack(&self, key: Digest, group: Vec<Arc<Staged>>) -> Result<PackedLayer> {
        let _slot = self.slots.acquire().await.map_err(|e| Error::internal(DOING, e))?;
        let span = info_span!("build.pack", hoistway.build.packages = group.len());
        let (blobs, stage, unpacked) = (self.blobs.clone(), Arc::clone(&self.stage), self.unpacked.clone());
        let packing = spawn_blocking(move || {
            let (layer, blob) = write(&group, &blobs, &stage, unpacked.as_deref())?;
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

fn write(
    group: &[Arc<Staged>],
    blobs: &BlobStore,
    stage: &Stage,
    unpacked: Option<&dyn UnpackedLayers>,
) -> Result<(Layer, StagedBlob)> {
    let mut builder = LayerBuilder::new();
    let site = SITE_DIR.trim_start_matches('/');
    for Staged { installed, .. } in group.iter().map(Arc::as_ref) {
        installed.add_to(&mut builder, site)?;
    }
    for bytecode in group.iter().filter_map(|package| package.bytecode.as_ref()) {
        bytecode.add_to(&mut builder, site)?;
    }
    let mut unpacking = Unpacking::begin(unpacked);
    let mut blob = WhileWanted { stage, out: blobs.writer()? };
    let layer = builder.write_to(&mut blob, &mut unpacking)?;
    unpacking.finish(&layer);
    Ok((layer, blob.out.finish()))
}

/// A layer that is unpacked while it is made. That it cannot be is no reason not to make it: it is pulled then.
struct Unpacking(Option<Box<dyn UnpackingLayer>>);

impl Unpacking {
    fn begin(unpacked: Option<&dyn UnpackedLayers>) -> Self {
        Self(unpacked.and_then(|unpacked| unpacked.begin().inspect_err(Self::failed).ok()))
    }

    fn finish(self, layer: &Layer) {
        if let Some(Err(e)) = self.0.map(|unpacking| unpacking.finish(layer.digest, layer.diff_id)) {
            Self::failed(&e);
        }
    }

    fn failed(e: &io::Error) {
        tracing::warn!("a new layer cannot be unpacked while it is made, and is pulled instead: {e}");
    }
}

impl Write for Unpacking {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(unpacking) = &mut self.0
            && let Err(e) = unpacking.write_all(bytes)
        {
            Self::failed(&e);
            self.0 = None;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
