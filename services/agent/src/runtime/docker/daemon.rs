//! The Docker daemon: the calls that the runtime makes, on its own containers and no others.

use super::labels::Labels;
use crate::launcher::protocol::Exit;
use crate::runtime::supervisor::Ended;
use bollard::Docker;
use bollard::auth::DockerCredentials;
use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::models::{ContainerCreateBody, ContainerStateStatusEnum, ImageSummary, SystemInfo};
use bollard::query_parameters::{
    AttachContainerOptions, CreateContainerOptions, CreateImageOptions, DownloadFromContainerOptions,
    KillContainerOptions, ListContainersOptions, ListImagesOptions, LogsOptions, RemoveContainerOptions,
    RemoveImageOptions, TagImageOptions, WaitContainerOptions,
};
use futures_util::{Stream, StreamExt, TryStreamExt};
use hoistway_kit::{backoff::Backoff, registry_logins::Login};
use hoistway_model::{Code, Result, image::label};
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};
use tokio_util::io::StreamReader;

/// The time that the daemon may take to answer a call.
const ANSWER: Duration = Duration::from_secs(60);
/// The time that a pull may make no progress.
const PROGRESS: Duration = Duration::from_secs(120);
/// The pauses before a daemon that does not answer is called again.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(10));
/// The status by which the daemon says that there is no such thing.
const NOT_FOUND: u16 = 404;
/// The status by which it says that something is in use.
const CONFLICT: u16 = 409;
/// The headers of one file in an archive, in bytes at most: that of a long path and its own.
const ARCHIVE_HEADERS: u64 = 16 << 10;
/// The largest exit status that a process chooses itself; those above are this and the signal that ended it.
const LARGEST_STATUS: i64 = 128;
/// The statuses of processes that a signal ended: there are 64 signals.
const SIGNALLED: RangeInclusive<i64> = LARGEST_STATUS + 1..=LARGEST_STATUS + 64;

/// A daemon, as one installation uses it.
pub(super) struct Daemon {
    docker: Docker,
    labels: Labels,
}

/// The end of a container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Death {
    pub how: Ended,
    pub is_out_of_memory: bool,
}

impl Daemon {
    /// Connects to the daemon behind the Unix socket `socket`.
    pub async fn connect(socket: &str, labels: Labels) -> Result<Self> {
        let unreachable = |e: Error| {
            let text = format!(
                "Docker does not answer at {socket} ({}): start it, give this user access to its socket, or set docker.socket",
                root_cause(&e)
            );
            hoistway_model::Error::new(Code::Unavailable, text).with_source(e)
        };
        let docker = Docker::connect_with_unix(socket, ANSWER.as_secs(), bollard::API_DEFAULT_VERSION);
        let docker = docker.map_err(unreachable)?.negotiate_version().await.map_err(unreachable)?;
        Ok(Self { docker, labels })
    }

    /// The labels of the installation's containers.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// The daemon's description of itself.
    pub async fn info(&self) -> Result<SystemInfo, Error> {
        self.docker.info().await
    }

    /// Fails if the daemon does not answer.
    pub async fn ping(&self) -> Result<(), Error> {
        self.docker.ping().await.map(drop)
    }

