//! `/api/usage`.

use super::{error::ApiResult, query::Query};
use crate::state::AppState;
use axum::{Json, extract::State};
use hoistway_kit::time::{month, now_ms, parse_rfc3339, rfc3339};
use hoistway_model::{
    Code, Error, Name, Result,
    error::excerpt,
    usage::{UsageGroups, UsagePeriod, UsageQuery, UsageReport, UsageRow, UsageSums},
};
use serde::Serialize;
use std::sync::Arc;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

const DAY: i64 = 86_400_000;
/// The most models without a price that are listed.
const MAX_UNPRICED: usize = 100;
const PARAMETERS: [&str; 8] = ["agent", "provider", "model", "user", "from", "to", "per", "group_by"];

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(get))
}

/// The agents' use of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub struct UsageOut {
    /// From when, as whole hours or days.
    #[schema(format = DateTime)]
    from: String,
    /// To when.
    #[schema(format = DateTime)]
    to: String,
    /// The sums, by time and then by what they are grouped by.
    usage: Vec<RowOut>,
    /// All of them together.
    total: SumsOut,
}

/// The calls of a period and a group.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageRow)]
pub struct RowOut {
    /// When the period begins.
    #[schema(format = DateTime)]
    start: String,
    /// The agent; absent where sums are not grouped by it, as the next three are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(examples("hello"))]
    agent: Option<String>,
    /// The model provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(examples("playground-llm"))]
    provider: Option<String>,
    /// The model.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(examples("gpt-4o-mini"))]
    model: Option<String>,
    /// The user for whom the agent worked, as an identity provider vouches for them; empty where there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(flatten)]
    sums: SumsOut,
}

/// Sums of calls of models.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = UsageSums)]
pub struct SumsOut {
    /// The calls.
    #[schema(examples(12))]
    requests: u64,
    /// Those that the provider did not answer, or answered with an error.
    failed_requests: u64,
    /// Those whose tokens are an estimate: the stream was cut, or the provider said no numbers.
    estimated_requests: u64,
    /// Those of models without a price, which `cost` leaves out.
    unpriced_requests: u64,
    /// Tokens of the requests, those from a cache of the provider among them.
    #[schema(examples(3400))]
    input_tokens: u64,
    /// Those of them from a cache.
    cached_input_tokens: u64,
    /// Tokens of the answers.
    #[schema(examples(560))]
    output_tokens: u64,
    /// Tokens of both.
    #[schema(examples(3960))]
    total_tokens: u64,
    /// The cost of the calls of models with a price, exactly; null when none of them had one.
    #[schema(required, examples("0.0141"))]
    cost: Option<String>,
}

impl From<UsageSums> for SumsOut {
    fn from(sums: UsageSums) -> Self {
        Self {
            requests: sums.requests,
            failed_requests: sums.failed_requests,
            estimated_requests: sums.estimated_requests,
            unpriced_requests: sums.requests.saturating_sub(sums.priced_requests),
            input_tokens: sums.input_tokens,
            cached_input_tokens: sums.cached_input_tokens,
            output_tokens: sums.output_tokens,
            total_tokens: sums.total_tokens(),
            cost: (sums.priced_requests > 0).then(|| sums.cost.to_string()),
        }
    }
}

/// Sum up what agents used of models
///
/// Requests, tokens and cost of agents' calls of models, by hours or days of UTC. A call counts in the hour in which it ends.
/// Sums outlive their agent; a name that has neither an agent nor sums is 404. An answer of more than 10,000 sums is refused: ask for a shorter time, or group by less.
#[utoipa::path(
    get, path = "/usage", tag = "usage", operation_id = "get_usage",
    params(
        ("agent" = Option<String>, Query, description = "Only calls of this agent"),
        ("provider" = Option<String>, Query, description = "Only calls of this model provider"),
        ("model" = Option<String>, Query, description = "Only calls of this model"),
        ("user" = Option<String>, Query, description = "Only calls for this user"),
        ("from" = Option<String>, Query, description = "From when: a time (RFC 3339) or a date; 30 days ago unless given, with `per=hour` a day ago. The hour or day that it is in counts as a whole"),
        ("to" = Option<String>, Query, description = "To when, in the same way; a date with its whole day. Now, unless given"),
        ("per" = Option<String>, Query, description = "`hour`, `day` or `total`: the time of each sum; `total` unless given"),
        ("group_by" = Option<String>, Query, description = "What tells sums apart, with commas between: `agent`, `provider`, `model`, `user`; the first three unless given"),
    ),
    responses(
        (status = 200, description = "The sums", body = UsageOut),
        (status = 404, description = "There is no such agent, and never was one that used models"),
    )
)]
pub async fn get(State(state): State<Arc<AppState>>, query: Query) -> ApiResult<Json<UsageOut>> {
    let wanted = parse(&query, now_ms())?;
    let (groups, agent) = (wanted.group_by, wanted.agent.clone());
    let report = state.egress.usage(wanted).await?;
    if let (Some(agent), true) = (agent, report.rows.is_empty()) {
        check_known(&state, agent).await?;
    }
    Ok(Json(shape(report, groups)))
}

