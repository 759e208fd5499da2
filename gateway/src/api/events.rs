//! `GET /api/events`: what happens, as Server-Sent Events.

use super::{
    auth::Holder,
    error::ApiResult,
    query::Query,
    streaming::{self, COMMENT, HEARTBEAT},
};
use crate::{
    events::{CALL_ENDED, CALLS_MISSED, Event, shown_time},
    state::AppState,
};
use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use hoistway_kit::{event_log::Next, quota::QuotaGrant, time::now_ms};
use hoistway_model::{Error, Name, Result, agent::Place, error::excerpt};
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc};
use tokio::time::{Instant, timeout_at};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// How soon a client that lost its connection comes back, in milliseconds.
const RETRY: u32 = 2_000;
/// The last event that a client has, as `EventSource` sends it.
const LAST_EVENT_ID: &str = "last-event-id";
/// Events are missing before what follows.
const RESET: &str = "reset";

/// The paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(follow))
}

/// The `data` of an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Event)]
pub struct EventOut<'a> {
    /// The same as the event's `id`; of a call, which has none, that of the event before it.
    id: String,
    /// The same as the event's name: `deployment.accepted`, `.step_started`, `.step_finished`, `.undoing`,
    /// `.succeeded`, `.failed`; `build.started`, `.succeeded`, `.failed`; `agent.phase`, `.crashed`, `.deleted`;
    /// `tool.created`, `.updated`, `.deleted`; `budget.warning`, `.exceeded`; `call.ended`, `.missed`; `reset`.
    #[serde(rename = "type")]
    kind: &'a str,
    /// When it happened.
    #[schema(format = DateTime)]
    time: String,
    /// The agent that it is about, if it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    agent: Option<&'a Name>,
    /// What else there is to know, such as `deployment`, `step`, `duration_ms`, `phase`, `reason`, `error`; of a call
    /// that ended its record, as `GET /api/agents/{name}/calls` lists it.
    #[schema(value_type = Object)]
    data: &'a Value,
}

/// Follow what happens
///
/// Server-Sent Events of deployments and their steps, builds, agents, tools and agents' outbound calls, as it happens.
///
/// `Last-Event-ID`, or `last_event_id`, goes on after that event. `event: reset` says that events may be missing before
/// what follows: then ask the lists once. Calls are not repeated: they have no `id`, and `event: call.missed` says that some
/// are left out.
#[utoipa::path(
    get, path = "/events", tag = "events", operation_id = "follow_events",
    params(
        ("agent" = Option<String>, Query, description = "Only events of this agent"),
        ("types" = Option<String>, Query, description = "Only these types, separated by commas; `deployment` stands for every `deployment.…`"),
        ("last_event_id" = Option<String>, Query, description = "As the header Last-Event-ID, which counts more"),
        ("Last-Event-ID" = Option<String>, Header, description = "The last event that the client has"),
    ),
    responses(
        (status = 200, description = "Events as they happen", content_type = "text/event-stream", body = EventOut),
    )
)]
pub async fn follow(
    State(state): State<Arc<AppState>>,
    Extension(Holder(holder)): Extension<Holder>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let wanted = Wanted { agent: query.name("agent")?, types: types(&query)? };
    let header = headers.get(LAST_EVENT_ID).and_then(|value| value.to_str().ok()).filter(|text| !text.is_empty());
    let after = match header.or(query.text("last_event_id")) {
        Some(text) => Some(parse_place(text)?),
        None => None,
    };
    let place = state.events.follower(&holder)?;
    let from = after.unwrap_or_else(|| state.events.last());
    // The id goes first, so that a client which loses its connection before the first event misses nothing.
    let first = format!("retry: {RETRY}\nid: {}\n\n", show_place(from));
    let events = state.events.follow(from).map(Source::Events);
    let calls = match wanted.is_of_type(CALL_ENDED) {
        true => state.events.follow_calls().map(Source::Calls).boxed(),
        false => stream::empty().boxed(),
    };
    let follower = Follower { events: stream::select(events, calls).boxed(), wanted, last: from, _place: place };
    let events = stream::unfold(follower, |mut follower| async move { Some((follower.next().await?, follower)) });
    let body = stream::iter([first]).chain(events).map(|text| Ok::<_, Infallible>(Bytes::from(text)));
    let body = body.take_until(state.closing.clone().cancelled_owned());
    let headers = streaming::headers(HeaderValue::from_static("text/event-stream"));
    Ok((headers, Body::from_stream(body)).into_response())
}

/// Where an event comes from.
enum Source {
    /// Those that are repeated to who comes back.
    Events(Next<Event>),
    /// Calls of agents.
    Calls(Next<Event>),
}

/// One client, and what it has.
struct Follower {
    events: BoxStream<'static, Source>,
    wanted: Wanted,
    /// The last event with an id.
    last: Place,
    _place: QuotaGrant,
}

