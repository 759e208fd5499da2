//! Egress: the only way out of an agent. It knows which agent calls, lets calls to that agent's tools through and
//! nothing else, adds the credentials that agents never see, and records every call.
//!
//! What agents may do comes in through [`Policies`], what they did goes out through [`Records`]. [`serve`] is the whole
//! service; see `docs/egress.md` for what it enforces.

mod address;
mod body;
mod bounded;
pub mod ca;
mod call;
pub mod config;
mod conn;
mod credential;
mod edge;
mod entry;
pub mod fixed;
mod headers;
mod intercept;
mod limits;
mod oauth;
pub mod origin;
pub mod path;
pub mod policy;
mod prefixed;
pub mod records;
mod refuse;
mod target;
mod tls;
mod upstream;

pub use ca::Authority;
pub use config::Config;
pub use policy::{AgentPolicy, EndUsers, NoEndUsers, Policies, PolicyError, ToolPolicy};
pub use records::{Record, Records};

use hoistway_kit::{
    egress::EgressKey,
    ports::{Listeners, listen_as_configured},
};
use hoistway_model::{Error, Result};
use limits::Agents;
use oauth::Tokens;
use origin::Place;
use records::Recorder;
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tls::Certificates;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use upstream::Upstream;

/// How long calls in progress may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the last records may take after that.
const LAST_RECORDS: Duration = Duration::from_secs(5);
/// Records that wait for being kept.
const RECORDS: usize = 8192;

/// What the service shares with the rest of the installation.
#[derive(Debug, Clone)]
pub struct Deps {
    /// The key of agents' tokens.
    pub key: EgressKey,
    /// What agents may do.
    pub policies: Arc<dyn Policies>,
    /// Where records go.
    pub records: Arc<dyn Records>,
    /// Whom agents work for.
    pub end_users: Arc<dyn EndUsers>,
}

/// An opened service.
#[derive(Debug)]
pub struct Service {
    egress: Arc<Egress>,
    authority: Arc<Authority>,
    records: (mpsc::Receiver<Record>, Arc<dyn Records>),
}

/// Everything that calls share.
#[derive(Debug)]
pub(crate) struct Egress {
    config: Config,
    key: EgressKey,
    names: Vec<Place>,
    policies: Arc<dyn Policies>,
    end_users: Arc<dyn EndUsers>,
    recorder: Recorder,
    agents: Agents,
    tokens: Tokens,
    upstream: Upstream,
    certificates: Certificates,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Service {
    /// The authority that agents must trust, with what makes their CA bundle.
    pub fn authority(&self) -> Arc<Authority> {
        Arc::clone(&self.authority)
    }

    /// Reads how many records were dropped since the start, because the queue was full.
    pub fn dropped_records(&self) -> impl Fn() -> u64 + Send + Sync + use<> {
        let dropped = self.egress.recorder.dropped();
        move || dropped.load(Ordering::Relaxed)
    }
}

/// Listens where it is configured to, and writes the port that was taken for port 0 into `config`.
pub fn listen(config: &mut Config) -> Result<Listeners> {
    listen_as_configured(&mut config.listen)
}

/// Opens the service: its directory, its authority, the trust in tools. It listens nowhere.
pub async fn open(config: &Config, deps: Deps) -> Result<Service> {
    let config = config.clone();
    let open = move || {
        config.limits.check()?;
        let names = config.names.iter().enumerate().map(|(index, name)| {
            Place::parse(name, None).ok_or_else(|| Error::field(format!("names[{index}]"), "must be HOST:PORT"))
        });
        let names = names.collect::<Result<_>>()?;
        let authority = Arc::new(Authority::load_or_create(&config.service_dir())?);
        let (recorder, queue) = Recorder::new(RECORDS);
        let egress = Egress {
            key: deps.key,
            names,
            policies: deps.policies,
            end_users: deps.end_users,
            recorder,
            agents: Agents::new(&config.limits),
            tokens: Tokens::new(),
            upstream: Upstream::new(&config)?,
            certificates: Certificates::new(Arc::clone(&authority)),
            tasks: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            config,
        };
        Ok(Service { egress: Arc::new(egress), authority, records: (queue, deps.records) })
    };
    tokio::task::spawn_blocking(open).await.map_err(|e| Error::internal("opening egress", e))?
}

/// Serves an opened service until `shutdown`, then drains.
pub async fn run(service: Service, listeners: Listeners, shutdown: CancellationToken) -> Result<()> {
    let Service { egress, records: (queue, sink), .. } = service;
    let mut keeping = tokio::spawn(records::keep(queue, sink));
    let room = Arc::new(Semaphore::new(egress.config.limits.connections));
    let accepting = async {
        // Without room nothing is accepted: the kernel lets some wait and refuses the rest.
        while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
            let (stream, _) = listeners.accept().await;
            egress.tasks.spawn(conn::serve(Arc::clone(&egress), stream, permit));
        }
    };
    tokio::select! {
        () = accepting => {}
        () = shutdown.cancelled() => {}
    }
    drop(listeners);
    egress.shutdown.cancel();
    egress.tasks.close();
    if tokio::time::timeout(DRAIN, egress.tasks.wait()).await.is_err() {
        tracing::warn!("calls were still running {} s after the shutdown began", DRAIN.as_secs());
    }
    // The queue ends when the last call has let go of it.
    drop(egress);
    match tokio::time::timeout(LAST_RECORDS, &mut keeping).await {
        Ok(kept) => kept.map_err(|e| Error::internal("keeping records", e)),
        Err(_) => {
            tracing::warn!("the last records of calls could not be kept in time");
            keeping.abort();
            Ok(())
        }
    }
}

/// The whole service.
pub async fn serve(config: &Config, deps: Deps, listeners: Listeners, shutdown: CancellationToken) -> Result<()> {
    run(open(config, deps).await?, listeners, shutdown).await
}
