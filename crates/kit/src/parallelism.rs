//! How much work that needs a processor is done at a time.

use std::thread::available_parallelism;

/// More threads than this for one piece of work take processors from everything else on a large machine.
const MAX_WORKERS: usize = 4;

/// The number of threads, or of processes, that share one piece of work which needs nothing but processors: 1 to 4.
pub fn workers() -> usize {
    available_parallelism().map_or(1, usize::from).min(MAX_WORKERS)
}
