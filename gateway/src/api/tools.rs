//! `/api/tools`.

use super::{
    agents::deleted,
    body::WholeBody,
    connection::{Given, one_of},
    deploy_request::tools::{description, missing},
    error::ApiResult,
    json::{self, Object, short},
    query::Segment,
};
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_kit::{telemetry, time::rfc3339};
use hoistway_model::{
    Code, Error, NAMESPACE, Name, Operation, Result, Secret,
    tool::{ApiKeyPlace, AuthType, BoundTool, Connection, NewTool, Tool},
};
use http::StatusCode;
use serde_json::{Value, json};
use std::{collections::BTreeMap, str::FromStr, sync::Arc};
use tracing::Instrument;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The longest credential and the longest label.
const MAX_CREDENTIAL: usize = 64 << 10;
const MAX_LABEL: usize = 256;

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

/// `GET /tools`.
#[utoipa::path(get, path = "/tools", tag = "tools")]
pub async fn list(State(state): State<Arc<AppState>>) -> ApiResult<Json<Vec<Value>>> {
    Ok(Json(state.tools.list_tools().await?.iter().map(shape).collect()))
}

/// `GET /tools/{name}`.
#[utoipa::path(get, path = "/tools/{name}", tag = "tools", params(("name" = String, Path, description = "The tool's name")))]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Value>> {
    Ok(Json(shape(&state.tools.get_tool(name.name("tool")?).await?)))
}

/// `POST /tools`: 201 for a new tool, 200 for one that is registered just so. Agents that were waiting for it get it.
#[utoipa::path(post, path = "/tools", tag = "tools")]
pub async fn create(State(state): State<Arc<AppState>>, body: WholeBody) -> ApiResult<(StatusCode, Json<Value>)> {
    let (tool, warnings) = parse(&body.bytes)?;
    let known = exists(state.tools.get_tool(tool.name.clone()).await)?;
    let tool = state.tools.create_tool(Operation::new(), tool).await?;
    bind(&state, &tool);
    Ok((created(known), Json(with_warnings(shape(&tool), warnings))))
}

/// `DELETE /tools/{name}`.
#[utoipa::path(delete, path = "/tools/{name}", tag = "tools", params(("name" = String, Path, description = "The tool's name")))]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Value>> {
    state.tools.delete_tool(Operation::new(), name.name("tool")?).await?;
    Ok(Json(deleted()))
}

