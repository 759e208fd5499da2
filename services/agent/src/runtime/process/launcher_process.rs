//! A launcher as its supervisor sees it: a process, and the socket on which it gets orders and reports.

use crate::launcher::procfs::Process;
use crate::launcher::protocol::{Order, Report};
use crate::launcher::{client, line, send_order, title};
use crate::runtime::logs::Sink;
use crate::runtime::supervisor::Ended;
use futures_util::StreamExt;
use hoistway_model::log::LogStream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{Error, Result};
use std::os::fd::BorrowedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::codec::{FramedRead, LinesCodec};

/// The time that a launcher may take to start its agent's process: it takes milliseconds.
const LAUNCH: Duration = Duration::from_secs(30);
/// The time that a launcher may take to end what is left of its tree; only a process stuck in the kernel takes any
/// time.
pub(super) const TREE_END: Duration = Duration::from_secs(10);
/// The longest line of a launcher or a warm parent, in bytes: a package may have taken over either.
const MAX_LINE: usize = 64 << 10;

/// A launcher. Unless it hangs it ends, with everything that it has started, when this is dropped.
pub(super) struct LauncherProcess {
    pub child: Child,
    pub identity: Process,
    orders: Option<OwnedWriteHalf>,
    reports: Reports,
}

impl LauncherProcess {
    /// Starts one that waits for its first order. Its title says whose it is; `dir` is for people who look at processes.
    pub fn spawn(program: &Path, of: &str, dir: &Path, configure: impl FnOnce(&mut Command)) -> Result<Self> {
        let (child, socket) = client::spawn(program, |command| {
            command.arg0(title(of)).arg(dir);
            configure(command);
        })?;
        let identity = child.id().and_then(|pid| Process::now(i32::try_from(pid).ok()?));
        let identity = identity.ok_or_else(|| Error::other("the launcher ended at once"))?;
        socket.set_nonblocking(true)?;
        let (reports, orders) = UnixStream::from_std(socket)?.into_split();
        Ok(Self { child, identity, orders: Some(orders), reports: Reports(lines(reports)) })
    }

    /// Has what it prints, and later its agent, kept in a log.
    pub fn follow(&mut self, sink: &Sink) -> Vec<JoinHandle<()>> {
        let out = self.child.stdout.take().map(|out| tokio::spawn(sink.clone().follow(LogStream::Stdout, out)));
        let err = self.child.stderr.take().map(|err| tokio::spawn(sink.clone().follow(LogStream::Stderr, err)));
        out.into_iter().chain(err).collect()
    }

    /// Sends an order with the descriptors that it is about. A launcher that is gone does not take it.
    pub async fn order(&mut self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let Some(orders) = &mut self.orders else { return Err(Error::other("its orders have ended")) };
        let rest = match fds {
            [] => line(order)?,
            fds => send_order(orders.as_ref(), order, fds)?,
        };
        orders.write_all(&rest).await
    }

    /// Says that there are no more orders, at which it ends its tree.
    pub fn end_orders(&mut self) {
        self.orders = None;
    }

    /// Ends it with what it has started, and returns whether it could end that. Of one that was killed nothing is left: its
    /// processes end with its socket. One that does not end is killed.
    pub async fn end(mut self) -> bool {
        self.end_orders();
        match timeout(TREE_END, self.child.wait()).await {
            Ok(Ok(status)) => status.success() || status.signal().is_some(),
            _ => {
                let _ = self.child.kill().await;
                false
            }
        }
    }

    /// The process, its orders, which end when they are dropped, and its reports.
    pub fn into_parts(self) -> (Child, Option<OwnedWriteHalf>, Reports) {
        (self.child, self.orders, self.reports)
    }

    /// What it reports of the order before.
    pub async fn report(&mut self) -> Result<Report> {
        let report = timeout(LAUNCH, self.reports.next()).await;
        match report.map_err(|_| Error::other("the launcher does not answer"))? {
            Some(Report::Failed(reason)) => Err(Error::other(reason)),
            Some(Report::Exited(_)) | None => Err(Error::other("the launcher ended at once")),
            Some(report) => Ok(report),
        }
    }

    /// Waits for the end of the main process. Cancel safe.
    pub async fn ended(&mut self) -> Ended {
        self.reports.ended().await
    }

    /// Whether it has nothing to report, not even its end.
    pub fn is_quiet(&self) -> bool {
        self.orders.as_ref().is_some_and(|orders| {
            let socket = orders.as_ref();
            poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&Timespec::default())).is_ok_and(|ready| ready == 0)
        })
    }
}

/// The lines of a process that is not trusted.
pub(super) fn lines<R: AsyncRead>(reader: R) -> FramedRead<R, LinesCodec> {
    FramedRead::new(reader, LinesCodec::new_with_max_length(MAX_LINE))
}

/// The reports.
pub(super) struct Reports(FramedRead<OwnedReadHalf, LinesCodec>);

impl Reports {
    /// As [`LauncherProcess::ended`].
    pub async fn ended(&mut self) -> Ended {
        loop {
            match self.next().await {
                Some(Report::Exited(exit)) => return Ended::Exited(exit),
                Some(_) => {}
                None => return Ended::Lost("was killed together with its launcher"),
            }
        }
    }

    async fn next(&mut self) -> Option<Report> {
        serde_json::from_str(&self.0.next().await?.ok()?).ok()
    }
}
