//! Logs of agents and builds: stored lines, and new ones.

use super::{
    auth::Holder,
    error::ApiResult,
    query::{Query, Segment},
    streaming::{self, HEARTBEAT},
};
use crate::state::AppState;
use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use hoistway_kit::time::{now_ms, parse_duration_ms, parse_rfc3339, rfc3339};
use hoistway_model::{
    Error, Result, RevisionId,
    error::excerpt,
    log::{LogLine, LogPiece, LogPieces, LogQuery, LogStream, MAX_TAIL},
};
use http::{HeaderMap, HeaderValue, header};
use serde::Serialize;
use std::{fmt::Write, io, sync::Arc};
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(agent)).routes(routes!(build))
}

/// A line of a log, where JSON was asked for.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogLine)]
pub struct LogLineOut {
    /// When it was received.
    #[schema(format = DateTime)]
    time: String,
    /// `stdout`, `stderr`, or `platform` for what Hoistway itself says.
    stream: &'static str,
    /// The revision that wrote it; not there in the log of a build.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    revision: Option<RevisionId>,
    /// The line.
    text: String,
}

/// Says that lines are missing here: they came faster than they were read.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = LogGap)]
pub struct LogGapOut {
    /// The number of missing lines.
    skipped: u64,
}

/// Read or follow an agent's log
///
/// The agent's output, all its revisions together, and Hoistway's messages about it: plain text, or with `format=json`
/// (or `Accept: application/x-ndjson`) a JSON object for each line. `follow=true` goes on with the lines that come,
/// until the agent is deleted; whoever reads more slowly than they come is told how many were skipped. With
/// `format=ndjson` a followed log has an empty line every 15 seconds of silence, so that proxies do not cut it.
#[utoipa::path(
    get, path = "/agents/{name}/logs", tag = "agents", operation_id = "get_agent_logs",
    params(
        ("name" = String, Path, description = "The agent's name"),
        ("tail" = Option<u32>, Query, description = "At most so many of the kept lines, the newest", maximum = 100_000),
        ("since" = Option<String>, Query, description = "Only lines from then on: a time (RFC 3339) or how long ago (`90s`, `10m`, `1h30m`)"),
        ("follow" = Option<bool>, Query, description = "Go on with the lines that come, until the agent is deleted"),
        ("timestamps" = Option<bool>, Query, description = "Put the time before each line of plain text"),
        ("stream" = Option<String>, Query, description = "Only `stdout`, `stderr` or `platform`"),
        ("revision" = Option<String>, Query, description = "Only lines of this revision"),
        ("format" = Option<String>, Query, description = "`text`, `json` or `ndjson`"),
    ),
    responses(
        (status = 200, description = "The lines", content((String = "text/plain"), (LogLineOut = "application/x-ndjson"))),
    )
)]
pub async fn agent(
    State(state): State<Arc<AppState>>,
    Extension(Holder(holder)): Extension<Holder>,
    name: Segment,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let (mut wanted, shape) = parse(&query, &headers)?;
    wanted.stream = query.one_of::<LogStream>("stream")?;
    wanted.revision = query.id("revision")?;
    let place = wanted.follow.then(|| state.events.follower(&holder)).transpose()?;
    let pieces = state.agents.agent_logs(name.name("agent")?, wanted).await?;
    Ok(answer(&state, pieces, shape, place))
}

/// Read or follow a build's log
///
/// The output of the build and its installer, as plain text or JSON like the log of an agent. Following it ends with
/// the build.
#[utoipa::path(
    get, path = "/builds/{id}/logs", tag = "builds", operation_id = "get_build_logs",
    params(
        ("id" = String, Path, description = "The build's id, or its attempt's"),
        ("tail" = Option<u32>, Query, description = "At most so many of the kept lines, the newest", maximum = 100_000),
        ("since" = Option<String>, Query, description = "Only lines from then on: a time (RFC 3339) or how long ago (`90s`, `10m`, `1h30m`)"),
        ("follow" = Option<bool>, Query, description = "Go on with the lines that come, until the build ends"),
        ("timestamps" = Option<bool>, Query, description = "Put the time before each line of plain text"),
        ("format" = Option<String>, Query, description = "`text`, `json` or `ndjson`"),
    ),
    responses(
        (status = 200, description = "The lines", content((String = "text/plain"), (LogLineOut = "application/x-ndjson"))),
    )
)]
pub async fn build(
    State(state): State<Arc<AppState>>,
    Extension(Holder(holder)): Extension<Holder>,
    id: Segment,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let (wanted, shape) = parse(&query, &headers)?;
    let place = wanted.follow.then(|| state.events.follower(&holder)).transpose()?;
    let pieces = state.builds.build_logs(id.into_text(), wanted).await?;
    Ok(answer(&state, pieces, shape, place))
}

