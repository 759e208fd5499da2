//! Counts system calls of a process and all its descendants, with strace.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

const CALLS: &str = "fsync,fdatasync,write,pwrite64,writev,pwritev,clone,clone3,?fork,?vfork";

/// What was counted.
#[derive(Debug, Default, PartialEq)]
pub struct Counts {
    pub flushes: usize,
    pub processes: usize,
    /// Bytes, to files of one directory.
    pub written: u64,
}

/// A running strace.
pub struct Trace {
    strace: Child,
    out: PathBuf,
}

impl Trace {
    /// Traces a process and its descendants.
    pub fn of_all_below(pid: u32, out: &Path) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-s", "0", "-e", &format!("trace={CALLS}"), "-o"]).arg(out);
        let traced = with_descendants(pid);
        strace.args(traced.iter().flat_map(|pid| ["-p".to_owned(), pid.to_string()]));
        let mut strace = strace.stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines();
        // On standard error, strace names each process that it has attached to, or that has ended meanwhile; processes
        // that these start meanwhile are named too.
        let mut awaited: Vec<_> = traced
            .iter()
            .map(|pid| (format!("Process {pid} attached"), format!("ptrace(PTRACE_SEIZE, {pid})")))
            .collect();
        while !awaited.is_empty() {
            let line = lines.next().expect("strace did not attach").unwrap();
            awaited.retain(|(attached, ended)| !line.contains(attached.as_str()) && !line.contains(ended.as_str()));
        }
        std::thread::spawn(move || lines.for_each(drop));
        Self { strace, out: out.to_owned() }
    }

    /// Ends the trace. Written bytes are those of files below `dir`.
    pub fn end(mut self, dir: &Path) -> Counts {
        // Killed: asked to end, it could wait for ever for a process that waits for one which it has stopped (vfork).
        self.strace.kill().unwrap();
        self.strace.wait().unwrap();
        count(&std::fs::read_to_string(&self.out).unwrap(), dir)
    }
}

fn with_descendants(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().filter_map(Result::ok);
    let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children: Vec<u32> =
        children.flat_map(|text| text.split(' ').filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    std::iter::once(pid).chain(children.into_iter().flat_map(with_descendants)).collect()
}

fn count(text: &str, dir: &Path) -> Counts {
    let (mut counts, mut begun) = (Counts::default(), HashMap::new());
    let dir = format!("<{}/", dir.display());
    for line in text.lines() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(beginning) = rest.strip_suffix("<unfinished ...>") {
            begun.insert(pid, beginning);
            continue;
        }
        let resumed = rest.split_once("resumed>").and_then(|(_, end)| Some(format!("{}{end}", begun.remove(pid)?)));
        let call = resumed.as_deref().unwrap_or(rest);
        let result = call.rsplit_once(" = ").and_then(|(_, result)| result.split(' ').next()?.parse::<u64>().ok());
        match (call.split('(').next(), result) {
            (Some("fsync" | "fdatasync"), _) => counts.flushes += 1,
            (Some("clone" | "clone3" | "fork" | "vfork"), Some(_)) if !call.contains("CLONE_THREAD") => {
                counts.processes += 1
            }
            (Some("write" | "pwrite64" | "writev" | "pwritev"), Some(written)) if call.contains(&dir) => {
                counts.written += written
            }
            _ => {}
        }
    }
    counts
}

#[test]
fn calls_that_are_interrupted_by_others_are_counted_once() {
    let text = r#"10 write(3</d/a>, ""..., 5) = 5
11 pwrite64(4</d/b>, ""..., 7, 0 <unfinished ...>
10 write(5</other>, ""..., 9) = 9
10 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 12
11 <... pwrite64 resumed>) = 7
12 fdatasync(3</d/a> <unfinished ...>
10 clone(child_stack=NULL, flags=CLONE_CHILD_CLEARTID|SIGCHLD) = 13
12 <... fdatasync resumed>) = 0
13 write(3</d/a>, ""..., 5) = -1 ENOSPC (No space left on device)
"#;
    assert_eq!(count(text, Path::new("/d")), Counts { flushes: 1, processes: 1, written: 12 });
}
