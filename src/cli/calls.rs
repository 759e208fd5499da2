//! `hoistway calls`: the calls of an agent and their results.

use super::{
    Api, Failure, Outcome,
    output::{self, table, text},
    streaming::{Outage, SILENCE},
};
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use tokio::time::timeout;

/// The maximum number of calls in one answer.
const PAGE: u32 = 1_000;
/// The default numbers of calls shown: without `--follow`, and before the new ones with it.
const SHOWN: (u32, u32) = (100, 10);

/// The arguments of `hoistway calls`.
#[derive(Args, Debug)]
pub struct CallsArgs {
    /// The agent
    name: String,
    /// Go on with calls as they end, until the agent is deleted; oldest first then
    #[arg(short, long)]
    pub follow: bool,
    /// Only calls of this tool
    #[arg(long, value_name = "TOOL")]
    tool: Option<String>,
    /// Only calls that egress refused or could not carry out
    #[arg(long)]
    refused: bool,
    /// The number of last calls [default: 100, and 10 with --follow]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=i64::from(PAGE)))]
    tail: Option<u32>,
}

/// Runs the command.
pub async fn run(api: &Api, args: CallsArgs, json: bool) -> Outcome<()> {
    if args.follow {
        return Follower { api, args: &args, json, position: None, outage: Outage::default() }.run().await;
    }
    let calls = list(api, &args, args.tail.unwrap_or(SHOWN.0)).await?;
    if json {
        return output::json(&calls);
    }
    let rows: Vec<_> = calls.as_array().into_iter().flatten().map(row).collect();
    output::print(&table(["TIME", "TARGET", "METHOD", "STATUS", "LATENCY", "URL", "RESULT"], &rows))
}

async fn list(api: &Api, args: &CallsArgs, limit: u32) -> Outcome<Value> {
    let limit = limit.to_string();
    let mut query = vec![("limit", limit.as_str())];
    query.extend(args.tool.as_deref().map(|tool| ("tool", tool)));
    query.extend(args.refused.then_some(("refused", "true")));
    api.get(&["agents", &args.name, "calls"], &query).await
}

fn row(call: &Value) -> [String; 7] {
    let or_dash = |value: &Value| if value.is_null() { "-".to_owned() } else { text(value) };
    let latency = call["latency_ms"].as_u64().map_or("-".to_owned(), |ms| format!("{ms} ms"));
    let url = match call["host"].as_str() {
        Some(host) => format!("{}://{host}{}", text(&call["scheme"]), text(&call["path"])),
        None => text(&call["path"]),
    };
    let result = match (call["refused"].as_str(), call["error"].as_str(), call["broken"].as_str()) {
        (Some(word), None, _) => word.to_owned(),
        (_, Some(error), _) => error.to_owned(),
        (None, None, Some(word)) => format!("broke off: {word}"),
        (None, None, None) => String::new(),
    };
    let target = if call["tool"].is_null() { &call["model_provider"] } else { &call["tool"] };
    [text(&call["time"]), or_dash(target), text(&call["method"]), or_dash(&call["status"]), latency, url, result]
}

/// Shows calls as they end. The list is read when the events begin and whenever one may be missing, so no call is lost
/// with a connection or a restart of the gateway.
struct Follower<'a> {
    api: &'a Api,
    args: &'a CallsArgs,
    json: bool,
    /// The last call that was shown or skipped; none before the first read of the list.
    position: Option<u64>,
    outage: Outage,
}

