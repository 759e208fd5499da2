//! The cancellation token of a process, which all its tasks watch.

use hoistway_model::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit status after a second signal, which skips the drain.
const IMPATIENT: i32 = 130;

/// Returns a token that the first SIGINT or SIGTERM cancels; the second one ends the process at once.
///
/// Called once, by `main`, inside the runtime.
pub fn on_signals() -> Result<CancellationToken> {
    let listen = |kind| signal(kind).map_err(|e| Error::internal("listening to signals", e));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            let name = tokio::select! {
                _ = interrupt.recv() => "SIGINT",
                _ = terminate.recv() => "SIGTERM",
            };
            if first {
                tracing::info!("{name}: shutting down; once more ends the process at once");
                cancelled.cancel();
            }
        }
        std::process::exit(IMPATIENT);
    });
    Ok(token)
}

/// Runs one of several interdependent parts: when it ends, `token` is cancelled for the rest.
pub async fn part<T>(token: &CancellationToken, part: impl Future<Output = T>) -> T {
    let output = part.await;
    token.cancel();
    output
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use rustix::process::{Signal, getpid, kill_process};

    #[tokio::test]
    async fn the_first_signal_cancels() {
        let token = super::on_signals().unwrap();
        assert!(!token.is_cancelled());
        kill_process(getpid(), Signal::TERM).unwrap();
        token.cancelled().await;
    }
}