/// Fails for an agent that neither exists nor has ever used a model.
async fn check_known(state: &AppState, agent: Name) -> Result<()> {
    match state.agents.get_agent(agent.clone()).await {
        Err(e) if e.code == Code::NotFound => {
            let ever = UsageQuery { agent: Some(agent), to: now_ms(), ..UsageQuery::default() };
            if state.egress.usage(ever).await?.rows.is_empty() { Err(e) } else { Ok(()) }
        }
        found => found.map(drop),
    }
}

/// Returns the models without a price that an agent called this month.
pub(super) async fn unpriced_models(state: &AppState, agent: Name) -> Result<Vec<String>> {
    let now = now_ms();
    let group_by = UsageGroups { model: true, ..UsageGroups::default() };
    let query = UsageQuery { agent: Some(agent), from: month(now).0, to: now, group_by, ..UsageQuery::default() };
    let rows = state.egress.usage(query).await?.rows;
    let unpriced = rows.into_iter().filter(|row| row.sums.priced_requests < row.sums.requests);
    Ok(unpriced.map(|row| row.model).take(MAX_UNPRICED).collect())
}

fn parse(query: &Query, now: i64) -> Result<UsageQuery> {
    query.only(&PARAMETERS)?;
    let per = query.one_of("per")?.unwrap_or_default();
    let back = if per == UsagePeriod::Hour { DAY } else { 30 * DAY };
    let to = time(query, "to", DAY)?.unwrap_or(now);
    let from = time(query, "from", 0)?.unwrap_or(to - back);
    if from >= to {
        return Err(Error::field("from", "must be before \"to\""));
    }
    Ok(UsageQuery {
        agent: query.name("agent")?,
        provider: query.name("provider")?,
        model: query.text("model").map(str::to_owned),
        user: query.text("user").map(str::to_owned),
        from,
        to,
        per,
        group_by: groups(query.text("group_by").unwrap_or("agent,provider,model"))?,
    })
}

/// Parses a time, or a date: then the time `of_date` after its beginning.
fn time(query: &Query, key: &str, of_date: i64) -> Result<Option<i64>> {
    let Some(text) = query.text(key) else { return Ok(None) };
    let date = || parse_rfc3339(&format!("{text}T00:00:00Z")).map(|start| start + of_date);
    let wrong =
        || Error::field(key, format!("\"{}\" is not a time such as 2026-11-23T10:00:00Z, or a date", excerpt(text)));
    parse_rfc3339(text).or_else(date).map(Some).ok_or_else(wrong)
}

fn groups(text: &str) -> Result<UsageGroups> {
    let mut groups = UsageGroups::default();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        *match word {
            "agent" => &mut groups.agent,
            "provider" => &mut groups.provider,
            "model" => &mut groups.model,
            "user" => &mut groups.user,
            other => {
                let text = format!("\"{}\" is not one of agent, provider, model, user", excerpt(other));
                return Err(Error::field("group_by", text));
            }
        } = true;
    }
    Ok(groups)
}

fn shape(report: UsageReport, groups: UsageGroups) -> UsageOut {
    let mut total = UsageSums::default();
    report.rows.iter().for_each(|row| total += row.sums);
    let row = |row: UsageRow| RowOut {
        start: rfc3339(row.start),
        agent: groups.agent.then_some(row.agent),
        provider: groups.provider.then_some(row.provider),
        model: groups.model.then_some(row.model),
        user: groups.user.then_some(row.user),
        sums: row.sums.into(),
    };
    UsageOut {
        from: rfc3339(report.from),
        to: rfc3339(report.to),
        usage: report.rows.into_iter().map(row).collect(),
        total: total.into(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const NOW: i64 = 1_795_000_000_000;

    fn parsed(text: &str) -> Result<UsageQuery, String> {
        parse(&Query::parse(text), NOW).map_err(|e| e.message)
    }

    #[test]
    fn times_are_moments_or_dates_and_have_defaults() {
        let query = parsed("").unwrap();
        assert_eq!((query.from, query.to, query.per), (NOW - 30 * DAY, NOW, UsagePeriod::Total));
        assert_eq!(parsed("per=hour").unwrap().from, NOW - DAY);
        let query = parsed("from=1970-01-02&to=1970-01-02&per=DAY").map_err(|_| ());
        assert_eq!(query, Err(()), "words are in lower case");
        let query = parsed("from=1970-01-02&to=1970-01-02&per=day").unwrap();
        assert_eq!((query.from, query.to), (DAY, 2 * DAY), "the last day is in it");
        let query = parsed("from=1970-01-01T00:00:01Z&to=1970-01-01T01:00:00%2B00:30").unwrap();
        assert_eq!((query.from, query.to), (1_000, 1_800_000));
    }

    #[test]
    fn what_makes_no_sense_names_its_parameter() {
        for (text, message) in [
            ("from=soon", "from: \"soon\" is not a time such as 2026-11-23T10:00:00Z, or a date"),
            ("from=2026-11-24&to=2026-11-22", "from: must be before \"to\""),
            ("group_by=agent,colour", "group_by: \"colour\" is not one of agent, provider, model, user"),
            ("agent=a&agent=b", "agent: is given twice"),
            ("since=1d", "since: is not a parameter here; agent, provider, model, user, from, to, per, group_by are"),
        ] {
            assert_eq!(parsed(text), Err(message.to_owned()));
        }
        let groups = parsed("group_by=user,,agent").unwrap().group_by;
        assert_eq!(groups, UsageGroups { agent: true, user: true, ..UsageGroups::default() });
    }
}
