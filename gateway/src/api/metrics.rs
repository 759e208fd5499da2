//! `GET /metrics`: the metrics of this gateway and of the services behind it, in Prometheus' text format.

use super::error::ApiResult;
use crate::{metrics::Gauges, state::AppState};
use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use hoistway_kit::metrics;
use hoistway_model::{Error, Result, metric::Kind, metric::Metrics};
use http::{HeaderValue, header};
use std::{collections::HashSet, sync::Arc, time::Instant};
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module; they are at the root, where scrapers look.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(read))
}

/// Get measurements
///
/// The metrics of the gateway and of the services behind it, in Prometheus' text format 0.0.4. Unlike the probes it
/// needs a key.
#[utoipa::path(
    get, path = "/metrics", tag = "platform", operation_id = "get_metrics",
    responses((status = 200, description = "Prometheus' text format, version 0.0.4", content_type = "text/plain", body = String))
)]
pub async fn read(State(state): State<Arc<AppState>>) -> ApiResult<Response> {
    // One collection at a time: all requests that came during one share the next.
    let came = Instant::now();
    let mut last = state.scraped.lock().await;
    let text = match &*last {
        Some((begun, text)) if *begun >= came => text.clone(),
        _ => last.insert((Instant::now(), measured(&state).await?)).1.clone(),
    };
    drop(last);
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE))];
    Ok((kind, text).into_response())
}

async fn measured(state: &AppState) -> Result<Bytes> {
    let own = {
        let gauges = Gauges {
            invokes_in_flight: state.routes.in_flight(),
            deployments: state.events.deployments_by_state(),
            followers: state.events.followers(),
            database: state.access.audit.database_size().await,
        };
        let metrics = state.metrics.clone();
        let read = tokio::task::spawn_blocking(move || metrics.collect(gauges));
        async move { read.await.map_err(|e| Error::internal("reading what was measured", e)) }
    };
    let (own, agent, build, egress, tools) = tokio::join!(
        own,
        state.agents.agent_metrics(),
        state.builds.build_metrics(),
        state.egress.egress_metrics(),
        state.tools.tool_metrics()
    );
    let up = [
        ("agent", agent.is_ok()),
        ("build", build.is_ok()),
        ("egress", egress.is_ok()),
        ("gateway", true),
        ("tool-registry", tools.is_ok()),
    ];
    let up = up.map(|(service, up)| ([("service", service.to_owned())], f64::from(u8::from(up))));
    let mut families = vec![
        metrics::family(Kind::Gauge, "hoistway_up", "1 if the service told what it measured, else 0.", up),
        metrics::family(
            Kind::Gauge,
            "hoistway_build_info",
            "The version, as a label.",
            [([("version", env!("CARGO_PKG_VERSION").to_owned())], 1.0)],
        ),
    ];
    families.push(state.callers.family());
    let mut processes = HashSet::new();
    let services: [Result<Metrics>; 5] = [Ok(own?), agent, build, egress, tools];
    for Metrics { process, of_process, of_service } in services.into_iter().flatten() {
        // Services that share a process would count its memory twice.
        if processes.insert(process) {
            families.extend(of_process);
        }
        families.extend(of_service);
    }
    Ok(metrics::text(families).into())
}
