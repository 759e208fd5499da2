//! Signals as something that can be polled.

use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use std::io::{Read, Result};
use std::os::unix::net::UnixStream;

/// The signals that ask to end.
pub(super) const ENDING: [i32; 4] = [SIGTERM, SIGINT, SIGHUP, SIGQUIT];

/// A pipe that is readable once one of the signals came.
pub(super) fn listen(numbers: &[i32]) -> Result<UnixStream> {
    let (read, write) = UnixStream::pair()?;
    read.set_nonblocking(true)?;
    for &number in numbers {
        signal_hook::low_level::pipe::register(number, write.try_clone()?)?;
    }
    Ok(read)
}

/// Empties the pipe, so that it is readable again with the next signal.
pub(super) fn drain(mut pipe: &UnixStream) {
    let mut bytes = [0; 64];
    while matches!(pipe.read(&mut bytes), Ok(n) if n > 0) {}
}
