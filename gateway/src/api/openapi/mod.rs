//! The description of the API (OpenAPI 3.1) and the page that shows it.
//!
//! It is made from the handlers themselves: each module of the API has its paths with their descriptions, and
//! [`finish`](finish::finish) adds the common parts. Both are open: they describe a public contract and reveal nothing
//! of this installation, and a client without a key can read here how to use one.

mod docs_page;
mod finish;
mod samples;
mod shared;

use crate::state::AppState;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, header};
use serde_json::Value;
use std::sync::{Arc, LazyLock};
use utoipa::openapi::{InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::{router::OpenApiRouter, routes};

/// The document as it is served: indented JSON, which people can read and compare.
static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// Returns the paths of this module, outside `/api`.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(openapi)).merge(docs_page::routes())
}

/// Returns the whole document.
pub(super) fn document() -> Value {
    let described: OpenApi =
        OpenApiRouter::with_openapi(OpenApiBuilder::new().info(InfoBuilder::new().build()).build())
            .merge(super::root_routes())
            .nest("/api", super::routes())
            .into_openapi();
    finish::finish(described)
}

/// Get this document
///
/// The OpenAPI 3.1 description of the API, made from the code that serves it. It needs no API key.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "platform",
    operation_id = "get_openapi",
    responses((status = 200, description = "The document", body = Object))
)]
async fn openapi() -> Response {
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    (headers, TEXT.as_str()).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::config_fields::llm::MAX_MODELS;
    use hoistway_model::{limits::*, name};

    /// Attributes of schemas take literals alone, so this compares them with the limits of the parsers and services.
    #[test]
    fn the_limits_of_the_document_are_those_of_the_parser() {
        let document = document();
        let mut limits = Vec::new();
        for (schema, value) in document["components"]["schemas"].as_object().unwrap() {
            for (member, value) in value["properties"].as_object().into_iter().flatten() {
                for kind in ["maxItems", "maxLength"] {
                    limits.extend(value[kind].as_u64().map(|limit| (format!("{schema}.{member}"), limit as usize)));
                }
            }
        }
        let expected = |member: &str| match member.rsplit('.').next().unwrap_or_default() {
            "tools_to_create" | "required_tools" => MAX_TOOLS,
            "llm_configs" => MAX_MODELS,
            "env" => MAX_VARIABLES,
            "models" | "scopes" | "audiences" | "allowedDomains" => MAX_MEMBERS,
            "description" => MAX_DESCRIPTION,
            "base_url" | "token_url" | "endpoint" | "issuer" | "jwksUri" => MAX_URL,
            "model" => MAX_MODEL,
            "agent_name" => name::MAX_LEN,
            "name" if member.starts_with("DeployTool") => name::MAX_LEN,
            // The parsers of these have the only other limit.
            "name" => 255,
            "image" => 1_024,
            "userIDClaim" => 256,
            _ => MAX_TEXT,
        };
        for (member, limit) in &limits {
            assert_eq!(*limit, expected(member), "{member}");
        }
        assert!(limits.len() > 30, "{limits:?}");
    }
}
