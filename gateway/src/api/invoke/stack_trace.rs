//! The current stack of an invoke that its agent does not answer in time.

use super::{Outgoing, dial, request};
use crate::state::AppState;
use axum::body::Bytes;
use hoistway_model::{Name, agent::Target};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

/// The longest wait for the runner's answer: the caller has waited long enough.
const PATIENCE: Duration = Duration::from_secs(1);
const MAX_BYTES: usize = 64 << 10;
const MAX_LINES: usize = 20;

#[derive(Deserialize)]
struct Stack {
    details: Vec<String>,
}

/// Returns the stack of the current request's invoke, as reported by the runner. Empty if there is no answer: its whole
/// process may hang.
pub async fn of(state: &AppState, agent: &Name, target: &Target) -> Vec<String> {
    let mut lines = timeout(PATIENCE, ask(state, agent, target)).await.ok().flatten().unwrap_or_default();
    lines.truncate(MAX_LINES);
    lines
}

async fn ask(state: &AppState, agent: &Name, target: &Target) -> Option<Vec<String>> {
    let stream = dial(&state.tls, target).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // The sender reports errors of the connection.
        let _ = connection.await;
    }));
    let outgoing = Outgoing { method: Method::GET, target: "/stack".to_owned(), headers: HeaderMap::new() };
    let request = request(outgoing, agent, &target.token, Vec::new(), Bytes::new()).ok()?;
    let answer = sender.send_request(request).await.ok().filter(|answer| answer.status() == StatusCode::OK)?;
    let body = Limited::new(answer.into_body(), MAX_BYTES).collect().await.ok()?.to_bytes();
    Some(serde_json::from_slice::<Stack>(&body).ok()?.details)
}
