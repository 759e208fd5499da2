//! A user namespace for a warm parent and the agents that are forked from it: a process makes it, and stays in it until
//! the supervisor has opened it.

use hoistway_confine::namespaces::{self, Kinds};
use std::io::{Result, Write};

/// Leaves for a new user namespace, says so with a line on standard output, and ends when standard input does. Its users
/// are given to it by the supervisor, or by itself: then its only one is that of this program.
pub(super) fn run(by_itself: bool) -> Result<()> {
    match by_itself {
        true => namespaces::leave_other_users()?,
        false => namespaces::leave(Kinds::NEWUSER)?,
    }
    let mut out = std::io::stdout();
    out.write_all(b"\n")?;
    out.flush()?;
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).map(drop)
}
