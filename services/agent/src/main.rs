//! The agent service as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: this program is also the launcher of its agents.
    if let Some(code) = hoistway_agent::launcher::run_if_requested() {
        return code;
    }
    eprintln!("hoistway-agent: nothing to do");
    ExitCode::from(64)
}
