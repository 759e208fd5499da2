//! The build service: source to OCI image, and the embedded registry that holds the images.
//!
//! A build goes `service` (join, bound, cancel) → `pipeline` (analyse, install, layer, publish) → `store` (one commit
//! for image, tag and record). [`serve`] is the whole service; a process that hosts several calls [`open`] and
//! [`Opened::run`] itself and takes a local transport of the same server.

mod base_image;
mod base_libc;
pub mod config;
mod dependencies;
mod events;
mod grpc;
pub mod image;
mod image_retention;
pub mod layer;
mod log;
mod metrics;
mod migrations;
mod pipeline;
mod platform;
pub mod python;
mod referrers;
pub mod registry;
mod remote_registry;
mod runner_layer;
mod service;
mod source_recovery;
mod store;

pub use config::Config;
pub use migrations::ALL as MIGRATIONS;
pub use python::sandbox::run_if_requested;
pub use service::Builder;

use async_trait::async_trait;
use base_image::BaseImage;
use dependencies::Dependencies;
use hoistway_kit::{
    connection_limits::Limits as ConnectionLimits,
    fs::DirLock,
    grpc::Server,
    image_registry::ImageRegistry,
    ports::{self, Listeners},
    probes::{self, ReadyCheck},
    registry_logins::RegistryLogins,
    shutdown::part,
    token::{ApiKey, ServiceToken},
    web,
};
use hoistway_model::{Code, Error, Result, unpacked_layers::UnpackedLayers};
use image_retention::ImageRetention;
use metrics::BuildMetrics;
use pipeline::Pipeline;
use python::{Interpreter, Sandbox, Uv};
use registry::{BlobStore, Holder, ManifestStore, RegistryState, Space};
use remote_registry::{ImagePusher, RemoteRegistries};
use service::Limits;
use std::{
    io::ErrorKind,
    path::Path,
    sync::{Arc, OnceLock},
    time::Duration,
};
use store::{Bounds, Store};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The directory in the registry's into which `hoistway import` unpacks, on the file system of the blobs.
pub const IMPORT_DIR: &str = "import";
/// The time for which idle uploads are kept.
const UPLOADS_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The keys and tokens that the service shares with the rest of the installation.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The token that callers must show.
    pub token: ServiceToken,
    /// The API key, which opens the registry too.
    pub api_key: Option<ApiKey>,
}

impl Deps {
    /// Reads both from the configured files, which are made at the first start.
    pub fn load(config: &Config) -> Result<Self> {
        let token = ServiceToken::load_or_create(&config.service_token_file())?;
        let api_key = config.api_key_file.as_deref().map(ApiKey::load_or_create).transpose()?;
        Ok(Self { token, api_key })
    }
}

/// The two ports of the service.
#[derive(Debug)]
pub struct Ports {
    /// For gRPC.
    pub grpc: Listeners,
    /// For the registry.
    pub registry: Listeners,
}

impl Ports {
    /// Listens on the configured addresses, with TLS if it is configured.
    pub fn listen(config: &Config) -> Result<Self> {
        let tls = config.tls.load()?;
        Ok(Self {
            grpc: tls.secure_grpc("grpc_listen", ports::listen(config.grpc_listen)?)?,
            registry: tls.secure_http("registry_listen", ports::listen(config.registry_listen)?)?,
        })
    }
}

/// The service, opened; it listens nowhere yet.
pub struct Opened {
    builder: Builder,
    images: ImageRetention,
    registry: RegistryState,
    store: Store,
    server: Server,
    interpreter: Interpreter,
    packages: Result<()>,
    sandbox: Sandbox,
    tidying: CleanupConfig,
    preinstalls_uv: bool,
    unpacked: Arc<OnceLock<Arc<dyn UnpackedLayers>>>,
    _lock: DirLock,
}

/// Limits for the cleanup that runs now and then.
struct CleanupConfig {
    every: Duration,
    keep: Bounds,
    uv: Arc<Uv>,
    cache_bytes: u64,
}

