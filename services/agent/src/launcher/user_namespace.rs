//! The user namespaces of a warm parent and of the agents that are forked from it: a process makes them, and stays in them
//! until the supervisor has opened them.

use hoistway_confine::namespaces::{self, Kinds};
use std::io::{Read, Result, Write};

/// Leaves for a new user namespace, says so with a byte on standard output, and ends when standard input does. Its users are
/// given to it by the supervisor. With `by_itself` it has the user of this program alone, and after a byte on standard input
/// comes a second one inside it, which is announced in the same way.
pub(super) fn run(by_itself: bool) -> Result<()> {
    match by_itself {
        true => namespaces::leave_other_users()?,
        false => namespaces::leave(Kinds::NEWUSER)?,
    }
    announce()?;
    let mut input = std::io::stdin();
    if by_itself {
        input.read_exact(&mut [0])?;
        namespaces::leave_other_users()?;
        announce()?;
    }
    std::io::copy(&mut input, &mut std::io::sink()).map(drop)
}

fn announce() -> Result<()> {
    let mut out = std::io::stdout();
    out.write_all(b"\n")?;
    out.flush()
}
