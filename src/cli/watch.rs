//! Watches a deployment until it ends. Events report its progress. Its record is read when the events begin, when one
//! may be missing, and at the end, so nothing is lost with a connection or a restart of the gateway.

use super::{
    Api, Failure, Outcome,
    output::text,
    progress::ProgressPrinter,
    streaming::{BACKOFF, BuildLog, Change, Changes, GONE},
};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// The timeout of one read of the record.
const LOOK: Duration = Duration::from_secs(15);
/// The longest wait for the last lines of a build that has ended: a lost connection may go unnoticed.
const DRAIN: Duration = Duration::from_secs(10);

/// The state of the lines of the deployment's build.
enum Build {
    /// The build has not begun.
    Awaited,
    /// Its lines are followed.
    Followed(BuildLog),
    /// All its lines have been printed.
    Told,
    /// There was no build: the image existed already.
    Reused,
}

/// A deployment that is watched.
struct Watcher<'a> {
    api: &'a Api,
    id: &'a str,
    printer: &'a mut ProgressPrinter,
    /// The record at the last read, updated by the events since.
    record: Value,
    build: Build,
}

/// Reports a deployment's progress and returns its record once it has succeeded or failed. `agent` is its agent, if
/// that is known.
pub async fn watch(api: &Api, id: &str, agent: Option<&str>, printer: &mut ProgressPrinter) -> Outcome<Value> {
    let mut watcher = Watcher { api, id, printer, record: Value::Null, build: Build::Awaited };
    let agent = match agent {
        Some(agent) => agent.to_owned(),
        None if watcher.look().await? => return Ok(watcher.record),
        None => text(&watcher.record["agent"]),
    };
    let mut changes = Changes::of(api.clone(), agent);
    loop {
        let ended = match watcher.next(&mut changes).await {
            Change::Event(event) => watcher.apply(&event).await?,
            Change::Unknown => watcher.look().await?,
        };
        if ended {
            return Ok(watcher.record);
        }
    }
}

impl Watcher<'_> {
    /// Returns the next change; until it comes, lines of the build are printed.
    async fn next(&mut self, changes: &mut Changes) -> Change {
        loop {
            let line = async {
                match &mut self.build {
                    Build::Followed(log) => log.next().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                change = changes.next() => return change,
                line = line => match line {
                    Some(line) => self.printer.build_line(&line),
                    None => self.build = Build::Told,
                },
            }
        }
    }

    /// Applies an event; returns whether the deployment has ended.
    async fn apply(&mut self, event: &Value) -> Outcome<bool> {
        let data = &event["data"];
        let kind = event["type"].as_str().unwrap_or_default();
        if kind == "build.started" {
            let ours = data["request_id"].is_string() && data["request_id"] == self.record["request_id"];
            if let (true, Build::Awaited, Some(attempt)) = (ours, &self.build, data["attempt"].as_str()) {
                self.build = Build::Followed(BuildLog::of(self.api.clone(), attempt.to_owned()));
            }
        } else if data["deployment"] == self.id {
            match kind {
                "deployment.step_started" => {
                    update(&mut self.record, data, "RUNNING");
                    self.tell(false).await;
                }
                "deployment.step_finished" => {
                    update(&mut self.record, data, "SUCCEEDED");
                    self.tell(false).await;
                }
                // Only the record contains the reason.
                "deployment.undoing" | "deployment.succeeded" | "deployment.failed" => return self.look().await,
                _ => {}
            }
        }
        Ok(false)
    }

    /// Reads the record and reports its changes; returns whether the deployment has ended.
    async fn look(&mut self) -> Outcome<bool> {
        self.record = look(self.api, self.id, self.printer).await?;
        self.tell(true).await;
        Ok(matches!(self.record["status"].as_str(), Some("SUCCEEDED" | "FAILED")))
    }

    /// Reports changes. `looked`: the record was just read, so events of the build may have been missed.
    async fn tell(&mut self, looked: bool) {
        let steps = self.record["steps"].as_array().cloned().unwrap_or_default();
        for (i, step) in steps.iter().enumerate() {
            if step["step"] == "build" {
                self.follow_build(step, looked).await;
            }
            self.printer.step(i, step, matches!(self.build, Build::Reused));
        }
        self.printer.status(&self.record);
    }

    /// Begins to follow the build of a build step, and follows it to its end if the step has ended.
    async fn follow_build(&mut self, step: &Value, looked: bool) {
        let ended = matches!(step["status"].as_str(), Some("SUCCEEDED" | "FAILED"));
        if matches!(self.build, Build::Awaited) && (looked || ended) {
            self.build = match attempt(self.api, &self.record).await {
                Ok(Some(attempt)) => Build::Followed(BuildLog::of(self.api.clone(), attempt)),
                Ok(None) if step["status"] == "SUCCEEDED" => Build::Reused,
                // The build's lines are optional; only the deployment's outcome matters.
                _ if ended => Build::Told,
                _ => Build::Awaited,
            };
        }
        let Self { build, printer, .. } = self;
        if let (true, Build::Followed(log)) = (ended, &mut *build) {
            let rest = async {
                while let Some(line) = log.next().await {
                    printer.build_line(&line);
                }
            };
            let _ = timeout(DRAIN, rest).await;
            *build = Build::Told;
        }
    }
}

