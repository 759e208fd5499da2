//! The configuration and the manifest that make layers an image, as canonical JSON, so that the same parts have the
//! same digests.

use crate::{layer::Layer, platform::Platform};
use hoistway_model::{
    Digest, Error, Name, Result,
    digest::Hasher,
    env::platform,
    image::{APP_DIR, RUNNER_PATH, label, layout},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Media types of the OCI image specification.
pub mod media_type {
    /// A manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// An image's configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer in gzip.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
}

/// The line about the source layer in an image's history.
pub const SOURCE_HISTORY: &str = "hoistway: source";
/// Docker's own name for [`media_type::LAYER`]; manifests that mix both are not taken everywhere.
const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// The time that everything in an image claims: an actual one would change the digest of the same image.
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// The unprivileged user that images run as, by the number that distroless images use.
const USER: &str = "65532:65532";
/// The port on which the runner listens in a plain container by default.
const PORT: &str = "8080";
/// The search path of a plain container without a base.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Hexadecimal digits of a build id, unless two images collide.
const ID_DIGITS: usize = 12;

/// A layer and the line about it in the image's history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// The layer.
    pub layer: Layer,
    /// The tool or step that made it, such as `hoistway: source`.
    pub created_by: String,
}

/// The parts of an image.
#[derive(Debug, Clone)]
pub struct ImageSpec<'a> {
    /// `major.minor` of the Python that the layers were made for.
    pub python: &'a str,
    /// Operating system and processor.
    pub platform: &'a Platform,
    /// The entry file, relative to [`APP_DIR`].
    pub entry_point: &'a str,
    /// The text of the requirements that the packages were resolved from.
    pub requirements: &'a str,
    /// The base image.
    pub base: Option<&'a ExistingImage>,
    /// Our layers, lowest first.
    pub layers: &'a [ImageLayer],
}

/// The reason why an existing image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UnusableImage {
    /// The manifest is not that of one image: an index, for example.
    #[error("its manifest is not that of one image")]
    Manifest(#[source] serde_json::Error),
    /// The configuration is not that of an image.
    #[error("its configuration cannot be read")]
    Configuration(#[source] serde_json::Error),
    /// Manifest and configuration contradict each other.
    #[error("its configuration and its manifest have different layers")]
    DifferentLayers,
}

/// An image that exists, by its manifest and configuration. Below others its layers are referenced, and its
/// configuration is kept where ours says nothing.
#[derive(Debug, Clone)]
pub struct ExistingImage {
    manifest: ExistingManifest,
    config: Config,
}

impl ExistingImage {
    /// Returns the digest of the configuration that a manifest names.
    pub fn config_digest(manifest: &[u8]) -> Result<Digest, UnusableImage> {
        Ok(ExistingManifest::parse(manifest)?.config.digest)
    }

    /// Reads manifest and configuration. The caller has verified both digests.
    pub fn parse(manifest: &[u8], config: &[u8]) -> Result<Self, UnusableImage> {
        let mut manifest = ExistingManifest::parse(manifest)?;
        let mut config: Config = serde_json::from_slice(config).map_err(UnusableImage::Configuration)?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(UnusableImage::DifferentLayers);
        }
        for layer in &mut manifest.layers {
            if layer.media_type == DOCKER_LAYER {
                layer.media_type = media_type::LAYER.into();
            }
        }
        // Readers pair layers with history lines; a history that does not fit is worse than a plain one.
        if config.history.iter().filter(|line| line.empty_layer != Some(true)).count() != manifest.layers.len() {
            config.history = vec![History::line("base"); manifest.layers.len()];
        }
        Ok(Self { manifest, config })
    }

    /// Operating system and processor.
    pub fn platform(&self) -> Platform {
        let variant = self.config.other.get("variant").and_then(|variant| variant.as_str());
        let Config { os, architecture, .. } = &self.config;
        Platform { os: os.clone(), architecture: architecture.clone(), variant: variant.map(str::to_owned) }
    }

    /// The value of one of the image's labels.
    pub fn label(&self, name: &str) -> Option<&str> {
        self.config.config.labels.get(name).map(String::as_str)
    }

    /// The value of one of the image's environment variables.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config.config.env.iter().find_map(|e| e.strip_prefix(name)?.strip_prefix('='))
    }

    /// Digests and sizes of the layers, which the registry must have.
    pub fn layers(&self) -> impl Iterator<Item = (Digest, u64)> {
        self.manifest.layers.iter().map(|l| (l.digest, l.size))
    }

    /// The layers, lowest first, each with the history's note on what made it.
    pub fn layers_with_origin(&self) -> impl DoubleEndedIterator<Item = (Digest, &str)> {
        let lines = self.config.history.iter().filter(|line| line.empty_layer != Some(true));
        let origins: Vec<_> = lines.map(|line| line.created_by.as_deref().unwrap_or_default()).collect();
        self.manifest.layers.iter().map(|layer| layer.digest).zip(origins)
    }
}