/// The format of lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Text {
        times: bool,
    },
    /// With `beats`, an empty line follows each interval of silence, for a client that requests NDJSON by its name, and
    /// so skips empty lines.
    Json {
        beats: bool,
    },
}

fn parse(query: &Query, headers: &HeaderMap) -> Result<(LogQuery, Shape)> {
    let since = query.text("since").map(|text| {
        let ago = || Some(now_ms().saturating_sub(parse_duration_ms(text)?));
        let why = "is neither a time such as 2026-11-23T15:04:05Z nor a span such as 10m";
        parse_rfc3339(text).or_else(ago).ok_or_else(|| Error::field("since", format!("\"{}\" {why}", excerpt(text))))
    });
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let times = query.flag("timestamps")?;
    let shape = match query.text("format") {
        Some("json") => Shape::Json { beats: false },
        Some("ndjson") => Shape::Json { beats: true },
        Some("text") => Shape::Text { times },
        Some(other) => {
            let message = format!("\"{}\" is not one of text, json, ndjson", excerpt(other));
            return Err(Error::field("format", message));
        }
        None if accept.contains("application/x-ndjson") => Shape::Json { beats: false },
        None => Shape::Text { times },
    };
    let wanted = LogQuery {
        tail: query.number("tail", 0..=MAX_TAIL)?,
        since_ms: since.transpose()?,
        follow: query.flag("follow")?,
        ..LogQuery::default()
    };
    Ok((wanted, shape))
}

/// Returns lines as they arrive. `place` is held until the end by followers.
fn answer(state: &AppState, pieces: LogPieces, shape: Shape, place: Option<impl Send + 'static>) -> Response {
    // An empty line is a heartbeat in NDJSON; in plain text it would be part of the log.
    let beats = place.is_some() && shape == Shape::Json { beats: true };
    let written = stream::unfold((pieces, place), move |(mut pieces, place)| async move {
        let next =
            async { if beats { timeout(HEARTBEAT, pieces.next()).await.ok() } else { Some(pieces.next().await) } };
        let text = match next.await {
            Some(next) => next?.map(|piece| write(piece, shape)),
            None => Ok(Bytes::from_static(b"\n")),
        };
        Some((text, (pieces, place)))
    });
    let body = written.map_err(io::Error::other).take_until(state.closing.clone().cancelled_owned());
    let kind = match shape {
        Shape::Text { .. } => "text/plain; charset=utf-8",
        Shape::Json { .. } => "application/x-ndjson",
    };
    (streaming::headers(HeaderValue::from_static(kind)), Body::from_stream(body)).into_response()
}

fn write(piece: LogPiece, shape: Shape) -> Bytes {
    let mut out = String::new();
    // Writing into a String cannot fail.
    match (piece, shape) {
        (LogPiece::Lines(lines), Shape::Text { times }) => {
            for LogLine { time_ms, text, .. } in lines {
                let time = if times { rfc3339(time_ms) + " " } else { String::new() };
                let _ = writeln!(out, "{time}{text}");
            }
        }
        (LogPiece::Lines(lines), Shape::Json { .. }) => {
            for LogLine { time_ms, stream, revision, text } in lines {
                let line = LogLineOut { time: rfc3339(time_ms), stream: stream.as_str(), revision, text };
                let _ = writeln!(out, "{}", serde_json::to_string(&line).unwrap_or_default());
            }
        }
        (LogPiece::Skipped(count), Shape::Text { .. }) => {
            let _ = writeln!(out, "… {count} lines skipped: they came faster than they were read …");
        }
        (LogPiece::Skipped(skipped), Shape::Json { .. }) => {
            let _ = writeln!(out, "{}", serde_json::to_string(&LogGapOut { skipped }).unwrap_or_default());
        }
    }
    out.into()
}
