//! One run of an instance: the agent's container and that of its network, until both are gone.

use super::daemon::{Daemon, Death};
use super::runs::RunPlace;
use crate::launcher::protocol::STACK_SIGNAL;
use crate::runtime::network::AgentNetwork;
use crate::runtime::notices::{Notice, Notices};
use crate::runtime::stack_trace::{self, Stack};
use crate::runtime::supervisor::{Ended, Event, Run};
use std::collections::HashMap;
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
/// The time that the daemon may take to hand out the files of a stack.
const SOURCES: Duration = Duration::from_secs(5);

/// A started agent.
pub(super) struct ContainerRun {
    place: RunPlace,
    /// The runner's message; none if its container ended before the runner could say anything.
    notices: Option<Notices<TcpStream>>,
    network: Option<Arc<AgentNetwork>>,
    /// Serves the agent's egress until it is dropped.
    _egress: DropGuard,
    follower: JoinHandle<()>,
    watch: Watch,
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
        let task = tokio::spawn(async move { first_death(&daemon, &agent, &net).await });
        let watch = Watch { task, death: None };
        Self { place, notices, network, _egress: egress, follower, watch, kill_at: None }
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
            tokio::select! {
                biased;
                notice = notice(&mut self.notices), if awaits_notice => return Event::Notice(notice),
                death = self.watch.death() => return Event::Ended(death.how),
                () = due(kill_at) => {}
            }
            self.signal("SIGKILL").await;
            self.kill_at = None;
        }
    }

    async fn stack(&mut self) -> Vec<String> {
        let (daemon, signal) = (self.place.daemon(), STACK_SIGNAL.as_raw().to_string());
        let Some(notices) = &mut self.notices else { return Vec::new() };
        let asking = async {
            daemon.signal(self.place.agent(), &signal).await;
            // One that has stopped itself goes on.
            daemon.signal(self.place.agent(), "SIGCONT").await;
        };
        let (written, ()) = tokio::join!(notices.stack(), asking);
        let stack = Stack::parse(&written, &stack_trace::places_in_container());
        let mut contents = HashMap::new();
        let reading = async {
            for file in stack.files() {
                let content = daemon.file(self.place.agent(), &file.in_image, stack_trace::MAX_SOURCE).await;
                contents.extend(content.map(|content| (file, content)));
            }
        };
        // Without them there are the frames still.
        let _ = timeout(SOURCES, reading).await;
        stack.traceback(&contents)
    }

    async fn stop(&mut self, grace: Duration) {
        if self.kill_at.is_none() {
            self.signal("SIGTERM").await;
        }
        self.kill_at = Some(Instant::now() + grace);
    }

    async fn is_out_of_memory(&mut self) -> bool {
        self.watch.death.is_some_and(|death| death.is_out_of_memory)
    }

    async fn finish(mut self) -> Option<Notice> {
        if self.watch.death.is_none() {
            self.signal("SIGKILL").await;
            let _ = timeout(END, self.watch.death()).await;
        }
        if timeout(LOG_END, &mut self.follower).await.is_err() {
            self.follower.abort();
        }
        let late = match &mut self.notices {
            Some(notices) => timeout(LOG_END, notices.next()).await.ok(),
            None => None,
        };
        self.place.remove().await;
        late
    }
}

/// The task that waits for the end of a run's containers.
struct Watch {
    task: JoinHandle<Death>,
    death: Option<Death>,
}

impl Watch {
    /// Waits for the end. Cancel safe.
    async fn death(&mut self) -> Death {
        if let Some(death) = self.death {
            return death;
        }
        let lost = Death { how: Ended::Lost("its container is lost"), is_out_of_memory: false };
        let death = (&mut self.task).await.unwrap_or(lost);
        self.death = Some(death);
        death
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The runner's notice, for ever where there will be none. Cancel safe.
async fn notice(notices: &mut Option<Notices<TcpStream>>) -> Notice {
    match notices {
        Some(notices) => notices.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until the time for a stop is over, for ever where there is none.
async fn due(kill_at: Option<Instant>) {
    match kill_at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Waits until the agent's container ends, or that of its network, without which it is of no use.
async fn first_death(daemon: &Daemon, agent: &str, network: &str) -> Death {
    tokio::select! {
        biased;
        death = daemon.death(agent) => death,
        death = daemon.death(network) => {
            let how = match death.how {
                Ended::Exited(_) => Ended::Lost("the container of its network ended"),
                lost @ Ended::Lost(_) => lost,
            };
            Death { how, is_out_of_memory: false }
        }
    }
}
