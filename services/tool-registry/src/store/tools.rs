//! Tools one by one: rows and records, registration, deletion, the starter kit's tool.

use super::{
    MAX_ROWS, Once, Store, column_values,
    entity::{binding, tool},
    held,
};
use crate::{
    deploy_plan::{agents, completed, replaced},
    stored_tool::{Builtin, Content, StoredTool},
    validation::check_description,
    vault::{Holder, Sealed, tool_value},
};
use hoistway_kit::{db::db_error, time::now_ms};
use hoistway_model::{
    Code, Error, Name, Operation, OperationId, Result, Secret,
    page::{Page, PageQuery},
    tool::{ApiKeyLocation, Connection, NewTool, Tool, ToolUpdate},
};
use sea_orm::{
    ActiveValue::{NotSet, Set},
    ColumnTrait, ConnectionTrait, EntityTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::Expr,
};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

/// The number of tools that are listed at a time.
const PAGE: u32 = 100;
/// The bytes that all tools together may hold, and the expression by which the database measures them. What is held
/// beyond, from before there was a bound, can be read, shortened and deleted.
const MAX_BYTES: i64 = 16 << 20;
const BYTES: &str = "SUM(octet_length(description) + octet_length(base_url) + octet_length(labels) \
    + octet_length(COALESCE(oauth2, '')) + octet_length(COALESCE(api_key_name, '')) \
    + octet_length(COALESCE(api_key_prefix, '')) + octet_length(COALESCE(credentials, '')))";

impl Store {
    pub(crate) async fn create_tool(&self, operation: &Operation, wanted: &NewTool) -> Result<Tool> {
        const KIND: &str = "tools.create";
        let payload = self.vault.fingerprint(KIND, &tool_value(wanted));
        let txn = match self.once::<Tool>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let tool = match find(&txn, &wanted.name).await? {
            None => {
                let sealed = self.vault.seal(Holder::Tool(&wanted.name), &wanted.credentials)?;
                let content = new_content(wanted, None, sealed);
                let tool = new_row(wanted, content, None, operation.id);
                insert(&txn, vec![tool.clone()]).await?;
                tool
            }
            Some(have) => {
                let content = completed(&have, wanted, &self.addresses, &self.vault)?;
                adopt(&txn, &have.name).await?;
                match content {
                    Some(content) => update(&txn, have, content, operation.id).await?,
                    None => have,
                }
            }
        };
        let tool = self.addresses.show(tool);
        self.finish(txn, operation.id, &tool).await?;
        Ok(tool)
    }

    pub(crate) async fn update_tool(&self, operation: &Operation, wanted: &ToolUpdate) -> Result<Tool> {
        const KIND: &str = "tools.update";
        let ToolUpdate { tool: wanted, version } = wanted;
        let payload = self.vault.fingerprint(KIND, &json!([tool_value(wanted), version]));
        let txn = match self.once::<Tool>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let have = find(&txn, &wanted.name).await?.ok_or_else(|| Error::not_found("tool", &wanted.name))?;
        if version.is_some_and(|version| version != have.written_by) {
            let text = format!("tool \"{}\" was changed meanwhile; look at it and try again", wanted.name);
            return Err(Error::new(Code::Aborted, text));
        }
        if wanted.description != have.content.description {
            check_description("description", &wanted.description)?;
        }
        let content = replaced(&have, wanted, &self.addresses, &self.vault)?;
        adopt(&txn, &have.name).await?;
        let tool = if content == have.content && wanted.labels == have.labels {
            have
        } else {
            let have = StoredTool { labels: wanted.labels.clone(), ..have };
            update(&txn, have, content, operation.id).await?
        };
        let tool = self.addresses.show(tool);
        self.finish(txn, operation.id, &tool).await?;
        Ok(tool)
    }

    pub(crate) async fn set_tool_credentials(
        &self,
        operation: &Operation,
        name: &Name,
        credentials: &BTreeMap<String, Secret>,
        check: impl Fn(&Connection) -> Result<()>,
    ) -> Result<Tool> {
        const KIND: &str = "tools.set_credentials";
        let payload = self.vault.fingerprint(KIND, &json!([name, credentials]));
        let txn = match self.once::<Tool>(operation, KIND, payload).await? {
            Once::Again(answer) => return Ok(answer),
            Once::First(txn) => txn,
        };
        let have = find(&txn, name).await?.ok_or_else(|| Error::not_found("tool", name))?;
        if !credentials.is_empty() {
            check(&have.content.connection)?;
        } else if have.content.credentials.is_none() {
            return Err(Error::not_found("a credential of tool", name));
        }
        let credentials = self.vault.seal(Holder::Tool(name), credentials)?;
        let content = Content { credentials, ..have.content.clone() };
        adopt(&txn, name).await?;
        let tool = self.addresses.show(update(&txn, have, content, operation.id).await?);
        self.finish(txn, operation.id, &tool).await?;
        Ok(tool)
    }

