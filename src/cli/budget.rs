//! `hoistway budget`: the limits of an agent's use of models.

use super::{
    Api, Outcome,
    agents::{rows, warn},
    output::{self, table, text},
};
use clap::Args;
use reqwest::Method;
use serde_json::{Map, Value};

/// The arguments of `hoistway budget`.
#[derive(Args, Debug)]
pub struct BudgetArgs {
    /// The agent
    name: String,
    /// Tokens on a day of UTC
    #[arg(long, value_name = "N")]
    tokens_per_day: Option<u64>,
    /// Tokens in a calendar month
    #[arg(long, value_name = "N")]
    tokens_per_month: Option<u64>,
    /// Cost on a day, in the currency of the prices
    #[arg(long, value_name = "AMOUNT")]
    cost_per_day: Option<String>,
    /// Cost in a calendar month
    #[arg(long, value_name = "AMOUNT")]
    cost_per_month: Option<String>,
    /// Calls in a minute
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<u64>,
    /// Remove the budget
    #[arg(long, conflicts_with_all = ["tokens_per_day", "tokens_per_month", "cost_per_day", "cost_per_month", "requests_per_minute"])]
    remove: bool,
}

/// Runs the command: shows the budget, or replaces it by the limits on the command line.
pub async fn run(api: &Api, args: BudgetArgs, json: bool) -> Outcome<()> {
    let path = ["agents", args.name.as_str(), "budget"];
    if args.remove {
        let answer = api.call(Method::DELETE, &path, &[], None).await?;
        return output::answer(&answer, json, |_| format!("{} has no budget any more", args.name));
    }
    let limits = limits(&args);
    let budget = match limits.is_empty() {
        true => api.get(&path, &[]).await?,
        false => api.call(Method::PUT, &path, &[], Some(&limits.into())).await?,
    };
    if json {
        return output::json(&budget);
    }
    if budget["limits"].as_array().is_some_and(Vec::is_empty) {
        return output::line(&format!("{} has no budget", args.name));
    }
    output::print(&table(["LIMIT", "USED", "OF", "SHARE", "BEGINS ANEW"], &rows(&budget["limits"], row)))?;
    warn(&budget);
    unpriced(&budget).iter().for_each(|text| output::progress(text));
    Ok(())
}

/// Names the models without a price, which no limit of cost covers.
fn unpriced(budget: &Value) -> Option<String> {
    let limits_cost = ["cost_per_day", "cost_per_month"].iter().any(|limit| budget["budget"].get(limit).is_some());
    let models: Vec<String> = budget["unpriced_models"].as_array().into_iter().flatten().map(text).collect();
    (limits_cost && !models.is_empty()).then(|| format!("without a price, and so in no cost: {}", models.join(", ")))
}

fn limits(args: &BudgetArgs) -> Map<String, Value> {
    let given = [
        ("tokens_per_day", args.tokens_per_day.map(Value::from)),
        ("tokens_per_month", args.tokens_per_month.map(Value::from)),
        ("cost_per_day", args.cost_per_day.clone().map(Value::from)),
        ("cost_per_month", args.cost_per_month.clone().map(Value::from)),
        ("requests_per_minute", args.requests_per_minute.map(Value::from)),
    ];
    given.into_iter().filter_map(|(limit, most)| Some((limit.to_owned(), most?))).collect()
}

fn row(limit: &Value) -> [String; 5] {
    let share = limit["share"].as_f64().unwrap_or_default();
    let [name, used, most, anew] = ["limit", "used", "most", "resets_at"].map(|key| text(&limit[key]));
    [name, used, most, format!("{:.1} %", share * 100.0), anew]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn models_without_a_price_are_told_where_there_is_a_limit_of_cost() {
        let budget = |limits: Value| unpriced(&json!({"budget": limits, "unpriced_models": ["m", "n"]}));
        assert_eq!(budget(json!({"tokens_per_day": 5})), None);
        assert_eq!(
            budget(json!({"tokens_per_day": 5, "cost_per_month": "2"})).unwrap(),
            "without a price, and so in no cost: m, n"
        );
        assert_eq!(unpriced(&json!({"budget": {"cost_per_day": "2"}, "unpriced_models": []})), None);
    }

    #[test]
    fn a_row_says_how_much_is_used() {
        let limit = json!({"limit": "tokens_per_day", "most": 1000, "used": 821, "share": 0.821, "resets_at": "T"});
        assert_eq!(row(&limit), ["tokens_per_day", "821", "1000", "82.1 %", "T"].map(str::to_owned));
    }
}
