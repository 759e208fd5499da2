//! The runs of one instance in containers.

use super::containers::{self, Addresses, AgentContainer};
use super::daemon::{Daemon, Death, brief};
use super::images::Images;
use super::network_socket::{JoinedNetwork, NetworkSocket};
use super::run::ContainerRun;
use super::runs::{RunPlace, Runs};
use super::{DockerConfig, output};
use crate::runtime::logs::Sink;
use crate::runtime::network::{AgentNetwork, egress_forwarder};
use crate::runtime::notices::Notices;
use crate::runtime::runner_config::{self, Places};
use crate::runtime::supervisor::{Launcher, Unable};
use crate::runtime::{Instance, Program};
use crate::sandbox::size;
use bollard::errors::Error;
use hoistway_confine::copy_tree;
use serde_json::json;
use std::future::Future;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// The time that a container's first program may take to connect: it takes a fraction of a second.
const CONNECT: Duration = Duration::from_secs(30);
/// The largest source that an agent gets a copy of, at each start.
const MAX_COPY: copy_tree::Size = copy_tree::Size { bytes: 64 << 20, entries: 10_000 };

const NO_IMAGE: &str = "the agent's image is not at Docker and cannot be pulled";
const NO_NETWORK: &str = "the agent's network cannot be made";
const NO_CONTAINER: &str = "the agent's container cannot be started";

/// Runs one instance in containers.
pub(super) struct ContainerLauncher {
    pub config: Arc<DockerConfig>,
    pub daemon: Arc<Daemon>,
    pub images: Arc<Images>,
    pub runs: Arc<Runs>,
    pub instance: Instance,
    pub sink: Sink,
    /// The port on which the agent's callers find it, and on which it answers in its own network.
    pub port: u16,
}

impl Launcher for ContainerLauncher {
    type Run = ContainerRun;

    fn has_own_network(&self) -> bool {
        true
    }

    async fn prepare(&mut self) -> Result<(), Unable> {
        Ok(())
    }

    async fn launch(&mut self, _: Option<BorrowedFd<'_>>, limit: Option<Duration>) -> Result<ContainerRun, Unable> {
        let Program::Image { reference } = self.instance.program.clone() else {
            return Err(Unable::new(NO_CONTAINER, "its image is not one of Docker's"));
        };
        let volumes = self.images.ensure(&reference).await.map_err(|e| Unable::new(NO_IMAGE, e.brief()))?;
        let mut place = self.runs.begin(&self.instance);
        let joined = self.join_network(&reference, &mut place).await?;
        self.start_agent((&reference, volumes), joined, place, limit).await
    }

    async fn clean(&mut self) {}
}

impl ContainerLauncher {
    /// Starts the container that holds the network.
    async fn join_network(&self, image: &str, place: &mut RunPlace) -> Result<JoinedNetwork, Unable> {
        let directory = self.config.dir.join(place.id());
        let socket = tokio::task::spawn_blocking(move || NetworkSocket::bind(directory)).await;
        let socket = socket.map_err(std::io::Error::other).and_then(|bound| bound);
        let socket = socket.map_err(|error| Unable { what: NO_NETWORK, error })?;
        let addresses = Addresses::of(&self.instance.endpoints);
        let body = containers::network(image, &addresses, socket.directory());
        let id = place.create("network", body).await.map_err(|e| unable(NO_NETWORK, &e))?;
        self.daemon.start(&id).await.map_err(|e| unable(NO_NETWORK, &e))?;
        let accepting = socket.accept(addresses.listen.len());
        match self.unless_dead(&id, accepting).await {
            Ok(joined) => joined.map_err(|error| Unable { what: NO_NETWORK, error }),
            Err(_) => Err(Unable::new(NO_NETWORK, self.daemon.last_lines(&id).await)),
        }
    }

