//! `hoistway usage`: agents' use of models.

use super::{
    Api, Failure, Outcome,
    agents::rows,
    output::{self, table, text},
};
use clap::{Args, ValueEnum};
use hoistway_kit::time::{now_ms, parse_duration_ms, rfc3339};
use serde_json::Value;

/// The arguments of `hoistway usage`.
#[derive(Args, Debug)]
pub struct UsageArgs {
    /// Only calls of this agent
    name: Option<String>,
    /// The period of each sum
    #[arg(long, value_enum, default_value_t = Per::Total)]
    per: Per,
    /// The start: a span of time such as 12h or 7d, a date, or a time (RFC 3339) [default: 30d, per hour 1d]
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only calls of this model
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Break down by the users for whom agents worked
    #[arg(long)]
    users: bool,
}

/// The period of a sum.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Hour,
    Day,
    Total,
}

/// Runs the command.
pub async fn run(api: &Api, args: UsageArgs, json: bool) -> Outcome<()> {
    let since = args.since.as_deref().map(since).transpose()?;
    let per = args.per.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let mut query = vec![("per", per.as_str())];
    query.extend(args.name.as_deref().map(|agent| ("agent", agent)));
    query.extend(args.model.as_deref().map(|model| ("model", model)));
    query.extend(since.as_deref().map(|from| ("from", from)));
    query.extend(args.users.then_some(("group_by", "agent,provider,model,user")));
    let usage = api.get(&["usage"], &query).await?;
    if json {
        return output::json(&usage);
    }
    let mut all = rows(&usage["usage"], row);
    let mut total = row(&usage["total"]);
    total[0] = "total".to_owned();
    all.push(total);
    let heading =
        ["START", "AGENT", "PROVIDER", "MODEL", "USER", "REQUESTS", "FAILED", "INPUT", "CACHED", "OUTPUT", "COST"];
    let shown = match args.users {
        true => table(heading, &all),
        false => table(without_user(heading), &all.into_iter().map(without_user).collect::<Vec<_>>()),
    };
    output::print(&shown)?;
    if let Some(estimated @ 1..) = usage["total"]["estimated_requests"].as_u64() {
        output::progress(&format!("{estimated} of the requests did not say their tokens, which are an estimate"));
    }
    Ok(())
}

/// Converts a span, date or time to the format of the API.
fn since(text: &str) -> Outcome<String> {
    if !text.ends_with(|c: char| c.is_ascii_alphabetic() && c != 'Z' && c != 'z') {
        return Ok(text.to_owned());
    }
    let ago = parse_duration_ms(text).and_then(|ago| now_ms().checked_sub(ago)).filter(|at| *at >= 0);
    ago.map(rfc3339)
        .ok_or_else(|| Failure::usage(format!("--since: \"{text}\" is not a time such as 7d or 2026-11-23")))
}

fn row(sums: &Value) -> [String; 11] {
    let cost = if sums["cost"].is_null() { "-".to_owned() } else { text(&sums["cost"]) };
    let [start, agent, provider, model, user] =
        ["start", "agent", "provider", "model", "user"].map(|key| text(&sums[key]));
    let start = start.get(..16).map(|minute| minute.replace('T', " ")).unwrap_or(start);
    let [requests, failed, input, cached, output] =
        ["requests", "failed_requests", "input_tokens", "cached_input_tokens", "output_tokens"]
            .map(|key| text(&sums[key]));
    [start, agent, provider, model, user, requests, failed, input, cached, output, cost]
}

fn without_user<T>(
    [start, agent, provider, model, _, requests, failed, input, cached, output, cost]: [T; 11],
) -> [T; 10] {
    [start, agent, provider, model, requests, failed, input, cached, output, cost]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_has_what_was_used() {
        let sums = json!({
            "start": "2026-11-23T10:00:00.000Z", "agent": "a", "provider": "p", "model": "m", "user": "ada",
            "requests": 3, "failed_requests": 1, "input_tokens": 100, "cached_input_tokens": 40, "output_tokens": 7, "cost": null,
        });
        let expected = ["2026-11-23 10:00", "a", "p", "m", "ada", "3", "1", "100", "40", "7", "-"];
        assert_eq!(row(&sums), expected.map(str::to_owned));
        assert_eq!(without_user(row(&sums))[4], "3");
    }

    #[test]
    fn times_are_spans_dates_or_moments() {
        assert_eq!(since("2026-11-23").unwrap(), "2026-11-23");
        assert_eq!(since("2026-11-23T10:00:00Z").unwrap(), "2026-11-23T10:00:00Z");
        assert!(since("7d").unwrap().starts_with("20"));
        assert!(since("soon").is_err());
    }
}