/// Updates a step of a record from an event. A late event, from before the record was read, changes nothing.
fn update(record: &mut Value, data: &Value, status: &str) {
    let Some(steps) = record.get_mut("steps").and_then(Value::as_array_mut) else { return };
    let known = steps.iter().position(|step| step["step"] == data["step"]);
    let i = known.unwrap_or_else(|| {
        steps.push(json!({ "step": data["step"], "status": "PENDING" }));
        steps.len() - 1
    });
    if matches!(steps[i]["status"].as_str(), Some("PENDING" | "RUNNING")) {
        steps[i]["status"] = status.into();
        steps[i]["duration_ms"] = data["duration_ms"].clone();
    }
}

/// Returns the attempt of the deployment's build: both belong to the same request.
async fn attempt(api: &Api, seen: &Value) -> Outcome<Option<String>> {
    let agent = seen["agent"].as_str().unwrap_or_default();
    let Some(request) = seen["request_id"].as_str() else { return Ok(None) };
    let builds = timeout(LOOK, api.get(&["builds"], &[("agent", agent), ("limit", "20")])).await;
    let builds = builds.map_err(|_| Failure::transient("no answer"))??;
    let mut of_agent = builds.as_array().into_iter().flatten();
    let found = of_agent.find(|build| build["request_id"] == request);
    Ok(found.and_then(|build| build["attempt"].as_str()).map(str::to_owned))
}

/// Returns the deployment's current record. A server that does not answer is retried for a while.
async fn look(api: &Api, id: &str, printer: &ProgressPrinter) -> Outcome<Value> {
    let (since, mut backoff, mut told) = (Instant::now(), BACKOFF, false);
    loop {
        let failure = match timeout(LOOK, api.get(&["deployments", id], &[])).await {
            Ok(Ok(seen)) => return Ok(seen),
            Ok(Err(failure)) if !failure.is_transient() => return Err(failure.deployment(id)),
            Ok(Err(failure)) => failure,
            Err(_) => Failure::transient(format!("{} does not answer", api.base())),
        };
        if since.elapsed() >= GONE {
            let message = format!("how the deploy went is not known: {} has not answered for a minute", api.base());
            return Err(Failure::not_known(message).deployment(id).remedy(look_again(id)));
        }
        if !std::mem::replace(&mut told, true) {
            printer.note(&format!("lost    {}; asking again", failure.message()));
        }
        sleep(backoff.pause()).await;
    }
}

/// Returns the advice for following a deployment further.
pub fn look_again(id: &str) -> String {
    format!("it goes on on the server; see how with `hoistway deployments {id} --follow`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_bring_a_record_up_to_date_and_late_ones_change_nothing() {
        let mut record = json!({"steps": [
            {"step": "plan", "status": "SUCCEEDED", "duration_ms": 1},
            {"step": "build", "status": "RUNNING", "duration_ms": null},
        ]});
        update(&mut record, &json!({"step": "plan"}), "RUNNING");
        update(&mut record, &json!({"step": "build"}), "RUNNING");
        update(&mut record, &json!({"step": "build", "duration_ms": 7}), "SUCCEEDED");
        update(&mut record, &json!({"step": "start"}), "RUNNING");
        let expected = json!({"steps": [
            {"step": "plan", "status": "SUCCEEDED", "duration_ms": 1},
            {"step": "build", "status": "SUCCEEDED", "duration_ms": 7},
            {"step": "start", "status": "RUNNING", "duration_ms": null},
        ]});
        assert_eq!(record, expected);
    }
}