impl Follower<'_> {
    /// Follows until the agent is deleted.
    async fn run(mut self) -> Outcome<()> {
        loop {
            let failure = match self.follow().await {
                Ok(()) => return Ok(()),
                Err(failure) if !failure.is_transient() || self.position.is_none() => return Err(failure),
                Err(failure) => failure,
            };
            self.outage.wait(failure).await?;
        }
    }

    /// Follows one connection; `Ok` once the agent is deleted.
    async fn follow(&mut self) -> Outcome<()> {
        let query = [("agent", self.args.name.as_str()), ("types", "call,agent.deleted")];
        // The events are subscribed to before the list is read: a call that ends between the two is in both, and shown
        // once.
        let mut lines = self.api.stream(Method::GET, &["events"], &query, None).await?;
        self.show_new().await?;
        self.outage.end();
        if let Err(failure) = self.api.get(&["agents", &self.args.name], &[]).await {
            // A deleted agent has only records.
            return if failure.is_not_found() { Ok(()) } else { Err(failure) };
        }
        loop {
            let lost = || Failure::lost(format!("{} does not send events any more", self.api.base()));
            let line = timeout(SILENCE, lines.next()).await.map_err(|_| lost())??.ok_or_else(lost)?;
            let Some(event) = line.strip_prefix("data:").and_then(|data| serde_json::from_str::<Value>(data).ok())
            else {
                continue;
            };
            match event["type"].as_str() {
                Some("call.ended") => self.show(&event["data"])?,
                Some("call.missed" | "reset") => self.show_new().await?,
                Some("agent.deleted") => return self.show_new().await,
                _ => {}
            }
        }
    }

    /// Reads the list and shows its new calls.
    async fn show_new(&mut self) -> Outcome<()> {
        let limit = match self.position {
            Some(_) => PAGE,
            None => self.args.tail.unwrap_or(SHOWN.1),
        };
        let calls = list(self.api, self.args, limit).await?;
        let calls = calls.as_array().map_or(&[][..], Vec::as_slice);
        if let (Some(position), Some(oldest)) = (self.position, calls.last())
            && calls.len() == limit as usize
            && id(oldest).is_some_and(|id| id > position + 1)
        {
            output::progress(&format!("… earlier calls are not shown: more than {PAGE} ended meanwhile …"));
        }
        self.position.get_or_insert(0);
        calls.iter().rev().try_for_each(|call| self.show(call))
    }

    /// Shows a call, if the filters match and it was not shown before.
    fn show(&mut self, call: &Value) -> Outcome<()> {
        let Some(id) = id(call).filter(|id| self.position.is_none_or(|position| *id > position)) else {
            return Ok(());
        };
        self.position = Some(id);
        let is_of_tool = self.args.tool.as_deref().is_none_or(|tool| call["tool"] == tool);
        if !is_of_tool || self.args.refused && call["refused"].is_null() {
            return Ok(());
        }
        if self.json {
            return output::line(&call.to_string());
        }
        let [time, tool, method, status, latency, url, result] = row(call).map(|cell| output::one_line(&cell));
        let line = format!("{time}  {tool:<16}  {method:<7}  {status:>3}  {latency:>8}  {url}  {result}");
        output::line(line.trim_end())
    }
}

fn id(call: &Value) -> Option<u64> {
    call["id"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_row_says_what_came_of_a_call() {
        let call = json!({
            "time": "T", "tool": "stripe", "method": "GET", "status": 200, "latency_ms": 7, "scheme": "https",
            "host": "api.stripe.com", "path": "/v1", "refused": null, "error": null, "broken": null,
        });
        assert_eq!(
            row(&call),
            ["T", "stripe", "GET", "200", "7 ms", "https://api.stripe.com/v1", ""].map(str::to_owned)
        );
        let mut refused = call.clone();
        refused["refused"] = "host_not_allowed".into();
        assert_eq!(row(&refused)[6], "host_not_allowed");
        refused["error"] = "no tool".into();
        assert_eq!(row(&refused)[6], "no tool");
        let mut broken = json!({"broken": "agent_went_away", "path": "/x"});
        assert_eq!(row(&broken), ["", "-", "", "-", "-", "/x", "broke off: agent_went_away"].map(str::to_owned));
        broken["broken"] = Value::Null;
        assert_eq!(row(&broken)[6], "");
    }
}
