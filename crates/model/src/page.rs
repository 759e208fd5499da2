//! Lists that may be long, in parts: no part is larger than one message, and nobody needs all of them at a time.

use crate::{AgentService, Name, Result, ToolRegistry, agent::Agent, tool::Tool};

/// The part of a list in the order of names that comes after `after`, and at most `limit` entries of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageQuery {
    /// The last name of the part before; `None` for the first part.
    pub after: Option<Name>,
    /// How many entries are wanted. A part may have fewer where they are large.
    pub limit: u32,
}

impl PageQuery {
    /// The first part, with as many entries as a service gives at a time.
    pub const FIRST: Self = Self { after: None, limit: u32::MAX };
}

/// A part of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// In the order of their names.
    pub items: Vec<T>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl<T> Page<T> {
    /// The part that `found` is, of which one more than `limit` was looked up.
    pub fn of(mut found: Vec<T>, limit: usize) -> Self {
        let more = found.len() > limit;
        found.truncate(limit);
        Self { items: found, more }
    }

    /// The same with another form of each entry.
    pub fn try_map<U>(self, form: impl FnMut(T) -> Result<U>) -> Result<Page<U>> {
        Ok(Page { items: self.items.into_iter().map(form).collect::<Result<_>>()?, more: self.more })
    }
}

/// What `pick` takes of each agent, in the order of their names.
pub async fn of_agents<T: Send>(
    agents: &dyn AgentService,
    pick: impl FnMut(Agent) -> Option<T> + Send,
) -> Result<Vec<T>> {
    of_each(|query| agents.list_agents(query), |agent| &agent.name, pick).await
}

/// What `pick` takes of each tool, in the order of their names.
pub async fn of_tools<T: Send>(tools: &dyn ToolRegistry, pick: impl FnMut(Tool) -> Option<T> + Send) -> Result<Vec<T>> {
    of_each(|query| tools.list_tools(query), |tool| &tool.name, pick).await
}

async fn of_each<R, T, F>(
    list: impl Fn(PageQuery) -> F,
    name: impl Fn(&R) -> &Name,
    mut pick: impl FnMut(R) -> Option<T>,
) -> Result<Vec<T>>
where
    F: Future<Output = Result<Page<R>>>,
{
    let (mut query, mut picked) = (PageQuery::FIRST, Vec::new());
    loop {
        let Page { items, more } = list(query.clone()).await?;
        query.after = items.last().map(|item| name(item).clone());
        picked.extend(items.into_iter().filter_map(&mut pick));
        if !more || query.after.is_none() {
            return Ok(picked);
        }
    }
}
