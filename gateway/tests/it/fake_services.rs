//! The state of the services, as far as the saga changes it, with injected failures: before a call takes effect, or
//! after it, so that the caller does not know which.

use crate::fakes::{image, name};
use hoistway_model::{
    Code, Digest, Error, Name, Operation, OperationId, Result, RevisionId,
    agent::{Agent, AgentSpec, Phase, RevisionStatus},
    build::BuiltImage,
    revision::{Derivation, Reason, Revision, RevisionRef, RevisionState},
    tool::{AppliedTools, BoundTool, NewTool, Resolved, ToolPlan},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard},
};

/// The time of a failure in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    Before,
    After,
}

/// A call that will fail once.
#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub call: &'static str,
    pub when: When,
    pub code: Code,
}

#[derive(Debug, Default)]
pub struct FakeServices {
    state: Mutex<State>,
    faults: Mutex<Vec<Fault>>,
    /// All mutating calls, in order.
    calls: Mutex<Vec<&'static str>>,
}

#[derive(Debug, Default)]
struct State {
    revisions: Vec<Revision>,
    last_number: u64,
    current: Option<RevisionId>,
    /// The revision that each call made.
    started: BTreeMap<OperationId, RevisionId>,
    switched: BTreeSet<OperationId>,
    undone: BTreeSet<OperationId>,
    tools: BTreeMap<Name, NewTool>,
    bound: Vec<Name>,
    applied: BTreeMap<OperationId, (Vec<NewTool>, Vec<Name>)>,
    /// The tools that waiting agents have received.
    offered: BTreeSet<Name>,
    built: BTreeSet<OperationId>,
}

impl FakeServices {
    pub fn fail(&self, fault: Fault) {
        self.faults.lock().unwrap().push(fault);
    }

    /// Returns the number of calls since the last time that the calls were forgotten.
    pub fn count(&self, call: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|made| **made == call).count()
    }

    /// Returns every kind of call that was made, in the order of first calls.
    pub fn calls(&self) -> Vec<&'static str> {
        let mut kinds = Vec::new();
        for call in self.calls.lock().unwrap().iter() {
            if !kinds.contains(call) {
                kinds.push(*call);
            }
        }
        kinds
    }

    pub fn forget_calls(&self) {
        self.calls.lock().unwrap().clear();
    }

    /// Whether every injected failure has occurred.
    pub fn all_failed(&self) -> bool {
        self.faults.lock().unwrap().is_empty()
    }

    pub fn no_more_faults(&self) {
        self.faults.lock().unwrap().clear();
    }

    pub fn revisions(&self) -> Vec<Revision> {
        self.state().revisions.clone()
    }

    /// Returns everything that a user could notice, except ids and numbers.
    pub fn picture(&self) -> String {
        let state = self.state();
        let current = state.revisions.iter().find(|r| Some(r.id) == state.current);
        let spec =
            current.map(|r| (&r.spec.image, &r.spec.config.system_prompt, &r.spec.tools, &r.spec.config.env, r.reason));
        let tools: Vec<_> = state.tools.keys().collect();
        let (revisions, built) = (state.revisions.len(), state.built.len());
        format!("{spec:?} {tools:?} {:?} {:?} {revisions} {built}", state.bound, state.offered)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn act<T>(&self, call: &'static str, effect: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        self.calls.lock().unwrap().push(call);
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            let found = faults.iter().position(|fault| fault.call == call);
            found.map(|at| faults.remove(at))
        };
        let failed = |fault: Fault| Error::new(fault.code, format!("{call} fails"));
        match fault {
            Some(fault) if fault.when == When::Before => Err(failed(fault)),
            Some(fault) => effect(&mut self.state()).and(Err(failed(fault))),
            None => effect(&mut self.state()),
        }
    }

    pub fn resolve(&self, plan: &ToolPlan) -> Resolved {
        let state = self.state();
        let mut tools = state.tools.clone();
        tools.extend(plan.create.iter().map(|tool| (tool.name.clone(), tool.clone())));
        Resolved {
            changed: state.bound != plan.bind || plan.create.iter().any(|tool| !state.tools.contains_key(&tool.name)),
            tools: plan.bind.iter().map(|name| bound(name, &tools)).collect(),
            providers: Vec::new(),
            identity_provider_known: true,
        }
    }

    pub fn apply_tools(&self, operation: &Operation, plan: ToolPlan) -> Result<AppliedTools> {
        self.act("apply_tools", |state| {
            state.check(operation)?;
            let new = plan.create.into_iter().filter(|tool| !state.tools.contains_key(&tool.name)).collect();
            let (created, bind) = state.applied.entry(operation.id).or_insert((new, plan.bind)).clone();
            let names = created.iter().map(|tool| tool.name.clone()).collect();
            state.tools.extend(created.into_iter().map(|tool| (tool.name.clone(), tool)));
            let tools = bind.iter().map(|name| bound(name, &state.tools)).collect();
            Ok(AppliedTools { created: names, tools })
        })
    }

    pub fn settle_tools(&self, applied: OperationId) -> Result<()> {
        self.act("settle_tools", |state| {
            if let Some((_, bind)) = state.applied.get(&applied).cloned() {
                state.bound = bind;
            }
            Ok(())
        })
    }

    pub fn undo_tools(&self, applied: OperationId) -> Result<()> {
        self.act("undo_tools", |state| {
            state.undone.insert(applied);
            for tool in state.applied.remove(&applied).unwrap_or_default().0 {
                state.tools.remove(&tool.name);
            }
            Ok(())
        })
    }

    pub fn tool(&self, name: &Name) -> Result<NewTool> {
        self.state().tools.get(name).cloned().ok_or_else(|| Error::not_found("tool", name))
    }

    /// Gives a tool to the agents that wait for it.
    pub fn bind(&self, tool: &Name) -> Result<Vec<Name>> {
        self.act("bind_tool", |state| {
            state.offered.insert(tool.clone());
            Ok(Vec::new())
        })
    }

    pub fn build(&self, operation: &Operation) -> Result<BuiltImage> {
        self.act("build", |state| {
            state.check(operation)?;
            state.built.insert(operation.id);
            Ok(image())
        })
    }

    pub fn undo_build(&self, built: OperationId) -> Result<()> {
        self.act("undo_build", |state| {
            state.undone.insert(built);
            state.built.remove(&built);
            Ok(())
        })
    }

    pub fn keep_images(&self) -> Result<()> {
        self.act("keep_images", |_| Ok(()))
    }

    /// Marks the agent's image as outdated.
    pub fn outdate(&self) {
        for revision in self.state().revisions.iter_mut().filter(|revision| revision.current) {
            revision.needs_rebuild = true;
        }
    }

    pub fn start(&self, operation: &Operation, id: RevisionId, spec: AgentSpec) -> Result<RevisionStatus> {
        self.act("start_revision", |state| state.start(operation, id, spec, Reason::Deploy, None))
    }

    pub fn derive(&self, operation: &Operation, id: RevisionId, derivation: Derivation) -> Result<RevisionStatus> {
        self.act("derive_revision", |state| {
            let base = state.revisions.iter().find(|r| r.id == derivation.from).cloned();
            let base = base.ok_or_else(|| Error::not_found("revision", derivation.from))?;
            let spec = derivation.changes.apply(base.spec);
            state.start(operation, id, spec, derivation.reason, Some(base.number))
        })
    }

    pub fn switch(&self, operation: &Operation, id: RevisionId) -> Result<Agent> {
        self.act("switch_route", |state| {
            if state.switched.insert(operation.id) {
                state.current = Some(id);
                for revision in &mut state.revisions {
                    revision.current = revision.id == id;
                    revision.state = if revision.current { RevisionState::Serving } else { RevisionState::Superseded };
                }
            }
            state.agent()
        })
    }

    pub fn undo_start(&self, started: OperationId, id: RevisionId) -> Result<()> {
        self.act("undo_start", |state| {
            if state.current == Some(id) {
                return Err(Error::new(Code::Conflict, "it is the agent's"));
            }
            state.undone.insert(started);
            state.revisions.retain(|r| r.id != id);
            Ok(())
        })
    }

    pub fn agent(&self) -> Result<Agent> {
        self.state().agent()
    }

    pub fn revision(&self, wanted: RevisionRef) -> Result<Revision> {
        let state = self.state();
        let current = state.revisions.iter().find(|r| r.current).map_or(0, |r| r.number);
        let found = state.revisions.iter().rev().find(|r| match wanted {
            RevisionRef::Current => r.current,
            RevisionRef::Previous => r.number < current,
            RevisionRef::Number(number) => r.number == number,
            RevisionRef::Id(id) => r.id == id,
        });
        found.cloned().ok_or_else(|| Error::not_found("revision", wanted))
    }
}

