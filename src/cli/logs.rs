//! `hoistway logs`: the lines of an agent or a build.

use super::{
    Api, Failure, Outcome, output,
    streaming::{LogPosition, Outage, SILENCE, log_has_ended, text_of},
};
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use tokio::time::timeout;

/// The arguments of `hoistway logs`.
#[derive(Args, Debug)]
pub struct LogsArgs {
    /// The agent, or with --build the build
    name: String,
    /// Go on with new lines as they come
    #[arg(short, long)]
    follow: bool,
    /// The number of last lines [default: all that are kept]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u32>,
    /// Lines since a time (RFC 3339) or of the last while, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Each line's time before it
    #[arg(short, long)]
    timestamps: bool,
    /// The log of a build instead: its id is in the deploy's answer
    #[arg(long)]
    build: bool,
}

impl LogsArgs {
    const fn kind(&self) -> &'static str {
        if self.build { "builds" } else { "agents" }
    }

    /// Returns the query of the first request.
    fn query<'a>(&'a self, tail: Option<&'a str>) -> Vec<(&'static str, &'a str)> {
        let mut query = Vec::new();
        query.extend(tail.map(|n| ("tail", n)));
        query.extend(self.since.as_deref().map(|since| ("since", since)));
        query
    }
}

/// Runs the command.
pub async fn run(api: &Api, args: LogsArgs, json: bool) -> Outcome<()> {
    if args.follow {
        let outage = Outage::default();
        let follower = Follower { api, args: &args, json, position: LogPosition::default(), is_known: false, outage };
        return follower.run().await;
    }
    let tail = args.tail.map(|n| n.to_string());
    let mut query = args.query(tail.as_deref());
    query.extend(args.timestamps.then_some(("timestamps", "true")));
    query.extend(json.then_some(("format", "json")));
    api.lines(Method::GET, &[args.kind(), &args.name, "logs"], &query, None, output::line).await
}

/// Shows lines as they arrive, each once, also over a restart of the gateway: reading resumes after the last line.
struct Follower<'a> {
    api: &'a Api,
    args: &'a LogsArgs,
    json: bool,
    position: LogPosition,
    /// Whether a connection has succeeded; before that a failure is not retried.
    is_known: bool,
    outage: Outage,
}

impl Follower<'_> {
    /// Follows until the agent is deleted, or the build ends.
    async fn run(mut self) -> Outcome<()> {
        loop {
            let failure = match self.follow().await {
                Ok(true) => return Ok(()),
                Ok(false) => Failure::lost(format!("{} does not send lines any more", self.api.base())),
                Err(failure) if failure.is_not_found() && self.is_known => return Ok(()),
                Err(failure) if !failure.is_transient() || !self.is_known => return Err(failure),
                Err(failure) => failure,
            };
            self.outage.wait(failure).await?;
        }
    }

    /// Follows one connection; returns whether the log has ended.
    async fn follow(&mut self) -> Outcome<bool> {
        let mut passed = self.position.passed();
        let since = passed.since.clone();
        // A log that had no line yet is read from its beginning.
        let tail = self.args.tail.filter(|n| !self.is_known || *n == 0).map(|n| n.to_string());
        let mut query = match since.as_deref() {
            Some(since) => vec![("since", since)],
            None => self.args.query(tail.as_deref()),
        };
        query.extend([("follow", "true"), ("format", "ndjson")]);
        let path = [self.args.kind(), &self.args.name, "logs"];
        let mut lines = self.api.stream(Method::GET, &path, &query, None).await?;
        self.is_known = true;
        self.outage.end();
        loop {
            let silent = |_| Failure::lost(format!("{} has sent nothing for {} s", self.api.base(), SILENCE.as_secs()));
            let Some(line) = timeout(SILENCE, lines.next()).await.map_err(silent)?? else { break };
            if let Some(parsed) = self.position.advance(&line, &mut passed) {
                self.show(&line, &parsed)?;
            }
        }
        log_has_ended(self.api, self.args.kind(), &self.args.name).await
    }

    fn show(&self, line: &str, parsed: &Value) -> Outcome<()> {
        match parsed["time"].as_str() {
            _ if self.json => output::line(line),
            Some(time) if self.args.timestamps => output::line(&format!("{time} {}", text_of(parsed))),
            _ => output::line(&text_of(parsed)),
        }
    }
}
