//! The way back: an image's source layer and labels say what it was built from, so that it can be built again for
//! another interpreter although nobody sends the source a second time. An image may have been pushed by anybody who has
//! the key; what is read here is checked and bounded like a request.

use crate::{
    image::{ExistingImage, SOURCE_HISTORY, UnusableImage},
    registry::BlobStore,
};
use flate2::read::MultiGzDecoder;
use hoistway_model::{
    Code, Digest, Error, Result,
    build::BuildSource,
    image::{APP_DIR, label},
    source,
};
use std::{collections::BTreeMap, io::Read};

/// The most bytes of a configuration, and of a source layer's archive: files and their headers.
const MAX_CONFIG: u64 = 4 << 20;
const MAX_ARCHIVE: u64 = source::MAX_BYTES as u64 + (source::MAX_FILES as u64 + 1) * 8192;

/// The history's line about packages when they were one layer and their requirements were not kept.
const FORMER_PACKAGES: &str = "hoistway: dependencies";

/// The source from which the image of a manifest was built. Blocks.
pub fn source(manifest: &[u8], blobs: &BlobStore) -> Result<BuildSource> {
    let unusable = |why: UnusableImage| unknown(&why.to_string()).with_source(why);
    let config = ExistingImage::config_digest(manifest).map_err(unusable)?;
    let config = read(blobs, &config, MAX_CONFIG)?;
    let image = ExistingImage::parse(manifest, &config).map_err(unusable)?;
    let entry_point = image.label(label::ENTRY_POINT).ok_or_else(|| unknown("it does not say which file to start"))?;
    let requirements = match image.label(label::REQUIREMENTS) {
        Some(requirements) => requirements,
        None if image.layers_with_origin().all(|(_, origin)| origin != FORMER_PACKAGES) => "",
        None => {
            let why = "it was built by an earlier Hoistway, which did not keep what its packages were resolved from";
            return Err(unknown(why));
        }
    };
    let (layer, _) = image
        .layers_with_origin()
        .rfind(|(_, origin)| *origin == SOURCE_HISTORY)
        .ok_or_else(|| unknown("it has no source layer"))?;
    BuildSource::parse(files(blobs, &layer)?, Some(entry_point), Some(requirements))
}

fn files(blobs: &BlobStore, layer: &Digest) -> Result<BTreeMap<String, Vec<u8>>> {
    let unreadable = |e: std::io::Error| unknown("its source layer cannot be read").with_source(e);
    let (blob, _) = blobs.read(layer)?.ok_or_else(|| unknown("its source layer is gone"))?;
    let mut archive = tar::Archive::new(MultiGzDecoder::new(blob).take(MAX_ARCHIVE));
    let mut files = BTreeMap::new();
    for entry in archive.entries().map_err(unreadable)? {
        let mut entry = entry.map_err(unreadable)?;
        let path = String::from_utf8(entry.path_bytes().into_owned()).map_err(|_| unknown("a name is not UTF-8"))?;
        let inside = path.strip_prefix(APP_DIR.trim_start_matches('/')).and_then(|rest| rest.strip_prefix('/'));
        if let Some(name) = inside.filter(|_| entry.header().entry_type().is_file()) {
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(unreadable)?;
            files.insert(name.to_owned(), content);
        }
    }
    Ok(files)
}

fn read(blobs: &BlobStore, digest: &Digest, limit: u64) -> Result<Vec<u8>> {
    let (file, _) = blobs.read(digest)?.ok_or_else(|| unknown("its configuration is gone"))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(|e| Error::internal("reading an image's configuration", e))?;
    Ok(bytes)
}

fn unknown(why: &str) -> Error {
    let text = format!("the image cannot be built again: {why}; deploy its source again");
    Error::new(Code::UnsupportedImage, text)
}