impl Follower {
    /// The next text to send; `None` at the end.
    async fn next(&mut self) -> Option<String> {
        let silence = Instant::now() + HEARTBEAT;
        loop {
            let Ok(next) = timeout_at(silence, self.events.next()).await else {
                return Some(COMMENT.to_owned());
            };
            if let Some(text) = self.write(next?) {
                return Some(text);
            }
        }
    }

    fn write(&mut self, next: Source) -> Option<String> {
        let gap = |place, kind, reason: &str| {
            let (time_ms, data) = (now_ms(), json!({ "reason": reason }));
            Arc::new(Event { place, kind, time_ms, agent: None, data })
        };
        let (event, has_id) = match next {
            Source::Events(Next::Item(_, event)) => (event, true),
            Source::Events(Next::Lost(place)) => {
                (gap(place, RESET, "events before this one are not kept any more"), true)
            }
            Source::Calls(Next::Item(_, event)) => (event, false),
            Source::Calls(Next::Lost(place)) => (gap(place, CALLS_MISSED, "more calls ended than were read"), false),
        };
        if !self.wanted.wants(&event) {
            return None;
        }
        if has_id {
            self.last = event.place;
        }
        let id = show_place(self.last);
        let line = if has_id { format!("id: {id}\n") } else { String::new() };
        let out =
            EventOut { id, kind: event.kind, time: shown_time(&event), agent: event.agent.as_ref(), data: &event.data };
        // JSON has no line feed in it, so it is one line of data.
        let data = serde_json::to_string(&out).unwrap_or_default();
        Some(format!("{line}event: {}\ndata: {data}\n\n", event.kind))
    }
}

/// What one client wants to know.
struct Wanted {
    agent: Option<Name>,
    types: Vec<String>,
}

impl Wanted {
    fn wants(&self, event: &Event) -> bool {
        // Whoever may have missed something is told so, whatever was asked for.
        let says_gap = event.kind == RESET || event.kind == CALLS_MISSED && self.is_of_type(CALL_ENDED);
        let of_agent = self.agent.is_none() || self.agent == event.agent;
        says_gap || of_agent && self.is_of_type(event.kind)
    }

    fn is_of_type(&self, kind: &str) -> bool {
        let group = kind.split('.').next().unwrap_or_default();
        self.types.is_empty() || self.types.iter().any(|t| t == kind || t == group)
    }
}

fn types(query: &Query) -> Result<Vec<String>> {
    let known = ["deployment", "build", "agent", "tool", "budget", "call"];
    let given = query.text("types").unwrap_or_default().split(',').map(str::trim).filter(|text| !text.is_empty());
    given
        .map(|text| match known.contains(&text.split('.').next().unwrap_or_default()) {
            true => Ok(text.to_owned()),
            false => {
                let message = format!("\"{}\" does not begin with one of {}", excerpt(text), known.join(", "));
                Err(Error::field("types", message))
            }
        })
        .collect()
}

fn show_place(place: Place) -> String {
    format!("{}-{}", place.epoch, place.sequence)
}

fn parse_place(text: &str) -> Result<Place> {
    let parsed = text
        .trim()
        .split_once('-')
        .and_then(|(epoch, sequence)| Some(Place { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()? }));
    parsed.ok_or_else(|| Error::field("last_event_id", format!("\"{}\" is not an event's id", excerpt(text))))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_kit::quota::SharedQuota;

    #[test]
    fn every_kind_of_event_can_be_asked_for() {
        let asked = |text: &str| types(&Query::parse(&format!("types={text}")));
        for kind in ["deployment", "build.failed", "agent", "tool", "budget", "budget.warning", "call.ended"] {
            assert_eq!(asked(kind).unwrap(), [kind]);
        }
        assert!(asked("budgets").unwrap_err().message.contains("does not begin with one of deployment, "));
    }

    #[test]
    fn a_reader_that_is_too_slow_is_told_so_without_losing_its_place() {
        let last = Place { epoch: 1, sequence: 7 };
        let told = |types: &[&str], next: Source| {
            let wanted = Wanted { agent: None, types: types.iter().map(|t| (*t).to_owned()).collect() };
            let place = SharedQuota::new(1, 1).take(&"key".into(), 1).unwrap();
            let mut follower = Follower { events: stream::empty().boxed(), wanted, last, _place: place };
            (follower.write(next), follower.last)
        };
        let lost = Place { epoch: 1, sequence: 9 };
        let (text, after) = told(&["call"], Source::Calls(Next::Lost(lost)));
        let text = text.unwrap();
        assert!(text.starts_with("event: call.missed\ndata: {\"id\":\"1-7\","), "a call takes no place: {text}");
        assert_eq!(after, last);
        assert_eq!(told(&["tool"], Source::Calls(Next::Lost(lost))).0, None, "who wants no calls misses none");
        let (text, after) = told(&["tool"], Source::Events(Next::Lost(lost)));
        assert!(text.unwrap().starts_with("id: 1-9\nevent: reset\n"));
        assert_eq!(after, lost);
    }
}