/// A finished image: what is pushed beside its layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// The configuration blob.
    pub config: Vec<u8>,
    /// Its digest.
    pub config_digest: Digest,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// Its digest: the image's identity.
    pub digest: Digest,
}

/// Writes configuration and manifest.
pub fn assemble(spec: &ImageSpec<'_>) -> Result<Image> {
    let mut config = spec.base.map_or_else(Config::scratch, |base| base.config.clone());
    config.created = EPOCH.into();
    config.os = spec.platform.os.clone();
    config.architecture = spec.platform.architecture.clone();
    config.config.apply(spec);
    let mut layers: Vec<Descriptor> = spec.base.map_or_else(Vec::new, |base| base.manifest.layers.clone());
    for ImageLayer { layer, created_by } in spec.layers {
        layers.push(Descriptor { media_type: media_type::LAYER.into(), digest: layer.digest, size: layer.size });
        config.rootfs.diff_ids.push(layer.diff_id);
        config.history.push(History::line(created_by));
    }
    let config = canonical(&config)?;
    let config_digest = Digest::of(&config);
    let manifest = canonical(&Manifest {
        schema_version: 2,
        media_type: media_type::MANIFEST,
        config: Descriptor { media_type: media_type::CONFIG.into(), digest: config_digest, size: config.len() as u64 },
        layers,
    })?;
    let digest = Digest::of(&manifest);
    Ok(Image { config, config_digest, manifest, digest })
}

/// The hexadecimal part of the build id of an image: the first digits of a hash over agent and manifest.
/// `lengthened` is how often a shorter one turned out to be another image's.
pub fn build_hex(agent: &Name, manifest: Digest, lengthened: usize) -> String {
    let mut hasher = Hasher::new();
    hasher.member(agent.as_str().as_bytes());
    hasher.member(manifest.to_string().as_bytes());
    let mut hex = hasher.finish().hex();
    hex.truncate(ID_DIGITS.saturating_add(lengthened.saturating_mul(4)));
    hex
}