    /// Starts the agent's container from an image with volumes, and hands it what it needs.
    async fn start_agent(
        &self,
        (image, volumes): (&str, Vec<String>),
        joined: JoinedNetwork,
        mut place: RunPlace,
        limit: Option<Duration>,
    ) -> Result<ContainerRun, Unable> {
        let JoinedNetwork { sockets, listeners, source } = joined;
        let mut listeners = listeners.into_iter();
        let control = listeners.next().ok_or_else(|| Unable::new(NO_NETWORK, "it has no listeners"))?;
        let copies_app = self.copies_app(source).await;
        let network = place.network().to_owned();
        let limits = &self.config.limits;
        let body = AgentContainer { image, network: &network, limits, port: self.port, copies_app, volumes }.body();
        let id = place.create("agent", body).await.map_err(|e| unable(NO_CONTAINER, &e))?;
        let follower = output::follow(&self.daemon, &id, &self.sink).await.map_err(|e| unable(NO_CONTAINER, &e))?;
        self.daemon.start(&id).await.map_err(|e| unable(NO_CONTAINER, &e))?;

        let answer = self.answer(copies_app, limit).await.map_err(|error| Unable { what: NO_CONTAINER, error })?;
        // One that ends before tells its end like any other.
        let notices = match self.unless_dead(&id, tell(control, answer)).await {
            Ok(told) => Some(Notices::new(told.map_err(|error| Unable { what: NO_CONTAINER, error })?)),
            Err(_) => None,
        };
        let ended = CancellationToken::new();
        let (egress, token) = (self.config.egress.clone(), self.instance.egress_token.clone());
        let listeners: Vec<TcpListener> = listeners.collect();
        tokio::spawn(egress_forwarder::serve(listeners.into(), egress, Some(token), ended.clone()));
        let network = notices.is_some().then(|| Arc::new(AgentNetwork::new(sockets, self.port)));
        Ok(ContainerRun::new(place, notices, network, ended.drop_guard(), follower))
    }

    /// What becomes of `future`, unless the container ends first or it takes too long.
    async fn unless_dead<T>(&self, id: &str, future: impl Future<Output = T>) -> Result<T, Option<Death>> {
        tokio::select! {
            biased;
            done = timeout(CONNECT, future) => done.map_err(|_| None),
            death = self.daemon.death(id) => Err(Some(death)),
        }
    }

    /// The answer to the container's first program, as a line.
    async fn answer(&self, copies_app: bool, limit: Option<Duration>) -> std::io::Result<Vec<u8>> {
        let bundle = match &self.config.ca_bundle {
            Some(path) => tokio::fs::read_to_string(path).await.ok(),
            None => None,
        };
        let places = Places {
            home: containers::HOME.to_owned(),
            tmp: containers::TMP.to_owned(),
            path: None,
            ca_bundle: bundle.as_ref().map(|_| containers::CA_BUNDLE.to_owned()),
        };
        let answer = json!({
            "config": runner_config::config(&self.instance, true, limit),
            "env": runner_config::environment(&self.instance, &places, self.port),
            "ca_bundle": bundle,
            "copies_app": copies_app,
            "filters": hoistway_confine::seccomp_filters()?,
        });
        let mut line = serde_json::to_vec(&answer)?;
        line.push(b'\n');
        Ok(line)
    }

    /// Whether the agent works in a copy of its source. It does, unless that is too large; then it reads it.
    async fn copies_app(&self, source: copy_tree::Size) -> bool {
        // Something must be left of what it may store.
        let most = self.config.limits.disk.map_or(MAX_COPY.bytes, |disk| MAX_COPY.bytes.min(disk / 2));
        let fits = source.bytes <= most && source.entries <= MAX_COPY.entries;
        if !fits {
            let text = read_only_text(source, most, MAX_COPY.entries);
            self.sink.remark(&text).await;
        }
        fits
    }
}

fn read_only_text(source: copy_tree::Size, most: u64, most_entries: u64) -> String {
    let copy_tree::Size { bytes, entries } = source;
    format!(
        "the working directory is read-only: the source has {entries} files with {} MiB, and up to {most_entries} with {} are copied for an agent to change",
        bytes >> 20,
        size(most)
    )
}

/// Hands `answer` to the first client of the control listener, which is the container's first program: the agent's code
/// does not run before. Nobody else can connect after that.
async fn tell(control: TcpListener, answer: Vec<u8>) -> std::io::Result<TcpStream> {
    let (mut runner, _) = control.accept().await?;
    drop(control);
    runner.write_all(&answer).await?;
    Ok(runner)
}

/// Says what the agent's owner can do something about; the rest is for the operator.
fn unable(what: &'static str, e: &Error) -> Unable {
    let said = brief(e);
    match e {
        Error::DockerResponseServerError { .. } if said.contains("executable file not found") => {
            Unable::new("its base image has no python3 on the search path", said)
        }
        Error::DockerResponseServerError { .. } => Unable::new(what, said),
        _ => Unable { what: "Docker does not answer", error: std::io::Error::new(ErrorKind::NotConnected, said) },
    }
}
