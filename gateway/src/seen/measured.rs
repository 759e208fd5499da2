//! Measurements of this gateway.

use super::Seen;
use hoistway_kit::metrics;
use hoistway_model::{
    Name,
    metric::{Family, Kind, Metrics},
};
use http::{Method, StatusCode};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

impl Seen {
    /// A request was answered. `route` is the pattern that it matched, and none of what it made up itself.
    pub fn request(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let known =
            [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
        let method = if known.contains(method) { method.as_str() } else { "other" };
        // Both names of the API are one.
        let v1 = route.strip_prefix("/api/v1/").map(|rest| format!("/api/{rest}"));
        let route = v1.as_deref().unwrap_or(route);
        self.requests.inc(&[method, route, status.as_str()]);
        self.request_durations.observe(&[method, route], took);
    }

    /// An invoke began; dropping what comes back says that it ended.
    pub fn invoked(self: &Arc<Self>, agent: &Name) -> Ending {
        Ending { seen: Arc::clone(self), agent: agent.clone(), began: Instant::now(), outcome: "client_gone" }
    }

    /// Everything measured. It reads files: off the runtime's threads.
    pub fn metrics(&self, in_flight: Vec<(Name, usize)>) -> Metrics {
        let in_flight = in_flight.into_iter().map(|(agent, count)| ([("agent", agent.to_string())], count as f64));
        let states = ["waiting", "running", "undoing"];
        let count = |state: &str| self.deployments().values().filter(|told| told.state == state).count() as f64;
        let deployments: Vec<_> = states.iter().map(|s| ([("state", (*s).to_owned())], count(s))).collect();
        let followers = self.followers.given() as f64;
        let families: Vec<Family> = vec![
            self.requests.family(),
            self.request_durations.family(),
            self.invokes.family(),
            self.invoke_durations.family(),
            metrics::family(Kind::Gauge, "hoistway_invokes_in_flight", "Invokes that are being answered.", in_flight),
            self.deploys.family(),
            self.deploy_durations.family(),
            self.step_durations.family(),
            metrics::family(
                Kind::Gauge,
                "hoistway_deployments",
                "Deployments that wait for their turn, run, or are taken back.",
                deployments,
            ),
            metrics::family(
                Kind::Gauge,
                "hoistway_followers",
                "Callers that follow logs or events.",
                [([], followers)],
            ),
            metrics::database("gateway", &self.database),
        ];
        metrics::of_service("gateway", families)
    }
}

/// An invoke that goes on; it is counted when this is dropped.
#[derive(Debug)]
pub struct Ending {
    seen: Arc<Seen>,
    agent: Name,
    began: Instant,
    outcome: &'static str,
}

impl Ending {
    /// How it ends: `ok`, or the code of its error.
    pub fn with(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let agent = self.agent.as_str();
        // What does not exist must not make new series.
        if self.outcome != "not_found" {
            self.seen.invokes.inc(&[agent, self.outcome]);
            self.seen.invoke_durations.observe(&[agent], self.began.elapsed());
        }
    }
}
