//! Images made by hand.

use flate2::{Compression, write::GzEncoder};
use hoistway_model::{
    Digest,
    image::{label, layout},
};
use serde_json::{Value, json};
use std::io::Write;

/// One layer: its bytes as they are sent, and the digest of the archive inside.
#[derive(Clone)]
pub struct Layer {
    pub blob: Vec<u8>,
    pub diff_id: Digest,
}

/// An archive of (path, content); a path that ends with `/` is a directory.
pub fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        if path.ends_with('/') {
            header.set_entry_type(tar::EntryType::Directory);
        }
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

pub fn layer(files: &[(&str, &str)]) -> Layer {
    let archive = archive(files);
    Layer { diff_id: Digest::of(&archive), blob: gzip(&archive) }
}

/// An image: its configuration, manifest, and layers.
pub struct Image {
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
    pub layers: Vec<Layer>,
}

impl Image {
    /// An image with these labels.
    pub fn new(layers: Vec<Layer>, labels: Value) -> Self {
        let diff_ids: Vec<String> = layers.iter().map(|l| l.diff_id.to_string()).collect();
        let config = json!({
            "architecture": "amd64", "os": "linux",
            "config": {"Labels": labels},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let descriptor = |media_type: &str, blob: &[u8]| {
            let media_type = format!("application/vnd.oci.image.{media_type}");
            json!({"mediaType": media_type, "digest": Digest::of(blob).to_string(), "size": blob.len()})
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": descriptor("config.v1+json", &config),
            "layers": layers.iter().map(|l| descriptor("layer.v1.tar+gzip", &l.blob)).collect::<Vec<_>>(),
        });
        Self { config, manifest: serde_json::to_vec(&manifest).unwrap(), layers }
    }

    /// An image as our build service makes it, for `python` on this machine.
    pub fn ours(layers: Vec<Layer>, python: &str) -> Self {
        let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
        Self::new(
            layers,
            json!({
                label::IMAGE: layout::CURRENT,
                label::PYTHON: python,
                label::PLATFORM: format!("linux/{arch}"),
                label::ENTRY_POINT: "agent.py",
            }),
        )
    }

    pub fn digest(&self) -> Digest {
        Digest::of(&self.manifest)
    }
}
