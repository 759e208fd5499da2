//! The audit log: changes with their caller, time, address and outcome. It never contains a request's content.
//!
//! Every change has a [`PendingAuditEntry`] from the moment its request is let through (`api/auth.rs`), so that no
//! handler can omit it. The entry is written before the change begins and receives the outcome before the answer is
//! sent: a process that is killed between the two leaves a `pending` entry behind. A deploy's entry is written by the
//! journal, in the commits that accept and end the deployment, and so costs no flush of its own.

pub mod entry;

pub use entry::{Entry, Filter, Outcome};

use crate::{keys::Caller, store::AuditStore};
use hoistway_kit::{
    prune::{Pruned, Retention},
    telemetry,
    time::now_ms,
    web,
};
use hoistway_model::{AuditId, Code, DeploymentId, Result};
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::HashMap,
    fmt,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// The longest target and the longest user agent that are stored, in characters.
const MAX_TEXT: usize = 200;
/// The largest body in bytes that is searched for the name of the resource that it creates.
const MAX_NAMED: usize = 1 << 20;
/// The shortest time between two entries of a refused action, for each key.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);
/// In place of a key's id and name: the operator, with a command that needs no key.
const COMMAND_LINE: &str = "command-line";
/// The age in milliseconds after which no process will write an entry's outcome.
const LOST_AFTER_MS: i64 = 60 * 60 * 1_000;

/// The place of the changed resource's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditTarget {
    /// In the path, or nowhere.
    ByPath,
    /// In the member `name` of the body.
    ByBody,
    /// In the journal, which writes the entry.
    ByJournal,
}

/// The audit log.
#[derive(Debug, Clone)]
pub struct AuditLog {
    store: AuditStore,
    /// The time of the last written refusal, by key and action.
    refusals: Arc<Mutex<HashMap<(String, String), Instant>>>,
}

/// The data of a change when its request is let through.
#[derive(Debug)]
pub struct Change<'a> {
    /// The caller.
    pub caller: &'a Caller,
    /// The action.
    pub action: &'static str,
    /// The name of the changed resource, if the path contains it.
    pub target: Option<String>,
    /// The place of the name.
    pub named: AuditTarget,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The client's user agent.
    pub user_agent: Option<&'a str>,
}

impl AuditLog {
    /// Returns the log in a database.
    pub fn new(store: AuditStore) -> Self {
        Self { store, refusals: Arc::default() }
    }

    /// Returns the bytes of its database, which is also the journal's and the keys', if they can be read.
    pub async fn database_size(&self) -> Option<u64> {
        self.store.database_size().await.ok()
    }

    /// Whether a refused action is to be written: once a minute for each key and action, so that refusals displace few
    /// entries of actual changes.
    pub fn is_news(&self, refused: &PendingAuditEntry) -> bool {
        let what = {
            let state = refused.lock();
            (state.entry.key_id.clone(), state.entry.action.clone())
        };
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.retain(|_, at: &mut Instant| at.elapsed() < REFUSALS_EVERY);
        if refusals.contains_key(&what) {
            return false;
        }
        refusals.insert(what, Instant::now());
        true
    }

    /// Returns the pending entry of a requested change. Nothing is written yet.
    pub fn pending_entry(&self, change: Change<'_>) -> Arc<PendingAuditEntry> {
        let entry = Entry {
            id: AuditId::mint(),
            at: now_ms(),
            key_id: change.caller.id.to_string(),
            key_name: change.caller.name.to_string(),
            action: change.action.to_owned(),
            target: change.target.as_deref().map(cut),
            deployment: None,
            address: change.address.map(|address| address.to_string()),
            user_agent: change.user_agent.map(cut),
            request_id: telemetry::request_id().as_deref().unwrap_or_default().to_owned(),
            outcome: Outcome::Pending,
            status: None,
            code: None,
        };
        let state = Mutex::new(State { entry, phase: Phase::New });
        Arc::new(PendingAuditEntry { named: change.named, store: self.store.clone(), state })
    }

    /// Writes that the operator has imported an export, which `export` describes.
    pub async fn record_import(&self, export: &str) -> Result<()> {
        let entry = Entry {
            id: AuditId::mint(),
            at: now_ms(),
            key_id: COMMAND_LINE.to_owned(),
            key_name: COMMAND_LINE.to_owned(),
            action: "installation.import".to_owned(),
            target: Some(cut(export)),
            deployment: None,
            address: None,
            user_agent: Some(web::USER_AGENT.to_owned()),
            request_id: String::new(),
            outcome: Outcome::Success,
            status: None,
            code: None,
        };
        self.store.insert(&entry).await
    }

    /// Returns entries, newest first.
    pub async fn list(&self, filter: Filter, limit: u32) -> Result<Vec<Entry>> {
        self.store.list(filter, limit).await
    }

    /// Removes entries beyond the retention, and marks those whose process ended as unknown.
    pub async fn tidy(&self, keep: Retention) -> Result<()> {
        self.store.give_up(now_ms() - LOST_AFTER_MS).await?;
        let Pruned { surplus, .. } = self.store.purge(keep).await?;
        if surplus > 0 {
            tracing::warn!("the audit log had {surplus} entries more than audit_entries allows; the oldest are gone");
        }
        Ok(())
    }
}

