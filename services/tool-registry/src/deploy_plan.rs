//! The changes that a deploy's tools make to the registry: decided here, from one snapshot, for the dry run and for the
//! real one alike.

use crate::{
    echo_url::{Addresses, with_port},
    stored_tool::{Content, StoredTool},
    vault::{Holder, Sealed, Vault},
};
use hoistway_model::{
    Code, Error, Name, Result,
    tool::{BoundTool, Connection, NewTool, ToolPlan},
};
use std::collections::{BTreeMap, BTreeSet};
use url::Url;

/// Everything that a decision depends on.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Those of the plan's tools that exist.
    pub(crate) tools: BTreeMap<Name, StoredTool>,
    /// For the tools that the plan creates: the agents, other than the plan's, that are bound to them.
    pub(crate) others: BTreeMap<Name, BTreeSet<Name>>,
    /// The tools that the agent's settled deploys bound.
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

/// The changes to write.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Tools to insert, in the plan's order, with their sealed credentials.
    pub(crate) create: Vec<(NewTool, Option<Sealed>)>,
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
            let sealed = vault.seal(Holder::Tool(&wanted.name), &wanted.credentials).map_err(prefixed)?;
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
    let mut connection = written_as(&shown, &wanted.connection);
    if connection.auth_type == shown.auth_type {
        // A deploy cannot say where a key goes, so it does not mean to take away what was said elsewhere.
        connection.api_key = connection.api_key.or_else(|| shown.api_key.clone());
        connection.oauth2 = connection.oauth2.or_else(|| shown.oauth2.clone());
    }
    let mut content = have.content.clone();
    if connection != shown {
        if have.content.credentials.is_some() {
            let text = "it is registered with another endpoint or authentication and holds credentials; \
                        change it with PUT /api/tools/NAME, or deploy the registered definition";
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
        content.credentials = vault.seal(Holder::Tool(&wanted.name), &wanted.credentials)?;
    } else if !wanted.credentials.is_empty() && !holds(have, wanted, vault)? {
        return Err(Error::new(Code::Conflict, "it holds other credentials; PUT /api/tools/NAME/credentials first"));
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
    // Whoever names the place that a stored secret goes to must know the secret.
    if shown.oauth2.is_none() && (have.content.credentials.is_none() || !wanted.credentials.is_empty()) {
        adjusted.oauth2.clone_from(&wanted.connection.oauth2);
    }
    let same = have.content.description == wanted.description
        && have.labels == wanted.labels
        && adjusted == written_as(&shown, &wanted.connection);
    if !same {
        return Err(exists(&format!("another definition; PUT /api/tools/{} changes it", wanted.name)));
    }
    let mut content = have.content.clone();
    (content.connection.api_key, content.connection.oauth2) = (adjusted.api_key, adjusted.oauth2);
    if content.credentials.is_none() {
        content.credentials = vault.seal(Holder::Tool(&wanted.name), &wanted.credentials)?;
    } else if !wanted.credentials.is_empty() && !holds(have, wanted, vault)? {
        let path = format!("/api/tools/{}/credentials", wanted.name);
        return Err(exists(&format!("other credentials; PUT {path} replaces them")));
    }
    Ok((content != have.content).then_some(content))
}

/// The content of a tool after its owner has changed it.
pub(crate) fn replaced(have: &StoredTool, wanted: &NewTool, addresses: &Addresses, vault: &Vault) -> Result<Content> {
    let shown = addresses.public(&have.content);
    let mut content = have.content.clone();
    if wanted.connection != shown {
        let stays = content.credentials.is_some() && wanted.credentials.is_empty();
        if stays && !keeps_destinations(&shown, &wanted.connection) {
            return Err(would_leak("tool", "/api/tools", &wanted.name));
        }
        (content.connection, content.builtin) = (wanted.connection.clone(), None);
    }
    if !wanted.credentials.is_empty() && !holds(have, wanted, vault)? {
        content.credentials = vault.seal(Holder::Tool(&wanted.name), &wanted.credentials)?;
    }
    content.description.clone_from(&wanted.description);
    Ok(content)
}

/// `wanted`, its base URL written as in `shown` where the two mean the same: `https://A.example:443` and
/// `https://a.example/` do.
fn written_as(shown: &Connection, wanted: &Connection) -> Connection {
    let mut wanted = wanted.clone();
    if Url::parse(&wanted.base_url).is_ok_and(|url| Url::parse(&shown.base_url).is_ok_and(|shown| shown == url)) {
        wanted.base_url.clone_from(&shown.base_url);
    }
    wanted
}

fn holds(have: &StoredTool, wanted: &NewTool, vault: &Vault) -> Result<bool> {
    vault.holds(Holder::Tool(&have.name), have.content.credentials.as_ref(), &wanted.credentials)
}

/// A change that would tell a stored credential to somebody whom it was not given for.
pub(crate) fn would_leak(kind: &str, path: &str, name: &Name) -> Error {
    let text = format!(
        "{kind} \"{name}\" holds credentials, which this change would send to another place or use in another way; \
         give them again in the same call, or take them away first (DELETE {path}/{name}/credentials)"
    );
    Error::new(Code::Conflict, text)
}

/// Whether a change keeps a tool's credentials where they were given for: used in the same way, and sent nowhere else.
/// A key in a URL gets into logs.
fn keeps_destinations(before: &Connection, after: &Connection) -> bool {
    let in_query = |at: &Connection| at.api_key.as_ref().is_some_and(|key| key.location == "Query");
    let tokens = |at: &Connection| at.oauth2.as_ref().map(|oauth2| Url::parse(&oauth2.token_url).ok());
    before.auth_type == after.auth_type
        && before.port == after.port
        && in_query(before) == in_query(after)
        && tokens(before) == tokens(after)
        && is_within(&before.base_url, &after.base_url)
}

/// Whether a base URL is another or below it: the same scheme, host and port, and a path that goes on where the other
/// ends. One host may serve several owners, each below a path of their own.
pub(crate) fn is_within(base: &str, url: &str) -> bool {
    let (Ok(base), Ok(url)) = (Url::parse(base), Url::parse(url)) else { return base == url };
    let path = base.path().trim_end_matches('/');
    let Some(rest) = url.path().strip_prefix(path) else { return false };
    // Some servers take these for separators, and find `..` beside them.
    let is_plain = !["%2f", "%5c"].iter().any(|separator| rest.to_ascii_lowercase().contains(separator));
    base.origin() == url.origin() && is_plain && (rest.is_empty() || rest.starts_with('/'))
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
        urls.insert(&tool.name, with_port(&tool.connection));
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