    /// The directories for which an image wants volumes: they would be writable, and as large as the disk. None if there
    /// is no such image.
    pub async fn volumes_of(&self, reference: &str) -> Result<Option<Vec<String>>, Error> {
        match self.docker.inspect_image(reference).await {
            Ok(found) => Ok(Some(found.config.and_then(|config| config.volumes).unwrap_or_default())),
            Err(e) if is_missing(&e) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Pulls an image by its digest, with the password if it is for the registry there.
    pub async fn pull(&self, repository: &str, digest: &str, login: Option<Login>) -> Result<(), Error> {
        let options = CreateImageOptions {
            from_image: Some(repository.to_owned()),
            tag: Some(digest.to_owned()),
            ..CreateImageOptions::default()
        };
        let credentials = login.map(|login| match login {
            Login::Password { user, password } => DockerCredentials {
                username: Some(user),
                password: Some(password.expose().to_owned()),
                ..DockerCredentials::default()
            },
            Login::IdentityToken(token) => {
                DockerCredentials { identitytoken: Some(token.expose().to_owned()), ..DockerCredentials::default() }
            }
        });
        let mut progress = std::pin::pin!(self.docker.create_image(Some(options), None, credentials));
        while let Some(step) = timeout(PROGRESS, progress.next()).await.map_err(|_| Error::RequestTimeoutError)? {
            step?;
        }
        Ok(())
    }

    /// Gives an image another name.
    pub async fn tag(&self, image: &str, repository: &str, tag: &str) -> Result<(), Error> {
        let options = TagImageOptions { repo: Some(repository.to_owned()), tag: Some(tag.to_owned()) };
        self.docker.tag_image(image, Some(options)).await
    }

    /// The images that Hoistway has built, anybody's.
    pub async fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        let filters = [("label".to_owned(), vec![label::IMAGE.to_owned()])].into();
        let options = ListImagesOptions { filters: Some(filters), digests: true, ..ListImagesOptions::default() };
        self.docker.list_images(Some(options)).await
    }

    /// Removes one of the names of an image, and the image with its last one.
    pub async fn remove_image(&self, name: &str) -> Result<(), Error> {
        self.docker.remove_image(name, None::<RemoveImageOptions>, None).await.map(drop)
    }

    /// Makes a container, and returns its id.
    pub async fn create(&self, name: String, body: ContainerCreateBody) -> Result<String, Error> {
        let options = CreateContainerOptions { name: Some(name), ..CreateContainerOptions::default() };
        Ok(self.docker.create_container(Some(options), body).await?.id)
    }

    /// Starts it.
    pub async fn start(&self, id: &str) -> Result<(), Error> {
        self.docker.start_container(id, None).await
    }

    /// Everything that the container writes from now on.
    pub async fn output(
        &self,
        id: &str,
    ) -> Result<impl Stream<Item = Result<LogOutput, Error>> + Send + Unpin + use<>, Error> {
        let options =
            AttachContainerOptions { stream: true, stdout: true, stderr: true, ..AttachContainerOptions::default() };
        Ok(self.docker.attach_container(id, Some(options)).await?.output)
    }

    /// The last lines that a container wrote which keeps its log.
    pub async fn last_lines(&self, id: &str) -> String {
        let options = LogsOptions { stderr: true, tail: "5".to_owned(), ..LogsOptions::default() };
        let lines: Result<Vec<LogOutput>, Error> = self.docker.logs(id, Some(options)).try_collect().await;
        lines.unwrap_or_default().iter().map(ToString::to_string).collect::<String>().trim().to_owned()
    }

    /// The first `limit` bytes of a file in a container; none if there is no such file or it cannot be read.
    pub async fn file(&self, id: &str, path: &Path, limit: u64) -> Option<Vec<u8>> {
        let options = DownloadFromContainerOptions { path: path.to_str()?.to_owned() };
        let chunks = self.docker.download_from_container(id, Some(options)).map_err(std::io::Error::other);
        // The daemon answers with an archive of the one file.
        let mut archive = StreamReader::new(chunks.boxed()).take(limit.saturating_add(ARCHIVE_HEADERS));
        let mut content = Vec::new();
        if let Err(e) = archive.read_to_end(&mut content).await {
            tracing::debug!("a file of a container was not read: {e}");
            return None;
        }
        let mut archive = tar::Archive::new(content.as_slice());
        let entry = archive.entries().ok()?.next()?.ok()?;
        let mut file = Vec::new();
        // One that goes on after the limit ends before its size.
        let is_file = entry.header().entry_type().is_file();
        let _ = std::io::Read::read_to_end(&mut std::io::Read::take(entry, limit), &mut file);
        is_file.then_some(file)
    }

    /// Sends it a signal. A container that does not run any more is none to send it to.
    pub async fn signal(&self, id: &str, signal: &str) {
        let options = KillContainerOptions { signal: signal.to_owned() };
        if let Err(e) = self.docker.kill_container(id, Some(options)).await {
            tracing::debug!("{signal} was not sent to a container: {}", brief(&e));
        }
    }

    /// Waits until the container does not run, whatever happens to the daemon meanwhile.
    pub async fn death(&self, id: &str) -> Death {
        let lost = |how| Death { how: Ended::Lost(how), is_out_of_memory: false };
        let mut backoff = BACKOFF;
        let mut was_away = false;
        loop {
            // It ends with the container. Its answer is not kept by the daemon, but the container's state is.
            let options = WaitContainerOptions { condition: "not-running".to_owned() };
            let waited = std::pin::pin!(self.docker.wait_container(id, Some(options))).next().await;
            was_away |= !matches!(waited, Some(Ok(_) | Err(Error::DockerContainerWaitError { .. })));
            match self.docker.inspect_container(id, None).await {
                Ok(found) => {
                    let state = found.state.unwrap_or_default();
                    if state.status == Some(ContainerStateStatusEnum::REMOVING) {
                        return lost("its container was removed");
                    }
                    if state.running == Some(true) {
                        was_away = false;
                    } else {
                        let is_out_of_memory = state.oom_killed == Some(true);
                        let how = match state.exit_code.unwrap_or_default() {
                            _ if was_away => Ended::Lost("ended while Docker was away"),
                            signal if SIGNALLED.contains(&signal) => {
                                Ended::Exited(Exit::Signal(i32::try_from(signal - LARGEST_STATUS).unwrap_or_default()))
                            }
                            status => Ended::Exited(Exit::Code(i32::try_from(status).unwrap_or_default())),
                        };
                        return Death { how, is_out_of_memory };
                    }
                }
                Err(e) if is_missing(&e) => return lost("its container was removed"),
                Err(_) => was_away = true,
            }
            sleep(backoff.pause()).await;
        }
    }

    /// Whether the container runs, as soon as the daemon says it.
    pub async fn is_running(&self, id: &str) -> bool {
        let mut backoff = BACKOFF;
        loop {
            match self.docker.inspect_container(id, None).await {
                Ok(found) => return found.state.and_then(|state| state.running) == Some(true),
                Err(Error::DockerResponseServerError { .. }) => return false,
                Err(_) => sleep(backoff.pause()).await,
            }
        }
    }

    /// Removes a container with everything that runs in it. One that is not there is removed.
    pub async fn remove(&self, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptions { force: true, v: true, ..RemoveContainerOptions::default() };
        match self.docker.remove_container(id, Some(options)).await {
            Err(e) if !is_missing(&e) && !is_in_progress(&e) => Err(e),
            _ => Ok(()),
        }
    }

    /// The installation's containers: their ids, and the runs that they belong to.
    pub async fn containers(&self) -> Result<Vec<(String, String)>, Error> {
        let options = ListContainersOptions {
            all: true,
            filters: Some(self.labels.filter()),
            ..ListContainersOptions::default()
        };
        let found = self.docker.list_containers(Some(options)).await?;
        let run = |labels: Option<std::collections::HashMap<String, String>>| Labels::run(&labels.unwrap_or_default());
        Ok(found.into_iter().filter_map(|each| Some((each.id?, run(each.labels)))).collect())
    }

    /// Waits until the daemon has gone away and come back.
    pub async fn reconnected(&self) {
        // Nothing of it is of interest but its end.
        let mut events = std::pin::pin!(self.docker.events(Some(self.labels.events())));
        while let Some(Ok(_)) = events.next().await {}
        let mut backoff = BACKOFF;
        loop {
            sleep(backoff.pause()).await;
            if self.docker.ping().await.is_ok() {
                return;
            }
        }
    }
}

/// Whether the daemon says that there is no such thing.
pub(super) fn is_missing(e: &Error) -> bool {
    matches!(e, Error::DockerResponseServerError { status_code: NOT_FOUND, .. })
}

/// Whether the daemon says that somebody uses it.
pub(super) fn is_conflict(e: &Error) -> bool {
    matches!(e, Error::DockerResponseServerError { status_code: CONFLICT, .. })
}

/// Whether a container is being removed already.
fn is_in_progress(e: &Error) -> bool {
    matches!(e, Error::DockerResponseServerError { message, .. } if message.contains("already in progress"))
}

/// The daemon's own words, or those about the connection to it.
pub(super) fn brief(e: &Error) -> String {
    match e {
        Error::DockerResponseServerError { message, .. } => message.clone(),
        Error::DockerStreamError { error } => error.clone(),
        Error::HyperLegacyError { .. } | Error::SocketNotFoundError(_) | Error::RequestTimeoutError => {
            format!("its daemon does not answer ({})", root_cause(e))
        }
        other => root_cause(other),
    }
}

fn root_cause(e: &Error) -> String {
    let source = std::iter::successors(std::error::Error::source(e), |e| e.source()).last();
    source.map_or_else(|| e.to_string(), ToString::to_string)
}
