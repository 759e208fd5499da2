//! Measurements of agents.

use super::Service;
use hoistway_kit::{metrics, process_metrics};
use hoistway_model::{
    Error, Result,
    agent::Phase,
    metric::{Kind, Metrics},
};

impl Service {
    pub(super) async fn metrics(&self) -> Result<Metrics> {
        let agents = self.events.current();
        let count = |phase| agents.iter().filter(|(_, p)| *p == phase).count() as f64;
        let by_phase = [Phase::Pending, Phase::Running, Phase::Failed, Phase::Stopped];
        let by_phase = by_phase.map(|phase| ([("phase", phase.as_str().to_owned())], count(phase)));
        let is_up = |phase: Phase| f64::from(u8::from(phase == Phase::Running));
        // One that a user has stopped is not down.
        let expected = agents.iter().filter(|(_, phase)| *phase != Phase::Stopped);
        let up = expected.map(|(name, phase)| ([("agent", name.to_string())], is_up(*phase)));
        let mut families = vec![
            metrics::family(Kind::Gauge, "hoistway_agents", "Agents by their phase.", by_phase),
            metrics::family(
                Kind::Gauge,
                "hoistway_agent_up",
                "1 while the agent is Running, else 0; none for a stopped one.",
                up,
            ),
            self.events.crashes.family(),
            self.events.out_of_memory.family(),
        ];
        families.extend(self.idle_metrics());
        families.extend(self.runtime.metrics());
        let database = self.store.size().await.ok();
        let directory = self.path.clone();
        let read = move || {
            families.extend(metrics::disk("agent", &directory));
            families.push(metrics::database("agent", database));
            process_metrics::of_service("agent", families)
        };
        tokio::task::spawn_blocking(read).await.map_err(|e| Error::internal("reading what was measured", e))
    }
}