/// Compact JSON in the order of the structures; maps are sorted.
fn canonical(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::internal("writing an image's JSON", e))
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct ExistingManifest {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl ExistingManifest {
    fn parse(bytes: &[u8]) -> Result<Self, UnusableImage> {
        serde_json::from_slice(bytes).map_err(UnusableImage::Manifest)
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// An image's configuration; what a base has beside the fields that we set is kept in `other`.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Config {
    #[serde(default)]
    created: String,
    architecture: String,
    os: String,
    #[serde(default)]
    config: Process,
    rootfs: RootFs,
    #[serde(default)]
    history: Vec<History>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

impl Config {
    fn scratch() -> Self {
        Self {
            created: String::new(),
            architecture: String::new(),
            os: String::new(),
            config: Process { env: vec![PATH.into()], ..Process::default() },
            rootfs: RootFs { kind: "layers".into(), diff_ids: Vec::new() },
            history: Vec::new(),
            other: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Vec<Digest>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct History {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    empty_layer: Option<bool>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

impl History {
    fn line(created_by: &str) -> Self {
        Self {
            created: Some(EPOCH.into()),
            created_by: Some(created_by.into()),
            empty_layer: None,
            other: BTreeMap::new(),
        }
    }
}

/// The command, user and environment of a container of the image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Process {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    env: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    entrypoint: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    working_dir: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "BTreeMap::is_empty")]
    exposed_ports: BTreeMap<String, serde_json::Value>,
    #[serde(deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(deserialize_with = "or_default")]
    stop_signal: String,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

impl Process {
    fn apply(&mut self, spec: &ImageSpec<'_>) {
        self.user = USER.into();
        self.working_dir = APP_DIR.into();
        self.entrypoint = vec!["python3".into(), RUNNER_PATH.into()];
        self.stop_signal = "SIGTERM".into();
        // The base's command and health check belong to the base's entry point.
        self.other.retain(|key, _| key != "Cmd" && key != "Healthcheck");
        for (name, value) in [(platform::USER_ENTRY_POINT, spec.entry_point), (platform::PORT, PORT)] {
            self.env.retain(|e| e.split('=').next() != Some(name));
            self.env.push(format!("{name}={value}"));
        }
        self.exposed_ports = BTreeMap::from([(format!("{PORT}/tcp"), serde_json::json!({}))]);
        let platform = format!("{}/{}", spec.platform.os, spec.platform.architecture);
        for (key, value) in [
            (label::IMAGE, layout::CURRENT),
            (label::PYTHON, spec.python),
            (label::PLATFORM, &platform),
            (label::ENTRY_POINT, spec.entry_point),
            (label::REQUIREMENTS, spec.requirements),
        ] {
            self.labels.insert(key.into(), value.into());
        }
    }
}

/// Docker writes `null` where nothing is set.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};
    use std::sync::LazyLock;

    static PLATFORM: LazyLock<Platform> = LazyLock::new(|| Platform::new("linux", "amd64"));

    fn layer(text: &str) -> ImageLayer {
        let layer = Layer { digest: Digest::of(text.as_bytes()), diff_id: Digest::of(b"tar"), size: text.len() as u64 };
        ImageLayer { layer, created_by: format!("hoistway: {text}") }
    }

    fn spec<'a>(base: Option<&'a ExistingImage>, layers: &'a [ImageLayer]) -> ImageSpec<'a> {
        ImageSpec { python: "3.11", platform: &PLATFORM, entry_point: "agent.py", requirements: "six\n", base, layers }
    }

    fn json_of(bytes: &[u8]) -> Value {
        serde_json::from_slice(bytes).unwrap()
    }

    #[test]
    fn equal_parts_make_the_same_image() {
        let layers = [layer("runner"), layer("source")];
        let image = assemble(&spec(None, &layers)).unwrap();
        assert_eq!(image, assemble(&spec(None, &layers)).unwrap());
        assert_ne!(image.digest, assemble(&spec(None, &layers[..1])).unwrap().digest);
        let manifest = json_of(&image.manifest);
        assert_eq!(manifest["schemaVersion"], 2);
        assert_eq!(manifest["config"]["digest"], image.config_digest.to_string());
        assert_eq!(manifest["config"]["size"], image.config.len());
        assert_eq!(manifest["layers"][1]["digest"], layers[1].layer.digest.to_string());
        let config = json_of(&image.config);
        assert_eq!(config["config"]["Entrypoint"], json!(["python3", RUNNER_PATH]));
        assert_eq!(config["config"]["WorkingDir"], APP_DIR);
        assert_eq!(config["config"]["User"], USER);
        assert_eq!(config["config"]["Labels"][label::PLATFORM], "linux/amd64");
        assert_eq!(config["config"]["Labels"][label::ENTRY_POINT], "agent.py");
        assert_eq!(config["config"]["Labels"][label::REQUIREMENTS], "six\n");
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_eq!(config["history"][0]["created_by"], "hoistway: runner");
    }

    #[test]
    fn a_base_is_kept_where_we_say_nothing() {
        let base_manifest = json!({
            "schemaVersion": 2,
            "config": {"mediaType": media_type::CONFIG, "digest": Digest::of(b"c").to_string(), "size": 1},
            "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
                        "digest": Digest::of(b"base").to_string(), "size": 4, "annotations": {"a": "b"}}],
        });
        let base_config = json!({
            "architecture": "amd64", "os": "linux", "variant": "v1", "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=/usr/bin", "PORT=1", "PYTHON_VERSION=3.11.7"], "Cmd": ["sh"], "Labels": {"a": "b"},
                       "Entrypoint": null, "User": null, "StopSignal": "SIGINT"},
            "rootfs": {"type": "layers", "diff_ids": [Digest::of(b"base tar").to_string()]},
            "history": [{"created_by": "base", "comment": "kept"}, {"created_by": "cmd", "empty_layer": true}],
        });
        let base =
            ExistingImage::parse(base_manifest.to_string().as_bytes(), base_config.to_string().as_bytes()).unwrap();
        assert_eq!(base.platform().to_string(), "linux/amd64/v1");
        assert_eq!(base.env("PYTHON_VERSION"), Some("3.11.7"));
        let layers = [layer("source")];
        let image = assemble(&spec(Some(&base), &layers)).unwrap();
        let (manifest, config) = (json_of(&image.manifest), json_of(&image.config));
        assert_eq!(manifest["layers"][0]["mediaType"], media_type::LAYER);
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
        assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);
        assert_eq!(
            config["config"]["Env"],
            json!(["PATH=/usr/bin", "PYTHON_VERSION=3.11.7", "USER_ENTRY_POINT=agent.py", "PORT=8080"])
        );
        assert_eq!(config["config"]["Labels"]["a"], "b");
        assert_eq!(config["config"].get("Cmd"), None);
        assert_eq!(config["variant"], "v1");
        assert_eq!(config["history"][0]["comment"], "kept");
        assert_eq!(config["history"][2]["created_by"], "hoistway: source");
        assert_eq!(config["created"], EPOCH);
    }

    #[test]
    fn an_unusable_base_is_refused() {
        let config = br#"{"architecture":"a","os":"l","rootfs":{"type":"layers","diff_ids":[]}}"#;
        let why = |manifest: &str| ExistingImage::parse(manifest.as_bytes(), config).unwrap_err().to_string();
        assert_eq!(why(r#"{"manifests":[]}"#), "its manifest is not that of one image");
        let descriptor = format!(r#"{{"mediaType":"x","digest":"{}","size":1}}"#, Digest::of(b""));
        let manifest = format!(r#"{{"config":{descriptor},"layers":[{descriptor}]}}"#);
        assert_eq!(why(&manifest), "its configuration and its manifest have different layers");
    }

    #[test]
    fn build_ids_depend_on_agent_and_image_and_grow() {
        let name = |n| Name::parse("agent_name", n).unwrap();
        let hex = build_hex(&name("a"), Digest::of(b"m"), 0);
        assert_eq!(hex.len(), ID_DIGITS);
        assert_ne!(hex, build_hex(&name("b"), Digest::of(b"m"), 0));
        assert_ne!(hex, build_hex(&name("a"), Digest::of(b"n"), 0));
        let longer = build_hex(&name("a"), Digest::of(b"m"), 1);
        assert!(longer.starts_with(&hex) && longer.len() > ID_DIGITS);
        assert_eq!(build_hex(&name("a"), Digest::of(b"m"), 99).len(), 64);
    }
}
