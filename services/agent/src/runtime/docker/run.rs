//! One run of an instance: the agent's container and that of its network, until both are gone.

use super::daemon::{Daemon, Death};
use super::runs::RunPlace;
use crate::launcher::protocol::STACK_SIGNAL;
use crate::runtime::network::AgentNetwork;
use crate::runtime::notices::{Notice, Notices};
use crate::runtime::stack_trace;
use crate::runtime::supervisor::{Ended, Event, Run};
use hoistway_model::image::{APP_DIR, SITE_DIR};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::DropGuard;

/// The time that a killed container may take to end.
const END: Duration = Duration::from_secs(10);
/// The time that the rest of the log may take once nobody can write to it any more.
const LOG_END: Duration = Duration::from_secs(2);
/// The agent's files are in its image only, so no source line is read.
const NOWHERE: &str = "/nonexistent";

/// A started agent.
pub(super) struct ContainerRun {
    place: RunPlace,
    /// The runner's message; none if its container ended before the runner could say anything.
    notices: Option<Notices<TcpStream>>,
    network: Option<Arc<AgentNetwork>>,
    /// Serves the agent's egress until it is dropped.
    _egress: DropGuard,
    follower: JoinHandle<()>,
    watch: JoinHandle<Death>,
    died: Option<Death>,
    kill_at: Option<Instant>,
}

impl ContainerRun {
    pub fn new(
        place: RunPlace,
        notices: Option<Notices<TcpStream>>,
        network: Option<Arc<AgentNetwork>>,
        egress: DropGuard,
        follower: JoinHandle<()>,
    ) -> Self {
        let daemon = place.daemon();
        let (agent, net) = (place.agent().to_owned(), place.network().to_owned());
        let watch = tokio::spawn(async move { first_death(&daemon, &agent, &net).await });
        Self { place, notices, network, _egress: egress, follower, watch, died: None, kill_at: None }
    }

    /// Waits for the container's end. Cancel safe.
    async fn death(&mut self) -> Death {
        if let Some(death) = self.died {
            return death;
        }
        let lost = Death { how: Ended::Lost("its container is lost"), is_out_of_memory: false };
        let death = (&mut self.watch).await.unwrap_or(lost);
        self.died = Some(death);
        death
    }

    /// Waits until the time for a stop is over. Cancel safe.
    async fn kill_is_due(kill_at: Option<Instant>) {
        match kill_at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    async fn signal(&self, signal: &str) {
        self.place.daemon().signal(self.place.agent(), signal).await;
    }
}

impl Run for ContainerRun {
    fn network(&self) -> Option<Arc<AgentNetwork>> {
        self.network.clone()
    }

    async fn event(&mut self, awaits_notice: bool) -> Event {
        loop {
            let kill_at = self.kill_at;
            if awaits_notice && let Some(mut notices) = self.notices.take() {
                let said = tokio::select! {
                    biased;
                    said = notices.next() => Some(said),
                    _ = self.death() => None,
                };
                self.notices = Some(notices);
                if let Some(said) = said {
                    return Event::Notice(said);
                }
            }
            tokio::select! {
                death = self.death() => return Event::Ended(death.how),
                () = Self::kill_is_due(kill_at) => {
                    self.signal("SIGKILL").await;
                    self.kill_at = None;
                }
            }
        }
    }

    async fn stack(&mut self) -> Vec<String> {
        let Some(mut notices) = self.notices.take() else { return Vec::new() };
        let signal = STACK_SIGNAL.as_raw().to_string();
        // One that has stopped itself goes on.
        let asking = async { tokio::join!(self.signal(&signal), self.signal("SIGCONT")) };
        let (written, _) = tokio::join!(notices.stack(), asking);
        self.notices = Some(notices);
        let seen = [SITE_DIR.into()];
        let places = stack_trace::places((Path::new(APP_DIR), &seen), (Path::new(NOWHERE), &[NOWHERE.into()]));
        let lines = tokio::task::spawn_blocking(move || stack_trace::traceback(&written, &places)).await;
        lines.unwrap_or_default()
    }

    async fn stop(&mut self, grace: Duration) {
        if self.kill_at.is_none() {
            self.signal("SIGTERM").await;
        }
        self.kill_at = Some(Instant::now() + grace);
    }

    async fn is_out_of_memory(&mut self) -> bool {
        self.died.is_some_and(|death| death.is_out_of_memory)
    }

    async fn finish(mut self) -> Option<Notice> {
        if self.died.is_none() {
            self.signal("SIGKILL").await;
            let _ = timeout(END, self.death()).await;
        }
        if timeout(LOG_END, &mut self.follower).await.is_err() {
            self.follower.abort();
        }
        let late = match &mut self.notices {
            Some(notices) => timeout(LOG_END, notices.next()).await.ok(),
            None => None,
        };
        self.watch.abort();
        self.place.remove().await;
        late
    }
}

/// Waits until the agent's container ends, or that of its network, without which it is of no use.
async fn first_death(daemon: &Daemon, agent: &str, network: &str) -> Death {
    tokio::select! {
        biased;
        death = daemon.death(agent) => death,
        _ = daemon.death(network) => {
            let lost = Ended::Lost("the container of its network ended");
            Death { how: lost, is_out_of_memory: false }
        }
    }
}
