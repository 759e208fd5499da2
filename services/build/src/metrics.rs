//! Measurements of builds.

use crate::log::BuildLog;
use hoistway_kit::{
    metrics::{self, Counter, Histogram},
    process_metrics,
};
use hoistway_model::{
    build::{Build, BuildStatus},
    metric::{Family, Kind, Metrics},
};
use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The age up to which the size of the registry is used: to know it, every blob is looked at.
const SIZE_AGE: Duration = Duration::from_secs(60);

/// Counts and durations of the builds since the process began.
#[derive(Debug)]
pub struct BuildMetrics {
    dir: PathBuf,
    builds: Counter,
    layers: Counter,
    durations: Histogram,
    steps: Histogram,
    registry: Mutex<Option<(Instant, u64)>>,
}

impl BuildMetrics {
    /// Nothing yet; `dir` is the service's directory.
    pub fn new(dir: PathBuf) -> Self {
        let metrics = Self {
            dir,
            builds: Counter::new(
                "hoistway_builds_total",
                "Builds that were asked for, by what came of them: succeeded, failed, or reused (the image was there or being built).",
                &["outcome"],
            ),
            layers: Counter::new(
                "hoistway_build_dependency_layers_total",
                "Dependency layers that builds needed: reused or made.",
                &["result"],
            ),
            durations: Histogram::new(
                "hoistway_build_duration_seconds",
                "Time from a build's acceptance to its end.",
                &["outcome"],
            ),
            steps: Histogram::new("hoistway_build_step_duration_seconds", "Time of each step of builds.", &["step"]),
            registry: Mutex::default(),
        };
        // The first one is then an increase too.
        ["succeeded", "failed", "reused"].iter().for_each(|outcome| metrics.builds.add(&[outcome], 0.0));
        metrics
    }

    /// Counts a build that was answered by one that was there or running.
    pub fn reused(&self) {
        self.builds.inc(&["reused"]);
    }

    /// Counts a build that ended.
    pub fn ended(&self, build: &Build, log: &BuildLog) {
        let outcome = if build.status == BuildStatus::Succeeded { "succeeded" } else { "failed" };
        let span = |from: i64, to: Option<i64>| {
            Duration::from_millis(u64::try_from(to.unwrap_or(from) - from).unwrap_or_default())
        };
        self.builds.inc(&[outcome]);
        self.durations.observe(&[outcome], span(build.created_at, build.completed_at));
        for step in &build.steps {
            self.steps.observe(&[step.step.as_str()], span(step.started_at, step.completed_at));
        }
        for reused in log.dependency_layers() {
            self.layers.inc(&[if reused { "reused" } else { "made" }]);
        }
    }

    /// Everything measured, with the size of the database if it is known. It reads files: off the runtime's threads.
    pub fn all(&self, running: usize, waiting: usize, database: Option<u64>) -> Metrics {
        let gauge = [("running", running), ("waiting", waiting)];
        let gauge = gauge.map(|(state, count)| ([("state", state.to_owned())], count as f64));
        let mut families = vec![
            metrics::family(Kind::Gauge, "hoistway_builds", "Builds that run or wait for their turn.", gauge),
            self.builds.family(),
            self.layers.family(),
            self.durations.family(),
            self.steps.family(),
            self.registry_size(),
            metrics::database("build", database),
        ];
        families.extend(metrics::disk("build", &self.dir));
        process_metrics::of_service("build", families)
    }

    fn registry_size(&self) -> Family {
        let mut known = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = known.filter(|(at, _)| at.elapsed() < SIZE_AGE);
        let (at, size) =
            fresh.unwrap_or_else(|| (Instant::now(), size_of_tree(&self.dir.join("registry")).unwrap_or(0)));
        *known = Some((at, size));
        let help = "Disk that the registry's blobs and uploads take; at most a minute old.";
        metrics::family(Kind::Gauge, "hoistway_registry_size_bytes", help, [([], size as f64)])
    }
}

fn size_of_tree(dir: &Path) -> io::Result<u64> {
    let mut size = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        // A file that is removed meanwhile has no size.
        size += match entry.file_type() {
            Ok(kind) if kind.is_dir() => size_of_tree(&entry.path()).unwrap_or(0),
            _ => entry.metadata().map_or(0, |meta| meta.len()),
        };
    }
    Ok(size)
}