impl State {
    /// Refuses an operation that was undone before it arrived.
    fn check(&self, operation: &Operation) -> Result<()> {
        let late = self.undone.contains(&operation.id);
        if late { Err(Error::new(Code::Aborted, "it was undone")) } else { Ok(()) }
    }

    fn start(
        &mut self,
        operation: &Operation,
        id: RevisionId,
        spec: AgentSpec,
        reason: Reason,
        of: Option<u64>,
    ) -> Result<RevisionStatus> {
        self.check(operation)?;
        if self.started.insert(operation.id, id).is_none() {
            self.last_number += 1;
            self.revisions.push(Revision {
                needs_rebuild: false,
                id,
                number: self.last_number,
                image_digest: Some(Digest::of(b"manifest")),
                spec,
                reason,
                deployment: operation.deployment,
                of,
                state: RevisionState::Starting,
                message: String::new(),
                current: false,
                created_at: 0,
                served_at: Some(0),
            });
        }
        let number = self.revisions.iter().find(|r| r.id == id).map_or(0, |r| r.number);
        let image_digest = Some(image().digest);
        Ok(RevisionStatus { revision: id, number, phase: Phase::Running, message: String::new(), image_digest })
    }

    fn agent(&self) -> Result<Agent> {
        let current = self.revisions.iter().find(|r| r.current).ok_or_else(|| Error::not_found("agent", "a"))?;
        let agent = crate::fakes::agent(name("a"), current);
        Ok(if current.needs_rebuild { Agent { phase: Phase::Stopped, needs_rebuild: true, ..agent } } else { agent })
    }
}

fn bound(name: &Name, tools: &BTreeMap<Name, NewTool>) -> BoundTool {
    BoundTool { name: name.clone(), url: tools.contains_key(name).then(|| format!("http://{name}.example")) }
}
