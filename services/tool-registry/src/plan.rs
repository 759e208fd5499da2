//! What a deploy's tools mean for what is registered: decided here, from one snapshot, for the dry run and for the
//! real one alike.

use crate::{
    address::Addresses,
    record::{Content, StoredTool},
    vault::Vault,
};
use hoistway_model::{
    Code, Error, Name, Result,
    tool::{BoundTool, NewTool, ToolPlan},
};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that a decision depends on.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Those of the plan's tools that exist.
    pub(crate) tools: BTreeMap<Name, StoredTool>,
    /// For the tools that the plan creates: the agents, other than the plan's, that are bound to them.
    pub(crate) others: BTreeMap<Name, BTreeSet<Name>>,
    /// What the agent's settled deploys bound.
    pub(crate) bound: BTreeSet<Name>,
    /// Whether the agent has bindings of a deploy that neither settled nor was undone.
    pub(crate) unsettled: bool,
}

/// New content for a tool that exists.
#[derive(Debug)]
pub(crate) struct Update {
    pub(crate) before: StoredTool,
    pub(crate) content: Content,
}

/// What to write.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Tools to insert, in the plan's order, with their sealed credentials.
    pub(crate) create: Vec<(NewTool, Option<Vec<u8>>)>,
    /// Tools to update.
    pub(crate) update: Vec<Update>,
    /// Tools that another unsettled deploy created and that this one relies on too: its undo shall not delete them.
    pub(crate) adopt: Vec<Name>,
    /// The agent's new bindings, if they are to be written.
    pub(crate) bind: Option<BTreeSet<Name>>,
}

impl Changes {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.create.is_empty() && self.update.is_empty() && self.adopt.is_empty() && self.bind.is_none()
    }
}

/// Decides what `plan` changes.
pub(crate) fn changes(snapshot: &Snapshot, plan: &ToolPlan, addresses: &Addresses, vault: &Vault) -> Result<Changes> {
    let mut changes = Changes::default();
    for wanted in &plan.create {
        let prefixed = |e: Error| e.prefixed(&format!("failed to create tool \"{}\": ", wanted.name));
        let Some(have) = snapshot.tools.get(&wanted.name) else {
            let sealed = vault.seal(&wanted.name, &wanted.credentials).map_err(prefixed)?;
            changes.create.push((wanted.clone(), sealed));
            continue;
        };
        let others = snapshot.others.get(&wanted.name);
        match redefined(have, wanted, others, addresses, vault).map_err(prefixed)? {
            Some(content) => changes.update.push(Update { before: have.clone(), content }),
            None if have.created_by.is_some() => changes.adopt.push(have.name.clone()),
            None => {}
        }
    }
    let wanted: BTreeSet<Name> = plan.bind.iter().cloned().collect();
    if snapshot.unsettled || snapshot.bound != wanted {
        changes.bind = Some(wanted);
    }
    Ok(changes)
}

/// The content that a deploy gives to a tool which exists, or nothing when it is that already.
fn redefined(
    have: &StoredTool,
    wanted: &NewTool,
    others: Option<&BTreeSet<Name>>,
    addresses: &Addresses,
    vault: &Vault,
) -> Result<Option<Content>> {
    let shown = addresses.public(&have.content);
    let mut connection = wanted.connection.clone();
    if connection.api_key.is_none() && connection.auth_type == shown.auth_type {
        // A deploy cannot say where a key goes, so it does not mean to take away what was said elsewhere.
        connection.api_key = shown.api_key.clone();
    }
    let mut content = have.content.clone();
    if connection != shown {
        if have.content.credentials.is_some() {
            let text = "it is registered with another endpoint or authentication and holds credentials; \
                        delete it first, or deploy the registered definition";
            return Err(Error::new(Code::Conflict, text));
        }
        if let Some(others) = others.filter(|others| !others.is_empty()) {
            let text = format!(
                "it is registered with another endpoint or authentication and is used by {}; choose another name, \
                 or deploy the registered definition",
                agents(others)
            );
            return Err(Error::new(Code::Conflict, text));
        }
        (content.connection, content.builtin) = (connection, None);
    }
    if content.credentials.is_none() {
        content.credentials = vault.seal(&wanted.name, &wanted.credentials)?;
    } else if !wanted.credentials.is_empty() && !vault.holds(have, &wanted.credentials)? {
        return Err(Error::new(Code::Conflict, "it holds other credentials; delete it first to replace them"));
    }
    content.description.clone_from(&wanted.description);
    Ok((content != have.content).then_some(content))
}

/// The content of a tool after the same tool was registered again, which may add what was not said the first time:
/// credentials, and where the key goes. Nothing when it is complete already.
pub(crate) fn completed(
    have: &StoredTool,
    wanted: &NewTool,
    addresses: &Addresses,
    vault: &Vault,
) -> Result<Option<Content>> {
    let exists =
        |what: &str| Error::new(Code::Conflict, format!("tool \"{}\" already exists with {what}", wanted.name));
    let shown = addresses.public(&have.content);
    let mut adjusted = shown.clone();
    if shown.api_key.is_none() {
        adjusted.api_key.clone_from(&wanted.connection.api_key);
    }
    let same =
        have.content.description == wanted.description && have.labels == wanted.labels && adjusted == wanted.connection;
    if !same {
        return Err(exists("another definition"));
    }
    let mut content = have.content.clone();
    content.connection.api_key = adjusted.api_key;
    if content.credentials.is_none() {
        content.credentials = vault.seal(&wanted.name, &wanted.credentials)?;
    } else if !wanted.credentials.is_empty() && !vault.holds(have, &wanted.credentials)? {
        return Err(exists("other credentials; delete it first to replace them"));
    }
    Ok((content != have.content).then_some(content))
}

/// Where each required tool is once `changes` are made.
pub(crate) fn bound_tools(
    snapshot: &Snapshot,
    plan: &ToolPlan,
    changes: &Changes,
    addresses: &Addresses,
) -> Vec<BoundTool> {
    let mut urls: BTreeMap<&Name, String> =
        snapshot.tools.values().map(|tool| (&tool.name, addresses.internal(&tool.content))).collect();
    for (tool, _) in &changes.create {
        urls.insert(&tool.name, tool.connection.base_url.clone());
    }
    for update in &changes.update {
        urls.insert(&update.before.name, addresses.internal(&update.content));
    }
    plan.bind.iter().map(|name| BoundTool { name: name.clone(), url: urls.get(name).cloned() }).collect()
}

/// The agents by name, for an error message.
pub(crate) fn agents(names: &BTreeSet<Name>) -> String {
    const SHOWN: usize = 10;
    let shown = names.iter().take(SHOWN).map(|n| format!("\"{n}\"")).collect::<Vec<_>>().join(", ");
    match names.len() {
        1 => format!("the agent {shown}"),
        0..=SHOWN => format!("the agents {shown}"),
        n => format!("the agents {shown} and {} more", n - SHOWN),
    }
}
