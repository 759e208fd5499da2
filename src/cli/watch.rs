//! Watches a deployment until it ends. Its record is the truth and is looked at whenever something may have changed;
//! so nothing is lost with a connection, and a gateway may start again meanwhile.

use super::{
    Api, Failure, Outcome,
    follow::{BACKOFF, BuildLog, Changes},
    tell::Teller,
};
use serde_json::Value;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a server that does not answer is waited for: it may be starting again.
const GONE: Duration = Duration::from_secs(60);
/// How long one look may take.
const LOOK: Duration = Duration::from_secs(15);
/// How long the lines of a build that has ended may take to come: a connection may be lost without anybody's knowing.
const DRAIN: Duration = Duration::from_secs(10);

/// The lines of the deployment's build.
enum Build {
    /// It is not there yet.
    Awaited,
    /// It is followed.
    Followed(BuildLog),
    /// There is nothing more of it.
    Told,
    /// There was none: its image was there.
    Reused,
}

/// Tells what happens to a deployment and returns its record once it has ended, well or badly.
pub async fn watch(api: &Api, id: &str, teller: &mut Teller) -> Outcome<Value> {
    let mut seen = look(api, id, teller).await?;
    let changes = Changes::of(api.clone(), seen["agent"].as_str().unwrap_or_default().to_owned());
    let mut build = Build::Awaited;
    loop {
        for (i, step) in seen["steps"].as_array().into_iter().flatten().enumerate() {
            if step["step"] == "build" {
                build = follow_build(api, &seen, step, build, teller).await;
            }
            teller.step(i, step, matches!(build, Build::Reused));
        }
        teller.status(&seen);
        if matches!(seen["status"].as_str(), Some("SUCCEEDED" | "FAILED")) {
            return Ok(seen);
        }
        loop {
            let line = async {
                match &mut build {
                    Build::Followed(log) => log.next().await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = changes.next() => break,
                line = line => match line {
                    Some(line) => teller.build_line(&line),
                    None => build = Build::Told,
                },
            }
        }
        seen = look(api, id, teller).await?;
    }
}

/// Begins to follow the build of a build step, and follows it to its end if the step has ended.
async fn follow_build(api: &Api, seen: &Value, step: &Value, mut build: Build, teller: &Teller) -> Build {
    let ended = matches!(step["status"].as_str(), Some("SUCCEEDED" | "FAILED"));
    if matches!(build, Build::Awaited) {
        match attempt(api, seen).await {
            Ok(Some(attempt)) => build = Build::Followed(BuildLog::of(api.clone(), attempt)),
            Ok(None) if ended && step["status"] == "SUCCEEDED" => return Build::Reused,
            Ok(None) if ended => return Build::Told,
            Ok(None) => {}
            // Telling of the build is a courtesy, the deployment is what counts.
            Err(_) if ended => return Build::Told,
            Err(_) => {}
        }
    }
    if !ended {
        return build;
    }
    if let Build::Followed(mut log) = build {
        let rest = async {
            while let Some(line) = log.next().await {
                teller.build_line(&line);
            }
        };
        let _ = timeout(DRAIN, rest).await;
        return Build::Told;
    }
    build
}

/// The attempt of the deployment's build: both came with the same request.
async fn attempt(api: &Api, seen: &Value) -> Outcome<Option<String>> {
    let agent = seen["agent"].as_str().unwrap_or_default();
    let Some(request) = seen["request_id"].as_str() else { return Ok(None) };
    let builds = timeout(LOOK, api.get(&["builds"], &[("agent", agent), ("limit", "20")])).await;
    let builds = builds.map_err(|_| Failure::transient("no answer"))??;
    let mut of_agent = builds.as_array().into_iter().flatten();
    let found = of_agent.find(|build| build["request_id"] == request);
    Ok(found.and_then(|build| build["attempt"].as_str()).map(str::to_owned))
}

/// The deployment as it is now. A server that does not answer is asked again for a while.
async fn look(api: &Api, id: &str, teller: &Teller) -> Outcome<Value> {
    let (since, mut backoff, mut told) = (Instant::now(), BACKOFF.0, false);
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
            teller.note(&format!("lost    {}; asking again", failure.message()));
        }
        sleep(backoff).await;
        backoff = (backoff * 2).min(BACKOFF.1);
    }
}

/// How one looks again at a deployment.
pub fn look_again(id: &str) -> String {
    format!("it goes on on the server; see how with `hoistway deployments {id} --follow`")
}