    pub(crate) async fn get_tool(&self, name: &Name) -> Result<Tool> {
        let tool = find(self.db.read(), name).await?.ok_or_else(|| Error::not_found("tool", name))?;
        Ok(self.addresses.show(tool))
    }

    pub(crate) async fn list_tools(&self, query: PageQuery) -> Result<Page<Tool>> {
        let limit = query.limit.clamp(1, PAGE);
        let mut rows = tool::Entity::find().order_by_asc(tool::Column::Name).limit(u64::from(limit) + 1);
        if let Some(after) = &query.after {
            rows = rows.filter(tool::Column::Name.gt(after.as_str()));
        }
        let rows = rows.all(self.db.read()).await.map_err(db_error("listing tools"))?;
        Page::of(rows, limit as usize).try_map(|row| Ok(self.addresses.show(StoredTool::try_from(row)?)))
    }

    pub(crate) async fn delete_tool(&self, operation: &Operation, name: &Name) -> Result<()> {
        const KIND: &str = "tools.delete";
        let payload = self.vault.fingerprint(KIND, &json!(name));
        let txn = match self.once::<()>(operation, KIND, payload).await? {
            Once::Again(()) => return Ok(()),
            Once::First(txn) => txn,
        };
        let doing = "deleting a tool";
        if find(&txn, name).await?.is_none() {
            return Err(Error::not_found("tool", name));
        }
        let users: Vec<String> = binding::Entity::find()
            .select_only()
            .column(binding::Column::Agent)
            .filter(binding::Column::Tool.eq(name.as_str()))
            .into_tuple()
            .all(&txn)
            .await
            .map_err(db_error(doing))?;
        let users = users.into_iter().map(column_values::name).collect::<Result<BTreeSet<_>>>()?;
        if !users.is_empty() {
            return Err(Error::new(Code::Conflict, format!("tool \"{name}\" is used by {}", agents(&users))));
        }
        tool::Entity::delete_by_id(name.as_str()).exec(&txn).await.map_err(db_error(doing))?;
        self.finish(txn, operation.id, &()).await
    }

    /// Registers the built-in tool unless there is a tool of its name, whoever's it is.
    pub(super) async fn seed_echo(&self, txn: &impl ConnectionTrait, wanted: &NewTool, id: OperationId) -> Result<()> {
        if find(txn, &wanted.name).await?.is_some() {
            return Ok(());
        }
        let content = new_content(wanted, Some(Builtin::Echo), None);
        insert(txn, vec![new_row(wanted, content, None, id)]).await
    }
}

/// A tool as it is registered.
pub(super) fn new_content(wanted: &NewTool, builtin: Option<Builtin>, credentials: Option<Sealed>) -> Content {
    let (description, connection) = (wanted.description.clone(), wanted.connection.clone());
    Content { description, connection, builtin, credentials }
}

/// A tool that is there from now on.
pub(super) fn new_row(
    wanted: &NewTool,
    content: Content,
    created_by: Option<OperationId>,
    written_by: OperationId,
) -> StoredTool {
    let now = now_ms();
    StoredTool {
        name: wanted.name.clone(),
        content,
        labels: wanted.labels.clone(),
        created_by,
        written_by,
        created_at: now,
        updated_at: now,
    }
}

/// Adds tools whose names are free.
pub(super) async fn insert(txn: &impl ConnectionTrait, tools: Vec<StoredTool>) -> Result<()> {
    let doing = "registering a tool";
    let count = tool::Entity::find().count(txn).await.map_err(db_error(doing))?;
    if count.saturating_add(tools.len() as u64) > MAX_ROWS {
        return Err(Error::new(Code::ResourceExhausted, format!("there can be at most {MAX_ROWS} tools")));
    }
    let rows = tools.into_iter().map(row).collect::<Result<Vec<_>>>()?;
    tool::Entity::insert_many(rows).exec_without_returning(txn).await.map_err(db_error(doing))?;
    has_room(txn).await
}

/// Checks that all tools are within their bound, now that something was added.
async fn has_room(txn: &impl ConnectionTrait) -> Result<()> {
    if held(tool::Entity::find(), BYTES, txn).await? > MAX_BYTES {
        let text = format!(
            "all tools together would hold more than {} MiB of descriptions, labels and other texts; shorten some, or \
             delete tools that no agent needs",
            MAX_BYTES >> 20
        );
        return Err(Error::new(Code::ResourceExhausted, text));
    }
    Ok(())
}