/// Opens the service: its directory, its database, its interpreter. Builds end when `shutdown` is cancelled.
pub async fn open(config: &Config, deps: &Deps, shutdown: CancellationToken) -> Result<Opened> {
    let (dir, space) = (config.service_dir(), Space::keep_free(config.registry.min_free_bytes));
    let (lock, blobs) = tokio::task::spawn_blocking(move || {
        let lock = DirLock::acquire(&dir)?;
        remove_killed_import(&dir.join("registry"));
        Ok::<_, Error>((lock, BlobStore::open(&dir.join("registry"), space)?))
    })
    .await
    .map_err(|e| Error::internal("opening the blob store", e))??;
    let interpreter = Interpreter::probe(config.python.as_deref(), "HOISTWAY_PYTHON").await?;
    let store = Store::open(&config.location().await?).await?;
    let sandbox = Sandbox::open(config, &interpreter).await?;
    let uv = Arc::new(Uv::new(&config.service_dir(), &config.indexes(), sandbox.clone())?);
    let (python, most) = (interpreter.clone(), config.max_unpacked_bytes);
    let dependencies =
        Dependencies::open(&config.service_dir(), uv.clone(), python, blobs.clone(), most, config.concurrency)?;
    let (packages, unpacked) = (dependencies.available(), dependencies.unpacked());
    let logins = RegistryLogins::new(config.docker_config.clone());
    let remotes = Arc::new(RemoteRegistries::new(logins, config.insecure_registries.clone()));
    let base = base_image(config, &interpreter, &remotes)?;
    let base_place = base.as_ref().and_then(BaseImage::embedded_place);
    let image_registry = ImageRegistry::of_setting(config.image_registry.as_deref())?;
    let pusher = image_registry.map(|registry| ImagePusher::new(registry, remotes));
    let images = ImageRetention::new(store.clone(), blobs.clone(), &config.registry, &base_place);
    let pipeline =
        Pipeline::open(interpreter.clone(), dependencies, base, pusher, store.clone(), blobs.clone()).await?;
    let limits = Limits {
        concurrency: config.concurrency,
        queue: config.queue,
        timeout: Duration::from_secs(config.timeout_seconds),
    };
    let metrics = BuildMetrics::new(config.service_dir());
    let builder = Builder::new(pipeline, images.clone(), store.clone(), limits, metrics, shutdown);
    let (token, api_key) = (deps.token.clone(), deps.api_key.clone());
    let verify = Arc::new(move |presented: &str| {
        let (service, operator) = (token.verify(presented), api_key.as_ref().is_some_and(|key| key.verify(presented)));
        if service { Some(Holder::Service) } else { operator.then_some(Holder::Operator) }
    });
    let manifests = ManifestStore::new(store.db().clone(), config.registry.grace());
    let settings = config.registry.clone();
    let opening =
        tokio::task::spawn_blocking(move || RegistryState::new(&settings, blobs, manifests, verify, base_place));
    let registry = opening.await.map_err(|e| Error::internal("opening the registry", e))??;
    let server = grpc::server(Arc::new(builder.clone()), deps.token.clone())?;
    if let Err(e) = &packages {
        tracing::warn!("{e}");
    }
    let every = Duration::from_secs(config.tidy_seconds.max(1));
    let tidying = CleanupConfig { every, keep: config.bounds(), uv, cache_bytes: config.cache_bytes };
    Ok(Opened {
        builder,
        images,
        registry,
        store,
        server,
        interpreter,
        packages,
        sandbox,
        tidying,
        preinstalls_uv: config.preinstall_uv,
        unpacked,
        _lock: lock,
    })
}

/// Removes what a killed import has unpacked. None is under way, since it would hold the lock, and one that goes on
/// unpacks everything again.
fn remove_killed_import(registry: &Path) {
    let dir = registry.join(IMPORT_DIR);
    match std::fs::remove_dir_all(&dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => {
            tracing::warn!("what a killed import left in {} cannot be removed: {e}", dir.display());
        }
        _ => {}
    }
}

