//! Images: asking registries, pulling, and unpacking the layers of those that our build service wrote.

mod arriving;
mod layers;
mod registry;
mod site_packages;
mod unpack;

pub use layers::{LayerStore, Pins, Tree};
pub use registry::{Failure, Registries};
pub use unpack::{Bounds, Expected, Unreadable, unpack};

use crate::interpreter::Interpreter;
use futures_util::stream::{self, StreamExt, TryStreamExt};
use hoistway_model::{
    Code, Digest, Error, Result,
    image::{ImageRef, LAYER_HISTORY, label, layout},
};
use registry::Layer;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tracing::{Instrument, info_span};

/// The time that a registry may take to say what it has, before a deploy goes on without it. Later tries have
/// [`RETRY_PATIENCE`].
pub const FIRST_PATIENCE: Duration = Duration::from_secs(2);
/// The same for tries that nobody waits for.
pub const RETRY_PATIENCE: Duration = Duration::from_secs(20);
/// The number of layers of an image that are pulled at a time.
const AT_ONCE: usize = 4;
/// The time for which an answer that did not come is not asked for again.
const JUST_NOW: Duration = Duration::from_secs(1);

/// An image of ours, as its registry describes it.
#[derive(Debug)]
pub struct Description {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The digests of the layers that our build service wrote, lowest first.
    pub layers: Vec<Digest>,
    /// Whether there is a base below them.
    pub has_base: bool,
    /// The `major.minor` of the Python that it was built for.
    pub python: String,
    /// The version of its layout, one of [`layout`].
    pub layout: String,
    /// Its entry file.
    pub entry_point: Option<String>,
}

/// Pulls images and keeps their layers.
#[derive(Debug)]
pub struct Images {
    registries: Registries,
    store: LayerStore,
    interpreter: Interpreter,
    /// The reference whose registry was out of reach last: a deploy looks it up before it starts it, and shall not wait
    /// for the same silence twice.
    out_of_reach: Mutex<Option<(ImageRef, Instant, String)>>,
}

impl Images {
    /// Images from `registries`, unpacked in `store`, for `interpreter`.
    pub fn new(registries: Registries, store: LayerStore, interpreter: Interpreter) -> Self {
        Self { registries, store, interpreter, out_of_reach: Mutex::default() }
    }

    /// The unpacked layers.
    pub fn store(&self) -> &LayerStore {
        &self.store
    }

    /// The manifest digest of a reference now.
    pub async fn resolve(&self, image: &ImageRef, patience: Duration) -> Result<Digest, Failure> {
        let resolved = self.registries.resolve(image, patience).await;
        if let Err(Failure::Unreachable(why)) = &resolved {
            *self.last_out_of_reach() = Some((image.clone(), Instant::now(), why.clone()));
        }
        resolved
    }

    fn last_out_of_reach(&self) -> MutexGuard<'_, Option<(ImageRef, Instant, String)>> {
        self.out_of_reach.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Pulls and unpacks what is not here yet, once the image is known to suit this machine and its interpreter. The
    /// pins keep its layers on disk. With `patience` for the answers that precede the layers.
    pub async fn pull(&self, image: &ImageRef, patience: Duration) -> Result<(Description, Pins), Failure> {
        let (description, layers) = self.look_up(image, patience).await?;
        let suits = match description.has_base {
            true => self.interpreter.suits_base(&description.python),
            false => self.interpreter.suits(&description.python),
        };
        suits.map_err(Failure::Final)?;
        let pins = self.store.pin(&description.layers);
        let ensured = stream::iter(0..layers.len()).map(|at| self.ensure(image, &layers[at])).buffer_unordered(AT_ONCE);
        ensured.try_collect::<()>().await?;
        Ok((description, pins))
    }

    /// Describes the image, once it is known to suit this machine.
    pub async fn describe(&self, image: &ImageRef, patience: Duration) -> Result<Description, Failure> {
        Ok(self.look_up(image, patience).await?.0)
    }

