//! What an agent's container writes, on its way to the agent's log.

use super::daemon::Daemon;
use crate::runtime::logs::Sink;
use bollard::container::LogOutput;
use bollard::errors::Error;
use futures_util::{Stream, StreamExt};
use hoistway_model::log::LogStream;
use std::sync::Arc;
use tokio::io::{AsyncWriteExt, SimplexStream, WriteHalf, simplex};
use tokio::task::JoinHandle;

/// The bytes of each stream that wait to be read: as many as a pipe holds.
const WAITING: usize = 64 << 10;

/// Follows both streams of a container from now on, also over an absence of the daemon. The task ends when they do.
pub(super) async fn follow(daemon: &Arc<Daemon>, id: &str, sink: &Sink) -> Result<JoinHandle<()>, Error> {
    let mut output = daemon.output(id).await?;
    let (daemon, id, sink) = (Arc::clone(daemon), id.to_owned(), sink.clone());
    Ok(tokio::spawn(async move {
        let (stdout, mut out) = simplex(WAITING);
        let (stderr, mut err) = simplex(WAITING);
        let stdout = sink.clone().follow(LogStream::Stdout, stdout);
        let stderr = sink.follow(LogStream::Stderr, stderr);
        let reading = async move {
            divide(&mut output, &mut out, &mut err).await;
            while daemon.is_running(&id).await
                && let Ok(mut again) = daemon.output(&id).await
            {
                divide(&mut again, &mut out, &mut err).await;
            }
            let _ = tokio::join!(out.shutdown(), err.shutdown());
        };
        tokio::join!(reading, stdout, stderr);
    }))
}

/// Writes the pieces of an output each to its stream, waiting where one is slow, as a pipe would.
async fn divide(
    output: &mut (impl Stream<Item = Result<LogOutput, Error>> + Unpin),
    stdout: &mut WriteHalf<SimplexStream>,
    stderr: &mut WriteHalf<SimplexStream>,
) {
    while let Some(Ok(piece)) = output.next().await {
        let written = match piece {
            LogOutput::StdErr { message } => stderr.write_all(&message).await,
            LogOutput::StdOut { message } | LogOutput::Console { message } => stdout.write_all(&message).await,
            LogOutput::StdIn { .. } => Ok(()),
        };
        if written.is_err() {
            return;
        }
    }
}
