//! Whether agents use something that is to be deleted.

use hoistway_model::{Code, Error, Name, Result, agent::Agent};

/// The most agents that a refusal names.
const SHOWN: usize = 10;

/// A refusal that names them, unless there are none. A deploy that comes at the same moment is not seen: it may go on
/// with what has just been deleted, as it would had it come a moment earlier.
pub fn none<'a>(kind: &str, name: &Name, users: impl Iterator<Item = &'a Agent>) -> Result<()> {
    let users: Vec<String> = users.map(|agent| format!("\"{}\"", agent.name)).collect();
    let agents = match users.as_slice() {
        [] => return Ok(()),
        [one] => format!("the agent {one}"),
        some if some.len() <= SHOWN => format!("the agents {}", some.join(", ")),
        many => format!("the agents {} and {} more", many[..SHOWN].join(", "), many.len() - SHOWN),
    };
    Err(Error::new(Code::Conflict, format!("{kind} \"{name}\" is used by {agents}")))
}