    /// The description of an image, and its own layers.
    async fn look_up(&self, image: &ImageRef, patience: Duration) -> Result<(Description, Vec<Layer>), Failure> {
        let digest = match image.digest {
            Some(digest) => digest,
            None => {
                if let Some((asked, when, why)) = &*self.last_out_of_reach()
                    && asked == image
                    && when.elapsed() < JUST_NOW
                {
                    return Err(Failure::Unreachable(why.clone()));
                }
                self.registries.resolve(image, patience).await?
            }
        };
        let manifest = self.registries.manifest(image, &digest, patience).await?;
        let config: Config = serde_json::from_slice(&self.registries.config(image, &manifest, patience).await?)
            .map_err(|e| Failure::Final(not_ours(image).with_source(e)))?;
        let labels = config.config.and_then(|c| c.labels).unwrap_or_default();
        self.check(image, &labels).map_err(Failure::Final)?;
        let all = manifest.layers(&config.rootfs.diff_ids).ok_or_else(|| Failure::Final(not_ours(image)))?;
        let count = all.len();
        let layers = without_base(all, &config.history);
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let description = Description {
            digest,
            layers: layers.iter().map(|layer| layer.digest).collect(),
            has_base: layers.len() < count,
            python: label(label::PYTHON),
            layout: label(label::IMAGE),
            entry_point: Some(label(label::ENTRY_POINT)).filter(|entry| !entry.is_empty()),
        };
        Ok((description, layers))
    }

    async fn ensure(&self, image: &ImageRef, layer: &Layer) -> Result<(), Failure> {
        let turn = self.store.turn(&layer.digest);
        let _turn = turn.lock().await;
        if self.store.has(&layer.digest).await {
            return Ok(());
        }
        let unpacking = info_span!("agent.unpack_layer", hoistway.layer.digest = %layer.digest);
        self.registries.unpack_layer(image, layer, &self.store).instrument(unpacking).await
    }

    /// Whether the image is one of ours, for this machine.
    fn check(&self, image: &ImageRef, labels: &BTreeMap<String, String>) -> Result<()> {
        let get = |name: &str| labels.get(name).map_or("", String::as_str);
        if ![layout::FORMER, layout::CURRENT].contains(&get(label::IMAGE)) {
            return Err(not_ours(image));
        }
        let platform = get(label::PLATFORM);
        let own = &self.interpreter.platform;
        if platform != own {
            let text = format!(
                "{} was built for {platform}, and this machine is {own}: deploy its source here again, on a base image for \
                 {own} if it has one",
                image.display_tagged()
            );
            return Err(Error::new(Code::UnsupportedImage, text));
        }
        Ok(())
    }
}

/// The layers that our build service wrote: a base below them is for containers, and processes have the host instead.
/// A history that does not fit its layers says nothing, and then all of them are taken.
fn without_base(layers: Vec<Layer>, history: &[HistoryLine]) -> Vec<Layer> {
    let lines: Vec<&HistoryLine> = history.iter().filter(|line| !line.empty_layer).collect();
    if lines.len() != layers.len() {
        return layers;
    }
    let ours = |line: &HistoryLine| line.created_by.starts_with(LAYER_HISTORY);
    layers.into_iter().zip(lines).filter(|(_, line)| ours(line)).map(|(layer, _)| layer).collect()
}

fn not_ours(image: &ImageRef) -> Error {
    let text = format!("{} is not an image that Hoistway built, and agents run from no others", image.display_tagged());
    Error::new(Code::UnsupportedImage, text)
}

/// The parts of an image's configuration that are read.
#[derive(Deserialize)]
struct Config {
    #[serde(default)]
    config: Option<Execution>,
    rootfs: RootFs,
    #[serde(default)]
    history: Vec<HistoryLine>,
}

#[derive(Deserialize)]
struct HistoryLine {
    #[serde(default)]
    created_by: String,
    #[serde(default)]
    empty_layer: bool,
}

#[derive(Deserialize)]
struct Execution {
    #[serde(rename = "Labels", default)]
    labels: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<Digest>,
}