/// Whether a look-up found something.
pub fn exists<T>(found: Result<T>) -> Result<bool> {
    match found {
        Ok(_) => Ok(true),
        Err(e) if e.code == Code::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}

/// 201, or 200 for what was there already.
pub fn created(known: bool) -> StatusCode {
    if known { StatusCode::OK } else { StatusCode::CREATED }
}

/// An answer with what the user should be warned of.
pub fn with_warnings(mut shape: Value, warnings: Vec<String>) -> Value {
    if !warnings.is_empty() {
        shape["warnings"] = warnings.into();
    }
    shape
}

/// Gives a tool to the agents that were deployed before it existed, without making its creator wait for them.
pub fn bind(state: &Arc<AppState>, tool: &Tool) {
    let agents = state.agents.clone();
    let bound = BoundTool { name: tool.name.clone(), url: Some(tool.internal_url.clone()) };
    let task = async move {
        let name = bound.name.clone();
        match agents.bind_tool(Operation::new(), bound).await {
            Ok(bound) if bound.is_empty() => {}
            Ok(bound) => {
                let names: Vec<_> = bound.iter().map(Name::as_str).collect();
                tracing::info!("tool \"{name}\" was bound to agents that waited for it: {}", names.join(", "));
            }
            Err(e) => {
                let cause = e.chain();
                tracing::warn!(cause, "tool \"{name}\" could not be bound to agents that require it: {e}");
            }
        }
    };
    let request = telemetry::request_id().unwrap_or_default();
    state.tasks.spawn(telemetry::with_request_id(request, task).in_current_span());
}

fn shape(tool: &Tool) -> Value {
    let at = &tool.connection;
    let mut authentication = json!({"type": at.auth_type.as_str()});
    if let Some(key) = &at.api_key {
        authentication["apiKeyConfig"] = json!({"in": key.location, "name": key.name, "valuePrefix": key.value_prefix});
    }
    let status = if at.auth_type == AuthType::None || tool.has_credentials {
        json!({"phase": "Ready", "message": ""})
    } else {
        json!({"phase": "Pending", "message": format!("no credential is stored for {}", at.auth_type.as_str())})
    };
    json!({
        "name": tool.name,
        "namespace": NAMESPACE,
        "labels": tool.labels,
        "spec": {
            "description": tool.description,
            "connection": {
                "baseUrl": at.base_url,
                "port": at.port,
                "scheme": at.scheme.as_str(),
                "authentication": authentication,
            },
        },
        "status": status,
        "created_at": rfc3339(tool.created_at),
        "updated_at": rfc3339(tool.updated_at),
    })
}

/// Reads the flat body and the nested one, which is told by its `spec`.
fn parse(body: &[u8]) -> Result<(NewTool, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut root = Object::parse(body)?;
    let name = root.text("name")?.ok_or_else(|| missing(&root, "name"))?;
    let (description, connection) = match root.object("spec")? {
        Some(spec) => {
            let (inner, connection) = nested(spec, &mut warnings)?;
            let outer = description(&mut root)?;
            (if inner.is_empty() { outer } else { inner }, connection)
        }
        None => flat(&mut root)?,
    };
    let name = json::name("name", &name)?;
    let labels = labels(&mut root)?;
    let credentials = credentials(&mut root, connection.auth_type, &mut warnings)?;
    root.finish(&mut warnings);
    Ok((NewTool { name, description, connection, labels, credentials }, warnings))
}

fn flat(root: &mut Object) -> Result<(String, Connection)> {
    let base_url = root.text("base_url")?.ok_or_else(|| missing(root, "base_url"))?;
    let description = description(root)?;
    let given = Given {
        base_url: ("base_url".into(), base_url),
        port: ("port".into(), root.integer("port")?),
        scheme: ("scheme".into(), root.string("scheme")?),
        auth_type: ("auth_type".into(), root.string("auth_type")?),
        api_key: None,
    };
    Ok((description, given.check()?))
}

fn nested(mut spec: Object, warnings: &mut Vec<String>) -> Result<(String, Connection)> {
    let description = description(&mut spec)?;
    let Some(mut at) = spec.object("connection")? else { return Err(missing(&spec, "connection")) };
    let base_url = at.text("baseUrl")?.ok_or_else(|| missing(&at, "baseUrl"))?;
    let (mut auth_type, mut api_key) = ((at.path_of("authentication.type"), None), None);
    if let Some(mut authentication) = at.object("authentication")? {
        auth_type.1 = authentication.string("type")?;
        if let Some(config) = authentication.object("apiKeyConfig")? {
            api_key = Some(key_place(config, warnings)?);
        }
        authentication.finish(warnings);
    }
    let config = at.path_of("authentication.apiKeyConfig");
    let given = Given {
        base_url: (at.path_of("baseUrl"), base_url),
        port: (at.path_of("port"), at.integer("port")?),
        scheme: (at.path_of("scheme"), at.string("scheme")?),
        auth_type,
        api_key,
    };
    at.finish(warnings);
    spec.finish(warnings);
    let connection = given.check()?;
    if connection.api_key.is_some() && connection.auth_type != AuthType::ApiKey {
        return Err(Error::field(config, "is only for authentication.type APIKey"));
    }
    Ok((description, connection))
}

/// `Header` or `Query`.
struct Location(&'static str);

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        ["Header", "Query"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(text))
            .map(Location)
            .ok_or_else(|| format!("\"{}\" is not one of Header, Query", short(text)))
    }
}

fn key_place(mut config: Object, warnings: &mut Vec<String>) -> Result<ApiKeyPlace> {
    let location =
        one_of::<Location>(&config.path_of("in"), config.string("in")?.as_deref())?.unwrap_or(Location("Header")).0;
    let name = config.required("name")?;
    if location == "Header" && http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        return Err(Error::field(config.path_of("name"), format!("\"{}\" is not a header's name", short(&name))));
    }
    if name.len() > MAX_LABEL || name.contains(char::is_control) {
        return Err(Error::field(config.path_of("name"), "is too long or has control characters"));
    }
    let value_prefix = config.string("valuePrefix")?.unwrap_or_default();
    if value_prefix.len() > MAX_LABEL || !value_prefix.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        return Err(Error::field(config.path_of("valuePrefix"), "must be short, visible ASCII"));
    }
    config.finish(warnings);
    Ok(ApiKeyPlace { location: location.into(), name, value_prefix })
}

/// The labels that a request gives.
pub fn labels(root: &mut Object) -> Result<BTreeMap<String, String>> {
    let labels = root.object("labels")?.map(Object::into_strings).transpose()?.unwrap_or_default();
    match labels.iter().find(|(key, value)| key.len() > MAX_LABEL || value.len() > MAX_LABEL) {
        Some((key, _)) => {
            let message = format!("the label \"{}\" has more than {MAX_LABEL} bytes", short(key));
            Err(Error::field("labels", message))
        }
        None => Ok(labels.into_iter().collect()),
    }
}