/// The entry of one change, from its request to its outcome.
pub struct PendingAuditEntry {
    named: AuditTarget,
    store: AuditStore,
    state: Mutex<State>,
}

struct State {
    entry: Entry,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    Written,
    /// The journal writes it, now and at the end of the deployment.
    Journal,
    Ended,
}

impl fmt::Debug for PendingAuditEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingAuditEntry").field(&self.lock().entry).finish()
    }
}

impl PendingAuditEntry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the id of the request's key.
    pub fn key(&self) -> Arc<str> {
        self.lock().entry.key_id.as_str().into()
    }

    /// Writes the intent, unless the body's reader or the journal will do it.
    pub async fn begin(&self) -> Result<()> {
        if self.named == AuditTarget::ByPath { self.write().await } else { Ok(()) }
    }

    /// Writes the intent with the resource's name from the body.
    pub async fn begin_with_body(&self, body: &[u8]) -> Result<()> {
        if self.named != AuditTarget::ByBody {
            return Ok(());
        }
        if let Some(name) = name_in(body) {
            self.lock().entry.target.get_or_insert(name);
        }
        self.write().await
    }

    async fn write(&self) -> Result<()> {
        let entry = {
            let mut state = self.lock();
            if state.phase != Phase::New {
                return Ok(());
            }
            state.phase = Phase::Written;
            state.entry.clone()
        };
        let written = self.store.insert(&entry).await;
        if written.is_err() {
            // The change is not made either; its failure can still be written as a whole.
            self.lock().phase = Phase::New;
        }
        written
    }

    /// Sets a target that is more exact than the request's: the id of the created resource.
    pub fn set_target(&self, target: &str) {
        self.lock().entry.target = Some(cut(target));
    }

    /// Returns the entry for the journal to write in its own commit. `None` when it was already written.
    pub fn claim(&self, deployment: DeploymentId, agent: &str) -> Option<Entry> {
        let mut state = self.lock();
        if state.phase != Phase::New {
            return None;
        }
        state.phase = Phase::Journal;
        state.entry.target = Some(cut(agent));
        state.entry.deployment = Some(deployment.to_string());
        Some(state.entry.clone())
    }

    /// Reports that the journal could not write it.
    pub fn unclaim(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Journal {
            state.phase = Phase::New;
        }
    }

    /// Whether its intent is written and its outcome is not.
    pub fn is_open(&self) -> bool {
        self.lock().phase == Phase::Written
    }

    /// Writes the outcome. A change whose intent was never written, such as a refused one, is written as a whole.
    pub async fn end(&self, outcome: Outcome, answer: Answered) -> Result<()> {
        let (entry, phase) = {
            let mut state = self.lock();
            let phase = state.phase;
            if matches!(phase, Phase::Journal | Phase::Ended) {
                return Ok(());
            }
            state.phase = Phase::Ended;
            state.entry.outcome = outcome;
            state.entry.status = answer.status;
            state.entry.code = answer.code.map(|code| code.as_str().to_owned());
            if state.entry.deployment.is_none() {
                state.entry.deployment = answer.deployment;
            }
            (state.entry.clone(), phase)
        };
        if phase == Phase::New { self.store.insert(&entry).await } else { self.store.end(&entry).await }
    }
}

/// The answer to a change.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// The status.
    pub status: Option<u16>,
    /// The error's code.
    pub code: Option<Code>,
    /// The deployment that the answer names.
    pub deployment: Option<String>,
}

tokio::task_local! {
    static CURRENT: Arc<PendingAuditEntry>;
}

/// Runs `future`, which makes the change, with its pending entry. Tasks that it spawns do not have the entry.
pub async fn scope<F: Future>(pending_entry: Arc<PendingAuditEntry>, future: F) -> F::Output {
    CURRENT.scope(pending_entry, future).await
}

/// Returns the pending entry of the change that the current task makes.
pub fn current() -> Option<Arc<PendingAuditEntry>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Returns the name of the resource that a body creates.
fn name_in(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        name: Option<Cow<'a, str>>,
    }

    if body.len() > MAX_NAMED {
        return None;
    }
    serde_json::from_slice::<Body<'_>>(body).ok()?.name.map(|name| cut(name.trim())).filter(|name| !name.is_empty())
}

/// Returns the beginning of a request's text. Control characters, which terminals could interpret, are replaced.
fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_body_makes() {
        assert_eq!(name_in(br#"{"x": [1], "name": " a\u0062 "}"#).as_deref(), Some("ab"));
        for body in ["", "{", "[]", r#"{"name": 1}"#, r#"{"name": " "}"#, "{}"] {
            assert_eq!(name_in(body.as_bytes()), None, "{body}");
        }
        assert_eq!(cut(&format!("\u{1b}{}", "x".repeat(300))).chars().count(), MAX_TEXT);
        assert!(cut("\u{1b}[31m").starts_with('?'));
    }
}
