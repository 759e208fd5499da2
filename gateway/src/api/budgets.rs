//! `/api/agents/{name}/budget`.

use super::{
    error::ApiResult,
    json::Object,
    query::Segment,
    request_body::WholeBody,
    tools::{DELETED, Deleted, exists},
    usage::unpriced_models,
};
use crate::{
    budget_amount::{Amount, amount},
    state::AppState,
};
use axum::{Json, extract::State};
use hoistway_kit::time::rfc3339;
use hoistway_model::{
    Code, Error, Name, Result,
    budget::{Budget, BudgetLimit, BudgetUse, LimitUse},
};
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The largest value of a limit that is not an amount of money.
const MOST: i64 = 1_000_000_000_000_000;

/// Returns the paths of this module.
pub fn routes() -> OpenApiRouter<Arc<AppState>> {
    OpenApiRouter::new().routes(routes!(get, put, delete))
}

/// The limits on an agent's use of models: at least one. Days are those of UTC, months those of the calendar.
#[derive(ToSchema)]
#[schema(as = Budget)]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
struct BudgetIn {
    /// Tokens of requests and answers on a day.
    #[schema(examples(1_000_000), minimum = 1)]
    tokens_per_day: Option<i64>,
    /// Tokens in a month.
    #[schema(minimum = 1)]
    tokens_per_month: Option<i64>,
    /// The cost of calls of models with a price on a day, in the currency of the prices.
    cost_per_day: Option<Amount>,
    /// The cost in a month.
    cost_per_month: Option<Amount>,
    /// Calls in a minute of the clock.
    #[schema(examples(60), minimum = 1)]
    requests_per_minute: Option<i64>,
}

/// A budget, and how much of it is used.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BudgetUse)]
pub struct BudgetOut {
    /// The agent.
    #[schema(examples("hello"))]
    agent: String,
    /// The limits, as they were set.
    #[schema(value_type = Object, examples(json!({"tokens_per_day": 1_000_000})))]
    budget: BTreeMap<&'static str, Amount>,
    /// The use of each limit.
    limits: Vec<LimitOut>,
    /// Models that the agent called this month and that had no price: their calls are in no cost.
    unpriced_models: Vec<String>,
    /// Warnings for the caller; absent when there are none.
    #[schema(required = false)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// The use of a limit.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = BudgetLimitUse)]
pub struct LimitOut {
    /// Which.
    #[schema(examples("tokens_per_day"))]
    limit: &'static str,
    /// The limit's value.
    most: Amount,
    /// The amount used.
    used: Amount,
    /// The part that is used; more than 1 when calls in flight went beyond.
    #[schema(examples(0.82))]
    share: f64,
    /// When it begins anew.
    #[schema(format = DateTime)]
    resets_at: String,
}

/// Get an agent's budget
///
/// The limits on the agent's use of models, and its use of them; without a budget there are no limits. A budget belongs
/// to the agent's name: it stays when the agent is deleted, and with it what was used.
#[utoipa::path(
    get, path = "/agents/{name}/budget", tag = "usage", operation_id = "get_agent_budget",
    params(("name" = String, Path, description = "The agent's name")),
    responses((status = 200, description = "The budget", body = BudgetOut)),
)]
pub async fn get(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<BudgetOut>> {
    let agent = name.name("agent")?;
    let budget = match state.egress.budget(agent.clone()).await? {
        Some(budget) => budget,
        None => {
            state.agents.get_agent(agent.clone()).await?;
            BudgetUse { limits: Vec::new(), unpriced_models: unpriced_models(&state, agent.clone()).await? }
        }
    };
    Ok(Json(shape(agent, budget)))
}

/// Set an agent's budget
///
/// Takes the place of the one before. From the next call on: when a limit is used up, calls of models are answered 429 with the
/// code `budget_exceeded`, and no provider is called. What was used before counts: `warnings` name the limits that are used up
/// already. The agent need not be deployed yet. Needs the scope `admin`.
#[utoipa::path(
    put, path = "/agents/{name}/budget", tag = "usage", operation_id = "set_agent_budget",
    params(("name" = String, Path, description = "The agent's name")),
    request_body(content = BudgetIn, description = "The limits", example = json!({"tokens_per_day": 1_000_000, "cost_per_month": "20"})),
    responses((status = 200, description = "The budget", body = BudgetOut)),
)]
pub async fn put(State(state): State<Arc<AppState>>, name: Segment, body: WholeBody) -> ApiResult<Json<BudgetOut>> {
    let agent = name.valid()?;
    let budget = parse(&body.bytes)?;
    let is_deployed = exists(state.agents.get_agent(agent.clone()).await)?;
    state.egress.set_budget(agent.clone(), Some(budget)).await?;
    let budget = state.egress.budget(agent.clone()).await?.unwrap_or_default();
    let mut warnings = used_up(&budget.limits);
    if !is_deployed {
        let text = "there is no agent of this name now: the budget is in force when one is deployed";
        warnings.push(text.to_owned());
    }
    Ok(Json(BudgetOut { warnings, ..shape(agent, budget) }))
}

