//! The images of an installation's agents, as the daemon has them.

use super::DockerConfig;
use super::daemon::{Daemon, brief, is_conflict, is_missing};
use bollard::errors::Error;
use hoistway_kit::{
    image_registry::ImageRegistry,
    registry_logins::{Login, RegistryLogins},
};
use hoistway_model::{
    Digest, Secret,
    image::{ImageRef, StoredImage},
};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The time after a pull for which an image is kept: its revision may not be recorded with it yet.
const JUST_PULLED: Duration = Duration::from_secs(600);

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub(super) enum PullError {
    /// The daemon failed.
    #[error(transparent)]
    Daemon(#[from] Error),
    /// The login of its registry cannot be read.
    #[error("{0}")]
    Login(hoistway_model::Error),
}

impl PullError {
    /// The reason, in short and for everybody.
    pub fn brief(&self) -> String {
        match self {
            Self::Daemon(e) => brief(e),
            Self::Login(e) => e.message.clone(),
        }
    }
}

/// Pulls images, and removes those from the platform's registry that nobody uses any more. They have a tag of the
/// installation's own, by which they are known: a registry may move.
pub(super) struct Images {
    daemon: Arc<Daemon>,
    /// The platform's own registry, and its password.
    registry: String,
    password: Secret,
    /// The one that built images are pulled from before, and its login.
    image_registry: Option<(ImageRegistry, RegistryLogins)>,
    /// The logins of all others.
    logins: RegistryLogins,
    pulled: Mutex<HashMap<String, Instant>>,
}

impl Images {
    /// Images from the registries of a configuration, and from others.
    pub fn new(daemon: Arc<Daemon>, config: &DockerConfig) -> Self {
        let DockerConfig { registry, registry_password, image_registry, image_registry_logins, logins, .. } = config;
        Self {
            daemon,
            registry: registry.clone(),
            password: registry_password.clone(),
            image_registry: image_registry.clone().map(|registry| (registry, image_registry_logins.clone())),
            logins: logins.clone(),
            pulled: Mutex::default(),
        }
    }

    /// Has the image at the daemon, and returns its name there.
    pub async fn pull(&self, image: &ImageRef, digest: &Digest) -> Result<String, PullError> {
        let repository = &image.repository;
        if !image.is_platform() {
            let name = format!("{}/{repository}@{digest}", image.host);
            self.ensure(&name).await?;
            return Ok(name);
        }
        let name = self.name(repository, digest);
        self.pulled().insert(name.clone(), Instant::now());
        self.ensure(&name).await?;
        Ok(name)
    }

    /// Has the image of a name that [`Images::pull`] returned, which somebody may have removed from the daemon. Its
    /// registry is asked only for what is missing. Returns the directories for which the image wants volumes.
    pub async fn ensure(&self, name: &str) -> Result<Vec<String>, PullError> {
        if let Some(volumes) = self.daemon.volumes_of(name).await? {
            return Ok(volumes);
        }
        match name.strip_prefix(&self.own("")).and_then(|rest| rest.rsplit_once(':')) {
            Some((repository, hex)) => {
                let digest = format!("sha256:{hex}");
                let place = self.pull_built(repository, &digest).await?;
                self.daemon.tag(&format!("{place}@{digest}"), &self.own(repository), hex).await?;
            }
            None => {
                // A name without a digest is not one of ours, and says nothing about where it comes from.
                let Some((place, digest)) = name.split_once('@') else { return Ok(Vec::new()) };
                let host = place.split('/').next().unwrap_or_default();
                let login = self.logins.login(host).await.map_err(PullError::Login)?;
                self.daemon.pull(place, digest, login).await?;
            }
        }
        Ok(self.daemon.volumes_of(name).await?.unwrap_or_default())
    }

    /// Removes what is neither kept nor new. An image that a container uses is removed the next time.
    pub async fn sweep(&self, kept: &[StoredImage]) -> Result<(), Error> {
        let kept: Vec<String> = kept.iter().map(|image| self.name(&image.repository, &image.digest)).collect();
        let own = self.own("");
        for image in self.daemon.images().await? {
            let unused = |name: &&String| name.starts_with(&own) && !kept.contains(name) && !self.is_new(name);
            for name in image.repo_tags.iter().filter(unused) {
                self.remove(name).await?;
                // The name under which it was pulled, at the present registry or an earlier one.
                let Some((repository, hex)) = name[own.len()..].rsplit_once(':') else { continue };
                let pulled = format!("/{repository}@sha256:{hex}");
                for name in image.repo_digests.iter().filter(|name| name.ends_with(&pulled)) {
                    self.remove(name).await?;
                }
            }
        }
        self.pulled().retain(|_, at| at.elapsed() < JUST_PULLED);
        Ok(())
    }

    /// Pulls an image that was built here, and returns the name of its repository there. What was built before there was
    /// an image registry is in the platform's own only.
    async fn pull_built(&self, repository: &str, digest: &str) -> Result<String, PullError> {
        let mut refused = None;
        if let Some((registry, logins)) = &self.image_registry {
            let place = registry.repository(repository);
            let login = logins.login(registry.host()).await.map_err(PullError::Login)?;
            match self.daemon.pull(&place, digest, login).await {
                Err(e) if is_missing(&e) => {
                    tracing::warn!("{place}@{digest} cannot be pulled, so the own registry is asked: {}", brief(&e));
                    refused = Some(e);
                }
                pulled => return Ok(pulled.map(|()| place)?),
            }
        }
        let place = format!("{}/{repository}", self.registry);
        // It takes any user's name.
        let login = Login::Password { user: "hoistway".to_owned(), password: self.password.clone() };
        match (self.daemon.pull(&place, digest, Some(login)).await, refused) {
            // Docker says that an image is missing where a login is refused, too.
            (Err(_), Some(first)) => Err(first.into()),
            (pulled, _) => Ok(pulled.map(|()| place)?),
        }
    }

    async fn remove(&self, name: &str) -> Result<(), Error> {
        match self.daemon.remove_image(name).await {
            Err(e) if !is_missing(&e) && !is_conflict(&e) => Err(e),
            _ => Ok(()),
        }
    }

    fn own(&self, repository: &str) -> String {
        format!("hoistway-{}/{repository}", self.daemon.labels().installation())
    }

    fn name(&self, repository: &str, digest: &Digest) -> String {
        format!("{}:{}", self.own(repository), digest.hex())
    }

    fn is_new(&self, name: &str) -> bool {
        self.pulled().get(name).is_some_and(|at| at.elapsed() < JUST_PULLED)
    }

    fn pulled(&self) -> MutexGuard<'_, HashMap<String, Instant>> {
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