/// Gives a tool that exists new content, for which there must be room if it is longer than what it had.
pub(super) async fn update(
    txn: &impl ConnectionTrait,
    have: StoredTool,
    content: Content,
    written_by: OperationId,
) -> Result<StoredTool> {
    let of_tool = || tool::Entity::find_by_id(have.name.as_str());
    let before = held(of_tool(), BYTES, txn).await?;
    let measured = of_tool();
    let tool = put(txn, have, content, written_by).await?;
    if held(measured, BYTES, txn).await? > before {
        has_room(txn).await?;
    }
    Ok(tool)
}

/// Gives a tool that exists content, whatever it takes: what is taken back had room before.
pub(super) async fn put(
    txn: &impl ConnectionTrait,
    have: StoredTool,
    content: Content,
    written_by: OperationId,
) -> Result<StoredTool> {
    let tool = StoredTool { content, written_by, updated_at: now_ms(), ..have };
    // Columns that did not change here may be changed by others: the creator, for one, is cleared by adoption.
    let row = tool::ActiveModel { created_by_operation: NotSet, ..row(tool.clone())? };
    tool::Entity::update_many()
        .set(row)
        .filter(tool::Column::Name.eq(tool.name.as_str()))
        .exec(txn)
        .await
        .map_err(db_error("updating a tool"))?;
    Ok(tool)
}

/// Takes from a tool's creator the right to delete it again by undoing.
pub(super) async fn adopt(txn: &impl ConnectionTrait, name: &Name) -> Result<()> {
    tool::Entity::update_many()
        .col_expr(tool::Column::CreatedByOperation, Expr::value(Option::<String>::None))
        .filter(tool::Column::Name.eq(name.as_str()))
        .filter(tool::Column::CreatedByOperation.is_not_null())
        .exec(txn)
        .await
        .map_err(db_error("adopting a tool"))?;
    Ok(())
}

pub(super) async fn find(db: &impl ConnectionTrait, name: &Name) -> Result<Option<StoredTool>> {
    let row = tool::Entity::find_by_id(name.as_str()).one(db).await.map_err(db_error("looking up a tool"))?;
    row.map(TryInto::try_into).transpose()
}

fn row(t: StoredTool) -> Result<tool::ActiveModel> {
    let Content { description, connection, builtin, credentials } = t.content;
    let (location, key_name, prefix) = match connection.api_key {
        Some(place) => (Some(place.location), Some(place.name), Some(place.value_prefix)),
        None => (None, None, None),
    };
    let oauth2 = connection.oauth2.as_ref().map(column_values::write).transpose()?;
    let (credentials, credentials_set_at) = credentials.map(|c| (c.bytes, c.set_at)).unzip();
    Ok(tool::ActiveModel {
        name: Set(t.name.into()),
        description: Set(description),
        base_url: Set(connection.base_url),
        port: Set(connection.port.into()),
        scheme: Set(connection.scheme.as_str().to_owned()),
        auth_type: Set(connection.auth_type.as_str().to_owned()),
        api_key_location: Set(location),
        api_key_name: Set(key_name),
        api_key_prefix: Set(prefix),
        labels: Set(column_values::write(&t.labels)?),
        oauth2: Set(oauth2),
        credentials: Set(credentials),
        credentials_set_at: Set(credentials_set_at),
        builtin: Set(builtin.map(|b| b.as_str().to_owned())),
        created_by_operation: Set(t.created_by.map(|id| id.to_string())),
        written_by_operation: Set(t.written_by.to_string()),
        created_at: Set(t.created_at),
        updated_at: Set(t.updated_at),
    })
}

impl TryFrom<tool::Model> for StoredTool {
    type Error = Error;

    fn try_from(row: tool::Model) -> Result<Self> {
        let api_key = match (row.api_key_location, row.api_key_name, row.api_key_prefix) {
            (Some(location), Some(name), Some(value_prefix)) => Some(ApiKeyLocation { location, name, value_prefix }),
            _ => None,
        };
        let oauth2 = row.oauth2.as_deref().map(column_values::read).transpose()?;
        let set_at = row.credentials_set_at.unwrap_or(row.updated_at);
        Ok(Self {
            name: column_values::name(row.name)?,
            content: Content {
                description: row.description,
                connection: Connection {
                    base_url: row.base_url,
                    port: u16::try_from(row.port).map_err(|e| Error::internal("reading a record", e))?,
                    scheme: column_values::parse(&row.scheme)?,
                    auth_type: column_values::parse(&row.auth_type)?,
                    api_key,
                    oauth2,
                },
                builtin: row.builtin.as_deref().and_then(Builtin::parse),
                credentials: row.credentials.map(|bytes| Sealed { bytes, set_at }),
            },
            labels: column_values::read(&row.labels)?,
            created_by: row.created_by_operation.as_deref().map(column_values::parse).transpose()?,
            written_by: column_values::parse(&row.written_by_operation)?,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}
