//! Pagination of long lists: no page is larger than one message, and no client needs the whole list at once.

use crate::{AgentService, Name, Result, ToolRegistry, agent::Agent, tool::Tool};

/// A request for the page after `after`, in the order of names, with at most `limit` entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageQuery {
    /// The last name of the previous page; `None` for the first page.
    pub after: Option<Name>,
    /// The requested number of entries. A page may have fewer if they are large.
    pub limit: u32,
}

impl PageQuery {
    /// The first page, with as many entries as a service returns at a time.
    pub const FIRST: Self = Self { after: None, limit: u32::MAX };
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries in the order of their names.
    pub items: Vec<T>,
    /// Whether there are more after the last one.
    pub more: bool,
}

impl<T> Page<T> {
    /// Makes a page of `found`, for which one more than `limit` was queried.
    pub fn of(mut found: Vec<T>, limit: usize) -> Self {
        let more = found.len() > limit;
        found.truncate(limit);
        Self { items: found, more }
    }

    /// Converts each entry.
    pub fn try_map<U>(self, form: impl FnMut(T) -> Result<U>) -> Result<Page<U>> {
        Ok(Page { items: self.items.into_iter().map(form).collect::<Result<_>>()?, more: self.more })
    }
}

/// Returns the results of `pick` for all agents, in the order of their names.
pub async fn of_agents<T: Send>(
    agents: &dyn AgentService,
    pick: impl FnMut(Agent) -> Option<T> + Send,
) -> Result<Vec<T>> {
    of_each(|query| agents.list_agents(query), |agent| &agent.name, pick).await
}

/// Returns the results of `pick` for all tools, in the order of their names.
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