/// The credential fields that fit the kind of credential. No complaint shows any of them.
fn credentials(root: &mut Object, kind: AuthType, warnings: &mut Vec<String>) -> Result<BTreeMap<String, Secret>> {
    let needed: &[&'static str] = match kind {
        AuthType::None => &[],
        AuthType::ApiKey => &["api_key"],
        AuthType::OAuth2 => &["client_id", "client_secret"],
    };
    let mut credentials = BTreeMap::new();
    let Some(mut given) = root.object("credentials")?.filter(|given| !given.is_empty()) else { return Ok(credentials) };
    if needed.is_empty() {
        return Err(Error::field("credentials", "a tool whose authentication is None takes none"));
    }
    for key in needed {
        let value = given.required(key)?;
        if value.len() > MAX_CREDENTIAL || value.contains(char::is_control) {
            return Err(Error::field(given.path_of(key), "is too long or has control characters"));
        }
        credentials.insert((*key).to_owned(), Secret::new(value));
    }
    given.finish(warnings);
    Ok(credentials)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn refused(body: Value) -> String {
        parse(body.to_string().as_bytes()).unwrap_err().message
    }

    #[test]
    fn flat_and_nested_bodies_say_the_same() {
        let flat = json!({"name": "t", "base_url": "http://a.example:9000", "description": "d", "auth_type": "None", "port": 443, "scheme": "HTTPS"});
        let nested = json!({"name": "t", "spec": {"description": "d", "connection": {"baseUrl": "http://a.example:9000", "port": 9000, "scheme": "HTTP", "authentication": {"type": "none"}}}});
        let (flat, nested) =
            (parse(flat.to_string().as_bytes()).unwrap(), parse(nested.to_string().as_bytes()).unwrap());
        assert_eq!(flat, nested);
        assert_eq!((flat.0.connection.port, flat.0.connection.scheme.as_str(), flat.1.len()), (9000, "HTTP", 0));
    }

    #[test]
    fn credentials_are_read_and_never_shown() {
        let with = |auth: Value, credentials: Value| json!({"name": "t", "spec": {"connection": {"topology": "Internal", "baseUrl": "http://a.example", "authentication": auth}}, "credentials": credentials});
        let auth =
            json!({"type": "APIKey", "apiKeyConfig": {"in": "header", "name": "X-Key", "valuePrefix": "Bearer "}});
        let (tool, warnings) = parse(with(auth.clone(), json!({"api_key": "s3cr3t"})).to_string().as_bytes()).unwrap();
        assert_eq!(tool.credentials["api_key"].expose(), "s3cr3t");
        let place = tool.connection.api_key.unwrap();
        assert_eq!(
            (place.location.as_str(), place.name.as_str(), place.value_prefix.as_str()),
            ("Header", "X-Key", "Bearer ")
        );
        assert_eq!(warnings, ["unknown field \"spec.connection.topology\" is ignored"]);
        for (auth, credentials, want) in [
            (auth.clone(), json!({"api_kye": "s3cr3t"}), "credentials.api_key: is required"),
            (
                auth.clone(),
                json!({"api_key": "s3cr3t\n"}),
                "credentials.api_key: is too long or has control characters",
            ),
            (json!({"type": "OAuth2"}), json!({"client_id": "s3cr3t"}), "credentials.client_secret: is required"),
            (json!({}), json!({"api_key": "s3cr3t"}), "credentials: a tool whose authentication is None takes none"),
            (
                json!({"type": "APIKey", "apiKeyConfig": {"in": "Cookie", "name": "x"}}),
                json!({}),
                "spec.connection.authentication.apiKeyConfig.in: \"Cookie\" is not one of Header, Query",
            ),
            (
                json!({"type": "APIKey", "apiKeyConfig": {"name": "a b"}}),
                json!({}),
                "spec.connection.authentication.apiKeyConfig.name: \"a b\" is not a header's name",
            ),
            (
                json!({"apiKeyConfig": {"name": "a"}}),
                json!({}),
                "spec.connection.authentication.apiKeyConfig: is only for authentication.type APIKey",
            ),
            (
                json!({"type": "Magic"}),
                json!({}),
                "spec.connection.authentication.type: \"Magic\" is not one of None, APIKey, OAuth2",
            ),
        ] {
            assert_eq!(refused(with(auth, credentials)), want);
        }
    }

    #[test]
    fn name_and_base_url_are_needed_in_either_body() {
        for body in [
            json!({}),
            json!({"name": "t"}),
            json!({"base_url": "http://a.example"}),
            json!({"name": "t", "spec": {}}),
            json!({"name": "t", "spec": {"connection": {"baseUrl": " "}}}),
        ] {
            assert_eq!(refused(body), "tool name and base_url are required");
        }
    }
}
