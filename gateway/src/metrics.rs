//! Metrics of this gateway: requests, invokes and deployments.

use hoistway_kit::{
    metrics::{self, Counter, Histogram},
    process_metrics,
};
use hoistway_model::{
    Name,
    metric::{Family, Kind, Metrics},
};
use http::{Method, StatusCode};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The counters and histograms of one gateway.
#[derive(Debug)]
pub struct GatewayMetrics {
    requests: Counter,
    request_durations: Histogram,
    invokes: Counter,
    invoke_durations: Histogram,
    deployments: Counter,
    deployment_durations: Histogram,
    step_durations: Histogram,
}

/// Values that are read when metrics are collected.
#[derive(Debug)]
pub struct Gauges {
    /// The invokes of each agent that are being answered.
    pub invokes_in_flight: Vec<(Name, usize)>,
    /// The unfinished deployments in each state.
    pub deployments: [(&'static str, usize); 3],
    /// The clients that follow logs or events.
    pub followers: usize,
    /// The bytes of the database, if they are known.
    pub database: Option<u64>,
}

/// Returns the name of a method that HTTP defines: clients cannot create names.
pub fn known_method(method: &Method) -> Option<&str> {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
    known.contains(method).then(|| method.as_str())
}

impl GatewayMetrics {
    /// Returns metrics without any values.
    pub fn new() -> Arc<Self> {
        let metrics = Self {
            requests: Counter::new(
                "hoistway_http_requests_total",
                "HTTP requests, by the route that answered.",
                &["method", "route", "status"],
            ),
            request_durations: Histogram::new(
                "hoistway_http_request_duration_seconds",
                "Time from a request to the head of its answer.",
                &["method", "route"],
            ),
            invokes: Counter::new(
                "hoistway_invokes_total",
                "Invokes of agents, by ok, client_gone or the error's code.",
                &["agent", "outcome"],
            ),
            invoke_durations: Histogram::new(
                "hoistway_invoke_duration_seconds",
                "Time from an invoke to the end of its answer.",
                &["agent"],
            ),
            deployments: Counter::new("hoistway_deployments_total", "Deployments that ended.", &["outcome"]),
            deployment_durations: Histogram::new(
                "hoistway_deployment_duration_seconds",
                "Time from a deployment's acceptance to its end.",
                &["outcome"],
            ),
            step_durations: Histogram::new(
                "hoistway_deployment_step_duration_seconds",
                "Time of each step of deployments.",
                &["step"],
            ),
        };
        // The first one is then an increase too.
        ["succeeded", "failed"].iter().for_each(|outcome| metrics.deployments.add(&[outcome], 0.0));
        Arc::new(metrics)
    }

    /// Counts an answered request. `route` is the pattern that it matched, so that requests cannot create new series.
    pub fn request_answered(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = known_method(method).unwrap_or("other");
        // `/api/v1` and `/api` are counted as one.
        let v1 = route.strip_prefix("/api/v1/").map(|rest| format!("/api/{rest}"));
        let route = v1.as_deref().unwrap_or(route);
        self.requests.inc(&[method, route, status.as_str()]);
        self.request_durations.observe(&[method, route], took);
    }

    /// Starts to measure an invoke; dropping the timer ends it.
    pub fn invoke_began(self: &Arc<Self>, agent: &Name) -> InvokeTimer {
        InvokeTimer { metrics: Arc::clone(self), agent: agent.clone(), began: Instant::now(), outcome: "client_gone" }
    }

    /// Counts a deployment that ended.
    pub fn deployment_ended(&self, outcome: &str, took: Duration) {
        self.deployments.inc(&[outcome]);
        self.deployment_durations.observe(&[outcome], took);
    }

    /// Records the duration of a step of a deployment.
    pub fn deployment_step_ended(&self, step: &str, took: Duration) {
        self.step_durations.observe(&[step], took);
    }

    /// Removes the series of a deleted agent.
    pub fn forget_agent(&self, agent: &Name) {
        self.invokes.forget(agent.as_str());
        self.invoke_durations.forget(agent.as_str());
    }

    /// Collects all metrics. It reads files, so it must not run on a thread of the runtime.
    pub fn collect(&self, gauges: Gauges) -> Metrics {
        let Gauges { invokes_in_flight, deployments, followers, database } = gauges;
        let in_flight = invokes_in_flight.into_iter();
        let in_flight = in_flight.map(|(agent, count)| ([("agent", agent.to_string())], count as f64));
        let deployments = deployments.map(|(state, count)| ([("state", state.to_owned())], count as f64));
        let families: Vec<Family> = vec![
            self.requests.family(),
            self.request_durations.family(),
            self.invokes.family(),
            self.invoke_durations.family(),
            metrics::family(Kind::Gauge, "hoistway_invokes_in_flight", "Invokes that are being answered.", in_flight),
            self.deployments.family(),
            self.deployment_durations.family(),
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
                [([], followers as f64)],
            ),
            metrics::database("gateway", database),
        ];
        process_metrics::of_service("gateway", families)
    }
}

/// Measures one invoke, which is counted when this is dropped.
#[derive(Debug)]
pub struct InvokeTimer {
    metrics: Arc<GatewayMetrics>,
    agent: Name,
    began: Instant,
    outcome: &'static str,
}

impl InvokeTimer {
    /// Sets the outcome that is counted: `ok`, or the code of the error.
    pub fn set_outcome(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for InvokeTimer {
    fn drop(&mut self) {
        let agent = self.agent.as_str();
        // An unknown agent must not create new series.
        if self.outcome != "not_found" {
            self.metrics.invokes.inc(&[agent, self.outcome]);
            self.metrics.invoke_durations.observe(&[agent], self.began.elapsed());
        }
    }
}
