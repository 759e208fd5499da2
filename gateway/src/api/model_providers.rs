//! `/api/model-providers`.

use super::{
    agents::deleted,
    body::WholeBody,
    connection::http_url,
    error::ApiResult,
    json::{self, Object, short},
    query::Segment,
    tools::{created, exists, labels, with_warnings},
};
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Error, NAMESPACE, Operation, Result,
    tool::{MODEL_PROVIDERS, ModelProvider},
};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The longest model identifier.
const MAX_MODEL: usize = 2_048;

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(get, delete))
}

/// `GET /model-providers`.
#[utoipa::path(get, path = "/model-providers", tag = "model providers")]
pub async fn list(State(state): State<Arc<AppState>>) -> ApiResult<Json<Vec<Value>>> {
    Ok(Json(state.tools.list_model_providers().await?.iter().map(shape).collect()))
}

/// `GET /model-providers/{name}`.
#[utoipa::path(get, path = "/model-providers/{name}", tag = "model providers", params(("name" = String, Path, description = "The model provider's name")))]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Value>> {
    Ok(Json(shape(&state.tools.get_model_provider(name.name("model provider")?).await?)))
}

/// `POST /model-providers`: 201 for a new one, 200 for one that is registered just so.
#[utoipa::path(post, path = "/model-providers", tag = "model providers")]
pub async fn create(State(state): State<Arc<AppState>>, body: WholeBody) -> ApiResult<(StatusCode, Json<Value>)> {
    let (provider, warnings) = parse(&body.bytes)?;
    let known = exists(state.tools.get_model_provider(provider.name.clone()).await)?;
    let provider = state.tools.create_model_provider(Operation::new(), provider).await?;
    Ok((created(known), Json(with_warnings(shape(&provider), warnings))))
}

/// `DELETE /model-providers/{name}`.
#[utoipa::path(delete, path = "/model-providers/{name}", tag = "model providers", params(("name" = String, Path, description = "The model provider's name")))]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Value>> {
    state.tools.delete_model_provider(Operation::new(), name.name("model provider")?).await?;
    Ok(Json(deleted()))
}

fn shape(provider: &ModelProvider) -> Value {
    json!({
        "name": provider.name,
        "namespace": NAMESPACE,
        "labels": provider.labels,
        "spec": {"provider": provider.provider, "endpoint": provider.endpoint, "models": provider.models},
        "status": {"phase": "Ready", "message": ""},
        "created_at": rfc3339(provider.created_at),
    })
}

/// Reads `{name, provider, endpoint, models}`, or the same in a `spec` as it is answered.
fn parse(body: &[u8]) -> Result<(ModelProvider, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut root = Object::parse(body)?;
    let name = json::name("name", &root.required("name")?)?;
    let labels = labels(&mut root)?;
    refuse_credentials(&mut root)?;
    let (provider, endpoint, models) = match root.object("spec")? {
        Some(mut spec) => {
            refuse_credentials(&mut spec)?;
            let read = read(&mut spec)?;
            spec.finish(&mut warnings);
            read
        }
        None => read(&mut root)?,
    };
    root.finish(&mut warnings);
    Ok((ModelProvider { name, provider, endpoint, models, labels, created_at: 0 }, warnings))
}

/// A key that is taken and never used would be worse than none.
fn refuse_credentials(object: &mut Object) -> Result<()> {
    match object.object("credentials")? {
        Some(given) if !given.is_empty() => Err(Error::field(
            object.path_of("credentials"),
            "is not supported: keys of model providers come with egress, which is not built yet",
        )),
        _ => Ok(()),
    }
}

fn read(spec: &mut Object) -> Result<(String, String, Vec<String>)> {
    let provider = spec.required("provider")?;
    let known = MODEL_PROVIDERS.into_iter().find(|known| known.eq_ignore_ascii_case(provider.trim()));
    let provider = known.ok_or_else(|| {
        let known = MODEL_PROVIDERS.join(", ");
        Error::field(spec.path_of("provider"), format!("\"{}\" is not one of {known}", short(&provider)))
    })?;
    let endpoint = spec.text("endpoint")?.unwrap_or_default();
    if !endpoint.is_empty() {
        http_url(&spec.path_of("endpoint"), &endpoint)?;
    }
    let models = spec.strings("models")?.unwrap_or_default();
    let wrong = |model: &String| model.trim().is_empty() || model.len() > MAX_MODEL || model.contains(char::is_control);
    if let Some(i) = models.iter().position(wrong) {
        let path = format!("{}[{i}]", spec.path_of("models"));
        return Err(Error::field(path, "is not a model identifier"));
    }
    Ok((provider.to_owned(), endpoint, models))
}
