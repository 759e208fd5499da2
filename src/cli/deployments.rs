//! `hoistway deployments`: the list and progress of deployments.

use super::{
    Api, Failure, Outcome,
    output::{self, table, text},
    progress::{ProgressPrinter, duration},
    watch::{look_again, watch},
};
use clap::Args;
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;

/// The arguments of `hoistway deployments`.
#[derive(Args, Debug)]
pub struct DeploymentsArgs {
    /// Show this one whole
    id: Option<String>,
    /// Only those of this agent
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    agent: Option<String>,
    /// Report progress until it has ended; the exit status is that of `deploy`
    #[arg(short, long, requires = "id")]
    follow: bool,
    /// Cancel it: what it has done is undone
    #[arg(long, requires = "id", conflicts_with = "follow")]
    cancel: bool,
}

/// Lists, shows or follows deployments.
pub async fn run(api: &Api, args: DeploymentsArgs, as_json: bool) -> Outcome<()> {
    if let Some(id) = &args.id {
        if args.cancel {
            return output::json(&api.call(Method::POST, &["deployments", id, "cancel"], &[], None).await?);
        }
        return match args.follow {
            true => {
                output::answer(&followed(api, id, None, None, ProgressPrinter::on_stderr()).await?, as_json, |it| {
                    summary(api, it)
                })
            }
            false => output::json(&api.get(&["deployments", id], &[]).await?),
        };
    }
    let query: Vec<_> = args.agent.as_deref().map(|agent| ("agent", agent)).into_iter().collect();
    let deployments = api.get(&["deployments"], &query).await?;
    if as_json {
        return output::json(&deployments);
    }
    let row = |it: &Value| {
        let took = it["duration_ms"].as_i64().map(duration).unwrap_or_default();
        let [id, agent, kind, status, created, error] =
            [&it["id"], &it["agent"], &it["kind"], &it["status"], &it["created_at"], &it["error"]["error"]].map(text);
        [id, agent, kind, status, created, took, error.lines().next().unwrap_or_default().to_owned()]
    };
    let rows: Vec<_> = deployments.as_array().into_iter().flatten().map(row).collect();
    output::print(&table(["ID", "AGENT", "KIND", "STATUS", "CREATED", "TOOK", "ERROR"], &rows))
}

/// Watches a deployment, of `agent` if that is known, to its end or for `seconds`; a failed deployment is a failure.
pub async fn followed(
    api: &Api,
    id: &str,
    agent: Option<&str>,
    seconds: Option<u32>,
    mut printer: ProgressPrinter,
) -> Outcome<Value> {
    let patience = async {
        match seconds {
            Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds.into())).await,
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        ended = watch(api, id, agent, &mut printer) => ended?,
        () = patience => {
            let message = format!("the deploy has not ended after {} s", seconds.unwrap_or_default());
            return Err(Failure::not_known(message).deployment(id).remedy(look_again(id)));
        }
        _ = tokio::signal::ctrl_c() => {
            return Err(Failure::interrupted("interrupted").deployment(id).remedy(look_again(id)));
        }
    };
    if ended["status"] == "SUCCEEDED" {
        return Ok(ended);
    }
    let request = &ended["request_id"];
    Err(Failure::told(&ended["error"]).deployment(id).request(request.as_str()))
}

/// Describes the address of the agent of a deployment that succeeded.
pub fn summary(api: &Api, ended: &Value) -> String {
    let agent = text(&ended["agent"]);
    format!("{agent} answers at {}", api.url(&["agents", &agent, "invoke"]))
}
