//! The description of the API (OpenAPI 3.1) and the page that shows it.
//!
//! It is made from the handlers themselves: each module of the API has its paths with their descriptions, and
//! [`finish`](finish::finish) adds what holds for all of them. Both are open: they describe a public contract and say
//! nothing of this installation, and whoever has no key yet can read here how to use one.

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

/// The document as it is served: JSON that people can read and compare too.
static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", document()));

/// The paths of this module, outside `/api`.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(openapi)).merge(docs_page::routes())
}

/// The whole document.
fn document() -> Value {
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
