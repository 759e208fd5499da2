//! The instances that a runtime has, each with its supervisor.

use super::logs::{LogBook, Sink};
use super::supervisor::{Launcher, Starts, Supervisor};
use super::{Instance, Masker, Started, State, reason};
use futures_util::future::join_all;
use hoistway_kit::{
    telemetry::TraceParent,
    tls::{ListenerTls, REMEDY, ServiceTls},
};
use hoistway_model::{Code, Error, Result, RevisionId, Secret};
use std::collections::HashMap;
use std::net::{IpAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Where agents answer their callers.
#[derive(Debug, Clone)]
pub(super) struct CallerAddress {
    bind: IpAddr,
    advertise: Option<String>,
    tls: Option<ListenerTls>,
}

impl CallerAddress {
    /// Listens on `bind`; callers use the host `advertise` instead, if there is one. TLS is for callers on other
    /// machines, and for agents with a network of their own, whose callers the service forwards: others have the
    /// listener themselves.
    pub fn new(bind: IpAddr, advertise: Option<String>, tls: &ServiceTls, has_own_network: bool) -> Result<Self> {
        let refused = |setting: &str, why: String| Err(Error::field(setting, why));
        if bind.to_canonical().is_loopback() {
            return Ok(Self { bind, advertise, tls: None });
        }
        let Some(listener) = tls.http_listener().filter(|_| has_own_network) else {
            return match (tls.allows_plaintext(), has_own_network) {
                (true, _) => Ok(Self { bind, advertise, tls: None }),
                (false, true) => refused("agents_bind", format!("{bind} is reached by other machines: {REMEDY}")),
                (false, false) => {
                    let why = format!(
                        "{bind} is reached by other machines, and agents without a network of their own listen there \
                         without TLS: set tls.allow_plaintext = true, here and for the gateway, if nobody else reaches \
                         the network between them"
                    );
                    refused("agents_bind", why)
                }
            };
        };
        match &advertise {
            Some(host) => tls.check_host("agents_host", host)?,
            None if bind.is_unspecified() => {
                return refused("agents_host", format!("is needed: gateways cannot connect to {bind} by its name"));
            }
            None => tls.check_host("agents_bind", &bind.to_string())?,
        }
        Ok(Self { bind, advertise, tls: Some(listener) })
    }

    fn of_port(&self, port: u16) -> String {
        let scheme = if self.tls.is_some() { "https://" } else { "" };
        match (&self.advertise, self.bind) {
            (Some(host), _) => format!("{scheme}{host}:{port}"),
            (None, IpAddr::V4(ip)) => format!("{scheme}{ip}:{port}"),
            (None, IpAddr::V6(ip)) => format!("{scheme}[{ip}]:{port}"),
        }
    }
}

/// All instances of a runtime. Dropping them ends them.
pub(super) struct Instances {
    callers: CallerAddress,
    starts: Starts,
    memory: Option<u64>,
    logs: Arc<LogBook>,
    entries: Mutex<HashMap<RevisionId, Entry>>,
}

/// An instance as the runtime sees it; the supervisor has the other ends.
#[derive(Clone)]
struct Entry {
    started: Started,
    sink: Sink,
    stop: Arc<watch::Sender<Option<Duration>>>,
}

impl Instances {
    /// None yet. `memory` is the limit of each agent.
    pub fn new(callers: CallerAddress, starts: Starts, memory: Option<u64>, logs: Arc<LogBook>) -> Self {
        Self { callers, starts, memory, logs, entries: Mutex::default() }
    }

    /// Has the instance supervised, if it is not yet. `launcher` makes what runs it, of its log and the port on which
    /// its callers find it.
    pub async fn apply<L: Launcher>(
        &self,
        instance: Instance,
        launcher: impl Fn(&Instance, Sink, u16) -> L + Send + Sync,
    ) -> Result<Started> {
        // Before the instances are locked, since large secrets take a while.
        let secrets: Vec<Secret> = instance.mask.iter().chain([&instance.invoke_token]).cloned().collect();
        let masker = tokio::task::spawn_blocking(move || Arc::new(Masker::new(&secrets))).await;
        let masker = masker.map_err(|e| Error::internal("reading what to hide", e))?;
        loop {
            let entry = self.entry_or_start(&instance, &masker, &launcher)?;
            if entry.stop.borrow().is_none() {
                return Ok(entry.started);
            }
            gone(&entry).await;
        }
    }

    /// The entry of this revision if it is not gone, else a new one with its supervisor.
    fn entry_or_start<L: Launcher>(
        &self,
        instance: &Instance,
        masker: &Arc<Masker>,
        launcher: &impl Fn(&Instance, Sink, u16) -> L,
    ) -> Result<Entry> {
        let mut entries = self.lock();
        if let Some(entry) = entries.get(&instance.revision)
            && *entry.started.states.borrow() != State::Gone
        {
            return Ok(entry.clone());
        }
        let bound = TcpListener::bind((self.callers.bind, 0)).and_then(|l| Ok((l.local_addr()?.port(), l)));
        let (port, listener) = bound.map_err(|error| {
            let text = format!("internal error while opening the agent's port: {}", reason(&error));
            Error::new(Code::Internal, text).with_source(error)
        })?;
        let (state, states) = watch::channel(State::Starting);
        let (stop, stopped) = watch::channel(None);
        let sink = self.logs.sink(&instance.agent, instance.revision, masker.clone());
        let supervisor = Supervisor {
            launcher: launcher(instance, sink.clone(), port),
            starts: self.starts.clone(),
            memory: self.memory,
            sink: sink.clone(),
            masker: masker.clone(),
            instance: instance.clone(),
            start: TraceParent::current(),
            listener: Some(listener.into()),
            tls: self.callers.tls.clone(),
            forwarder: None,
            state,
            stop: stopped,
        };
        let started = Started { address: self.callers.of_port(port), states };
        let entry = Entry { started, sink, stop: Arc::new(stop) };
        entries.insert(instance.revision, entry.clone());
        tokio::spawn(supervisor.run());
        Ok(entry)
    }

    /// The instance of a revision, if there is one.
    pub fn started(&self, revision: &RevisionId) -> Option<Started> {
        self.entry(revision).map(|entry| entry.started)
    }

    /// Adds a line of the platform's own to the log of an instance's agent, if there is such an instance.
    pub async fn remark(&self, revision: &RevisionId, text: &str) {
        if let Some(entry) = self.entry(revision) {
            entry.sink.remark(text).await;
        }
    }

    /// Stops the instance within `grace`, and returns when nothing of it is left.
    pub async fn remove(&self, revision: &RevisionId, grace: Duration) {
        let Some(entry) = self.entry(revision) else { return };
        entry.stop.send_modify(|stop| *stop = Some(stop.map_or(grace, |before| before.min(grace))));
        gone(&entry).await;
        let mut entries = self.lock();
        // Somebody may have applied it anew in between.
        if entries.get(revision).is_some_and(|now| Arc::ptr_eq(&now.stop, &entry.stop)) {
            entries.remove(revision);
        }
    }

    /// Stops all of them at the same time.
    pub async fn remove_all(&self, grace: Duration) {
        let all: Vec<RevisionId> = self.lock().keys().copied().collect();
        join_all(all.iter().map(|revision| self.remove(revision, grace))).await;
    }

    fn entry(&self, revision: &RevisionId) -> Option<Entry> {
        self.lock().get(revision).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RevisionId, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn gone(entry: &Entry) {
    // An error means that the supervisor is gone without a word, and what it ran with it.
    let _ = entry.started.states.clone().wait_for(|state| *state == State::Gone).await;
}
