//! The progress of a deployment as text: one line for each event, the same in a terminal and in a CI log.

use super::output::harmless;
use serde_json::Value;
use std::io::{self, IsTerminal, Write};

/// Prints the changes between two states of a deployment.
pub struct ProgressPrinter {
    out: Box<dyn Fn(&str) + Send>,
    colours: bool,
    begun: usize,
    ended: usize,
    waiting: bool,
    undoing: bool,
}

/// The style of a line in a terminal.
#[derive(Debug, Clone, Copy)]
enum Look {
    Plain,
    Dim,
    Good,
    Bad,
}

impl ProgressPrinter {
    /// Prints to standard error, with colours if it is a terminal and the user has not disabled them.
    pub fn on_stderr() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let colours =
            io::stderr().is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_some_and(|t| t != "dumb");
        let out = |line: &str| drop(writeln!(io::stderr(), "{line}"));
        Self { colours, ..Self::to(out) }
    }

    /// Prints plain lines to `out`.
    pub fn to(out: impl Fn(&str) + Send + 'static) -> Self {
        Self { out: Box::new(out), colours: false, begun: 0, ended: 0, waiting: false, undoing: false }
    }

    /// Prints a note that belongs to no step.
    pub fn note(&self, text: &str) {
        self.say(Look::Plain, text);
    }

    /// Prints a line of the build.
    pub fn build_line(&self, text: &str) {
        self.say(Look::Dim, format!("build   | {text}").trim_end());
    }

    /// Prints changes of the deployment's status.
    pub fn status(&mut self, seen: &Value) {
        let status = seen["status"].as_str().unwrap_or_default();
        if status == "PENDING" && !std::mem::replace(&mut self.waiting, true) {
            self.say(Look::Plain, "wait    an earlier deploy of this agent is still running");
        }
        if status == "UNDOING" && !std::mem::replace(&mut self.undoing, true) {
            self.say(Look::Bad, "undo    taking back what was done");
        }
    }

    /// Prints the change of the step at index `i`. `reused`: the step was a build whose image existed already.
    pub fn step(&mut self, i: usize, step: &Value, reused: bool) {
        let name = step["step"].as_str().unwrap_or_default();
        let status = step["status"].as_str().unwrap_or_default();
        if i >= self.begun && matches!(status, "RUNNING" | "SUCCEEDED" | "FAILED") {
            self.begun = i + 1;
            if name == "start" && status == "RUNNING" {
                self.say(Look::Plain, "start   waiting until the agent is ready");
            }
        }
        if i < self.ended || !matches!(status, "SUCCEEDED" | "FAILED") {
            return;
        }
        self.ended = i + 1;
        let took = step["duration_ms"].as_i64().map(duration);
        if status == "FAILED" {
            let after = took.map(|took| format!(" after {took}")).unwrap_or_default();
            return self.say(Look::Bad, &format!("{name:<7} failed{after}"));
        }
        let took = took.unwrap_or_default();
        let done = match name {
            // The step takes no noticeable time and has nothing to report.
            "plan" => return,
            "tools" => "registered in",
            "build" if reused => return self.say(Look::Good, "build   unchanged: the image is there already"),
            "switch" => "requests go to the new revision, in",
            _ => "done in",
        };
        self.say(Look::Good, &format!("{name:<7} {done} {took}"));
    }

    /// Prints a line. Control characters are removed first, since only the printer's own colours may control a
    /// terminal.
    fn say(&self, look: Look, text: &str) {
        let text = &*harmless(text);
        let colour = match look {
            _ if !self.colours => None,
            Look::Plain => None,
            Look::Dim => Some("2"),
            Look::Good => Some("32"),
            Look::Bad => Some("31"),
        };
        match colour {
            Some(colour) => (self.out)(&format!("\x1b[{colour}m{text}\x1b[0m")),
            None => (self.out)(text),
        }
    }
}

/// Formats milliseconds for people.
pub fn duration(ms: i64) -> String {
    match ms {
        ..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;
    use std::sync::{Arc, Mutex};

    #[test]
    fn each_thing_is_told_once() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let into = told.clone();
        let mut printer = ProgressPrinter::to(move |line| into.lock().unwrap().push(line.to_owned()));
        let running = json!({"step": "start", "status": "RUNNING"});
        let build = json!({"step": "build", "status": "SUCCEEDED", "duration_ms": 3_835});
        let failed = json!({"step": "start", "status": "FAILED"});
        for step in [&running, &running, &failed, &failed] {
            printer.step(0, &build, false);
            printer.step(1, step, false);
        }
        printer.build_line("\x1b[31mred\x07");
        assert_eq!(
            *told.lock().unwrap(),
            [
                "build   done in 3.8 s",
                "start   waiting until the agent is ready",
                "start   failed",
                "build   | [31mred",
            ]
        );
    }
}