/// The base image and the platform that are configured.
fn base_image(
    config: &Config,
    interpreter: &Interpreter,
    remotes: &Arc<RemoteRegistries>,
) -> Result<Option<BaseImage>> {
    let platform = config.platform.as_deref();
    match (config.base_image.as_deref().filter(|text| !text.is_empty()), platform) {
        (Some(base), platform) => BaseImage::parse(base, platform, remotes.clone()).map(Some),
        (None, Some(platform)) if platform != interpreter.platform() => {
            let own = interpreter.platform();
            let text = format!("platform: without base_image, images are for this machine, which is {own}");
            Err(Error::new(Code::InvalidArgument, text))
        }
        (None, _) => Ok(None),
    }
}

impl Opened {
    /// The gRPC server; take a local transport of a clone.
    pub fn server(&self) -> Server {
        self.server.clone()
    }

    /// The interpreter that agents are built for.
    pub fn interpreter(&self) -> &Interpreter {
        &self.interpreter
    }

    /// Has the packages' layers of all builds to come unpacked where agents are started, in this process. Others are
    /// pulled. A second call changes nothing.
    pub fn unpack_layers_into(&self, layers: Arc<dyn UnpackedLayers>) {
        let _ = self.unpacked.set(layers);
    }

    /// Whether packages can be installed; if not, the text says what is missing.
    pub fn packages(&self) -> Option<String> {
        self.packages.as_ref().err().map(ToString::to_string)
    }

    /// Serves gRPC and the registry until `shutdown`, then drains.
    pub async fn run(self, ports: Ports, shutdown: CancellationToken) -> Result<()> {
        let ended = shutdown.child_token();
        let rpc = self.server.serve(ports.grpc, ended.clone());
        let web = web::serve(
            "registry",
            ports.registry,
            registry::router(self.registry.clone()),
            ConnectionLimits::default(),
            ended.clone(),
        );
        let closing = async {
            ended.cancelled().await;
            // Watches never end by themselves, and calls are drained only when all of them have ended.
            self.builder.close();
        };
        let uv = Arc::clone(&self.tidying.uv);
        let preinstalling = async {
            if self.preinstalls_uv {
                ended.run_until_cancelled(uv.preinstall(&self.interpreter)).await;
            }
        };
        let tidy = tidy(self.tidying, self.store.clone(), self.registry, self.images, ended.clone());
        let (rpc, web, (), (), ()) = tokio::join!(part(&ended, rpc), part(&ended, web), tidy, preinstalling, closing);
        self.builder.drained().await;
        self.sandbox.end().await;
        self.store.db().close().await;
        rpc.and(web)
    }
}

/// The whole service as its own binary runs it.
pub async fn serve(config: &Config, deps: Deps, ports: Ports, shutdown: CancellationToken) -> Result<()> {
    let ended = shutdown.child_token();
    let service = open(config, &deps, ended.clone()).await?;
    let check = Arc::new(Ready(service.store.clone()));
    probes::serve_beside(service.run(ports, ended.clone()), config.probe_listen, check, &ended).await
}

/// Ready when the database answers.
#[derive(Debug)]
struct Ready(Store);

#[async_trait]
impl ReadyCheck for Ready {
    async fn check(&self) -> Result<()> {
        self.0.db().ping().await
    }
}

async fn tidy(
    tidying: CleanupConfig,
    store: Store,
    registry: RegistryState,
    images: ImageRetention,
    shutdown: CancellationToken,
) {
    let mut every = tokio::time::interval(tidying.every);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.run_until_cancelled(every.tick()).await.is_some() {
        let tidied = async {
            store.purge(tidying.keep).await?;
            registry.purge_uploads(UPLOADS_FOR).await?;
            images.sweep().await?;
            tidying.uv.trim_cache(tidying.cache_bytes).await
        };
        if let Err(e) = tidied.await {
            tracing::warn!(cause = e.chain(), "old builds, uploads, blobs and caches could not be removed: {e}");
        }
    }
}

#[cfg(test)]
mod base_image_tests;
#[cfg(test)]
mod tests;