/// Returns the warnings about limits that stop the agent at once.
fn used_up(limits: &[LimitUse]) -> Vec<String> {
    let full = limits.iter().filter(|at| at.used >= at.most);
    let warning = |LimitUse { limit, most, used, resets_at }: &LimitUse| {
        let (used, most, anew) = (limit.show(*used), limit.show(*most), rfc3339(*resets_at));
        format!("{limit} is used up already, {used} of {most}: the agent's calls of models are refused until {anew}")
    };
    full.map(warning).collect()
}

/// Delete an agent's budget
///
/// The agent may use models without limit again. Needs the scope `admin`.
#[utoipa::path(
    delete, path = "/agents/{name}/budget", tag = "usage", operation_id = "delete_agent_budget",
    params(("name" = String, Path, description = "The agent's name")),
    responses((status = 200, description = "It is gone", body = Deleted)),
)]
pub async fn delete(State(state): State<Arc<AppState>>, name: Segment) -> ApiResult<Json<Deleted>> {
    let agent = name.name("agent")?;
    if state.egress.budget(agent.clone()).await?.is_none() {
        return Err(missing(&state, agent).await.into());
    }
    state.egress.set_budget(agent, None).await?;
    Ok(Json(DELETED))
}

/// Returns the error for a missing budget: there is no such agent, or it has none.
async fn missing(state: &AppState, agent: Name) -> Error {
    match state.agents.get_agent(agent.clone()).await {
        Ok(_) => {
            let text = format!("the agent \"{agent}\" has no budget: PUT /api/agents/{agent}/budget sets one");
            Error::new(Code::NotFound, text)
        }
        Err(e) => e,
    }
}

fn parse(body: &[u8]) -> Result<Budget> {
    let mut given = Object::parse(body)?;
    let mut limits = Vec::new();
    for limit in BudgetLimit::ALL {
        let key = limit.as_str();
        let most = match limit {
            BudgetLimit::CostPerDay | BudgetLimit::CostPerMonth => given.money(key)?.map(|money| money.units()),
            _ => given.integer(key)?.map(|most| count(key, most)).transpose()?,
        };
        limits.extend(most.map(|most| (limit, most)));
    }
    // A misspelt limit would not be enforced.
    given.refuse_unknown()?;
    Budget::new(limits)
}

fn count(key: &str, most: i64) -> Result<u128> {
    let wrong = || Error::field(key, format!("must be a whole number from 1 to {MOST}"));
    u128::try_from(most).ok().filter(|most| *most <= MOST.unsigned_abs().into()).ok_or_else(wrong)
}

fn shape(agent: Name, BudgetUse { limits, unpriced_models }: BudgetUse) -> BudgetOut {
    let budget = limits.iter().map(|at| (at.limit.as_str(), amount(at.limit, at.most))).collect();
    let limit = |at: LimitUse| LimitOut {
        limit: at.limit.as_str(),
        most: amount(at.limit, at.most),
        used: amount(at.limit, at.used),
        share: at.share() as f64 / 1000.0,
        resets_at: rfc3339(at.resets_at),
    };
    let limits = limits.into_iter().map(limit).collect();
    BudgetOut { agent: agent.into(), budget, limits, unpriced_models, warnings: Vec::new() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn limits_that_are_used_up_as_they_are_set_are_named() {
        let at = |limit, used| LimitUse { limit, most: 2_000_000_000_000, used, resets_at: 0 };
        let limits = [at(BudgetLimit::TokensPerDay, 5), at(BudgetLimit::CostPerDay, 2_500_000_000_000)];
        let expected = "cost_per_day is used up already, 2.5 of 2: the agent's calls of models are refused until \
                        1970-01-01T00:00:00.000Z";
        assert_eq!(used_up(&limits), [expected]);
    }

    #[test]
    fn limits_are_numbers_and_exact_amounts() {
        let budget =
            parse(br#"{"tokens_per_day": 5, "cost_per_day": 0.1, "cost_per_month": "2.50", "tokens_per_month": null}"#);
        let expected = [
            (BudgetLimit::TokensPerDay, 5),
            (BudgetLimit::CostPerDay, 100_000_000_000),
            (BudgetLimit::CostPerMonth, 2_500_000_000_000),
        ];
        assert_eq!(budget.unwrap().limits(), expected);
        for (body, message) in [
            ("{}", "budget: has no limit; there are "),
            (r#"{"tokens_per_day": 0}"#, "tokens_per_day: must be more than 0"),
            (r#"{"tokens_per_day": -1}"#, "tokens_per_day: must be a whole number from 1"),
            (r#"{"tokens_per_day": 1.5}"#, "tokens_per_day: must be a whole number, not 1.5"),
            (r#"{"cost_per_day": 1e-9}"#, "cost_per_day: must be an amount such as 2.5"),
            (r#"{"cost_per_day": true}"#, "cost_per_day: must be an amount such as 2.5"),
            (r#"{"token_per_day": 5}"#, "token_per_day: unknown field; did you mean \"tokens_per_day\"?"),
        ] {
            let found = parse(body.as_bytes()).unwrap_err().message;
            assert!(found.starts_with(message), "{body}: {found}");
        }
    }
}
