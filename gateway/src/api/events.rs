//! `GET /api/events`: events as Server-Sent Events.

use super::{auth::Holder, error::ApiResult, query::Query, streaming};
use crate::{
    events::{CALL_ENDED, CALLS_MISSED, Event, shown_time},
    state::AppState,
};
use axum::{
    Extension,
    extract::State,
    response::{
        IntoResponse, Response,
        sse::{self, Sse},
    },
};
use futures_util::{StreamExt, future, stream};
use hoistway_kit::{event_log::Next, quota::QuotaGrant, time::now_ms};
use hoistway_model::{Error, Name, Result, agent::EventPosition, error::excerpt};
use http::{HeaderMap, HeaderValue};
use serde::Serialize;
use serde_json::{Value, json};
use std::{convert::Infallible, sync::Arc, time::Duration};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The time after which a client that lost its connection reconnects.
const RETRY: Duration = Duration::from_secs(2);
/// The id of the last event that a client received, as `EventSource` sends it.
const LAST_EVENT_ID: &str = "last-event-id";
/// The type of the event that reports missing events before the next one.
const RESET: &str = "reset";

/// Returns the paths of this module.
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
    /// Further members, such as `deployment`, `step`, `duration_ms`, `phase`, `reason`, `error`; of a call that ended
    /// its record, as `GET /api/agents/{name}/calls` lists it.
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
    // The id comes first, so that a client that loses its connection before the first event misses nothing.
    let first = sse::Event::default().retry(RETRY).id(show_place(from));
    let events = state.events.follow(from).map(Source::Events);
    let calls = match wanted.is_of_type(CALL_ENDED) {
        true => state.events.follow_calls().map(Source::Calls).boxed(),
        false => stream::empty().boxed(),
    };
    let mut follower = Follower { wanted, last: from, _place: place };
    let events = stream::select(events, calls).filter_map(move |next| future::ready(follower.message(next)));
    let messages = stream::iter([first]).chain(events.map(sse::Event::from)).map(Ok::<_, Infallible>);
    let messages = messages.take_until(state.closing.clone().cancelled_owned());
    Ok((
        streaming::headers(HeaderValue::from_static("text/event-stream")),
        Sse::new(messages).keep_alive(streaming::keep_alive()),
    )
        .into_response())
}

/// The source of an event.
enum Source {
    /// Events that are repeated to clients that reconnect.
    Events(Next<Event>),
    /// Calls of agents.
    Calls(Next<Event>),
}

/// A client, and its position in the events.
struct Follower {
    wanted: Wanted,
    /// The last event with an id.
    last: EventPosition,
    _place: QuotaGrant,
}

/// An event as a client receives it.
struct Message {
    /// `None` for calls, which are not repeated.
    id: Option<String>,
    kind: &'static str,
    json: String,
}

impl From<Message> for sse::Event {
    fn from(Message { id, kind, json }: Message) -> Self {
        let event = Self::default();
        let event = if let Some(id) = id { event.id(id) } else { event };
        event.event(kind).data(json)
    }
}

impl Follower {
    /// Returns the message of an event, unless the client wants others only.
    fn message(&mut self, next: Source) -> Option<Message> {
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
        let place = show_place(self.last);
        let id = has_id.then(|| place.clone());
        let out = EventOut {
            id: place,
            kind: event.kind,
            time: shown_time(&event),
            agent: event.agent.as_ref(),
            data: &event.data,
        };
        Some(Message { id, kind: event.kind, json: serde_json::to_string(&out).unwrap_or_default() })
    }
}

/// The events that one client requested.
struct Wanted {
    agent: Option<Name>,
    types: Vec<String>,
}

impl Wanted {
    fn wants(&self, event: &Event) -> bool {
        // A client that may have missed events is notified, whatever types it requested.
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

fn show_place(place: EventPosition) -> String {
    format!("{}-{}", place.epoch, place.sequence)
}

fn parse_place(text: &str) -> Result<EventPosition> {
    let parsed = text.trim().split_once('-').and_then(|(epoch, sequence)| {
        Some(EventPosition { epoch: epoch.parse().ok()?, sequence: sequence.parse().ok()? })
    });
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
    fn a_slow_reader_receives_a_gap_and_keeps_its_place() {
        let last = EventPosition { epoch: 1, sequence: 7 };
        let received = |types: &[&str], next: Source| {
            let wanted = Wanted { agent: None, types: types.iter().map(|t| (*t).to_owned()).collect() };
            let place = SharedQuota::new(1, 1).take(&"key".into(), 1).unwrap();
            let mut follower = Follower { wanted, last, _place: place };
            let message = follower.message(next).map(|Message { id, kind, json }| {
                let data: Value = serde_json::from_str(&json).unwrap();
                (id, kind, data["id"].as_str().unwrap().to_owned())
            });
            (message, follower.last)
        };
        let lost = EventPosition { epoch: 1, sequence: 9 };
        let without_id = Some((None, CALLS_MISSED, "1-7".to_owned()));
        assert_eq!(received(&["call"], Source::Calls(Next::Lost(lost))), (without_id, last), "a call takes no place");
        assert_eq!(received(&["tool"], Source::Calls(Next::Lost(lost))).0, None, "who wants no calls misses none");
        let reset = Some((Some("1-9".to_owned()), RESET, "1-9".to_owned()));
        assert_eq!(received(&["tool"], Source::Events(Next::Lost(lost))), (reset, lost));
    }
}
