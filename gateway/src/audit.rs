//! The audit log: who changed what, when, from where, and how it ended. No request's content is ever in it.
//!
//! Every change has a [`PendingAuditEntry`] from the moment its request is let in (`api/auth.rs`), so that no handler can forget
//! it. The entry is written before the change begins and told the outcome before the answer leaves: a process that is
//! killed between the two leaves the entry behind, `pending`. A deploy's entry is written by the journal, in the
//! commits that accept and end the deployment, and so costs no flush of its own.

pub mod entry;

pub use entry::{Entry, Filter, Outcome};

use crate::{keys::Caller, store::AuditStore};
use hoistway_kit::{
    prune::{Pruned, Retention},
    telemetry,
    time::now_ms,
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

/// The longest target and the longest user agent that are kept, in characters.
const MAX_TEXT: usize = 200;
/// The largest body that is searched for the name of what it makes.
const MAX_NAMED: usize = 1 << 20;
/// How often a refused action is written, for each key.
const REFUSALS_EVERY: Duration = Duration::from_secs(60);
/// After this long nobody will tell an entry's outcome any more.
const LOST_AFTER_MS: i64 = 60 * 60 * 1_000;

/// Where the name of what is changed stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditTarget {
    /// In the path, or nowhere.
    ByPath,
    /// In this member of the body.
    ByBody,
    /// The journal knows it, and writes the entry.
    ByJournal,
}

/// The audit log.
#[derive(Debug, Clone)]
pub struct AuditLog {
    store: AuditStore,
    /// When which key was refused which action.
    refusals: Arc<Mutex<HashMap<(String, String), Instant>>>,
}

/// What is known of a change when its request is let in.
#[derive(Debug)]
pub struct Change<'a> {
    /// Who asks for it.
    pub caller: &'a Caller,
    /// What is to be done.
    pub action: &'static str,
    /// What it is done to, if the path says so.
    pub target: Option<String>,
    /// Where the name stands.
    pub named: AuditTarget,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// What the client calls itself.
    pub user_agent: Option<&'a str>,
}

impl AuditLog {
    /// The log in a database.
    pub fn new(store: AuditStore) -> Self {
        Self { store, refusals: Arc::default() }
    }

    /// Whether what a key may not do is to be written: once a minute for each key and action, so that refusals push out
    /// little of what was done.
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

    /// The pending entry of a change that somebody asks for. Nothing is written yet.
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

    /// Entries, newest first.
    pub async fn list(&self, filter: Filter, limit: u32) -> Result<Vec<Entry>> {
        self.store.list(filter, limit).await
    }

    /// Forgets entries that are not to be kept, and gives those up whose process ended.
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

    /// The id of the key that the request came with.
    pub fn key(&self) -> Arc<str> {
        self.lock().entry.key_id.as_str().into()
    }

    /// Writes the intent, unless whoever reads the body or journals the deployment will do it.
    pub async fn begin(&self) -> Result<()> {
        if self.named == AuditTarget::ByPath { self.write().await } else { Ok(()) }
    }

    /// Writes the intent, now that the body that names what is changed is there.
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
            // Then the change is not made either; what is left to tell is that it failed.
            self.lock().phase = Phase::New;
        }
        written
    }

    /// Says more exactly what is changed than the request did: the id of what it made.
    pub fn set_target(&self, target: &str) {
        self.lock().entry.target = Some(cut(target));
    }

    /// The entry for the journal to write in its own commit. `None` when somebody else has written it already.
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

    /// The journal could not write it.
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

    /// Writes how it ended. Changes whose intent was never written, such as a refused one, are written whole.
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

/// What was answered.
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

/// Runs `future`, which makes the change, with its pending entry. A task that it spawns has none.
pub async fn scope<F: Future>(pending_entry: Arc<PendingAuditEntry>, future: F) -> F::Output {
    CURRENT.scope(pending_entry, future).await
}

/// The pending entry of the change that the current task makes.
pub fn current() -> Option<Arc<PendingAuditEntry>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// The name of what a body makes.
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

/// Not too much of a text of the request, and nothing in it that a terminal acts upon.
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
