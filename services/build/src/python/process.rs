//! Child processes with a time limit, a cleared environment and a process group of their own, so that whatever they
//! started ends with them.

use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, kill_process_group, pidfd_open, prlimit};
use std::{
    ffi::OsStr,
    io,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader, Interest, unix::AsyncFd},
    process::{Child, Command},
};

/// The most bytes that are read of a child's standard output.
const MAX_STDOUT: u64 = 16 << 20;
/// The most bytes of one line of a child's standard error; the rest of the line is the next one.
const MAX_LINE: u64 = 4 << 10;
/// The most lines of standard error that are kept; the middle of a longer text is dropped.
const MAX_LINES: usize = 400;

/// Gets a line while the child still runs.
pub(super) type OnLine<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The outcome of a child process.
#[derive(Debug)]
pub(super) struct Finished {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: Vec<String>,
}

/// Why there is no [`Finished`].
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("not finished after {0:?}")]
    TimedOut(Duration),
    #[error("the output is larger than {MAX_STDOUT} bytes")]
    TooMuchOutput,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A command in its own process group that inherits nothing but its arguments.
pub(super) fn command(
    program: &Path,
    env: impl IntoIterator<Item = (impl AsRef<OsStr>, impl AsRef<OsStr>)>,
) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(env).kill_on_drop(true).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    #[cfg(unix)]
    command.process_group(0);
    command
}

/// The limits of any child, whatever a package makes it do: bytes of its own memory, seconds of processor time, bytes
/// of a file.
pub(super) const MEMORY: u64 = 4 << 30;
pub(super) const CPU_SECONDS: u64 = 900;
pub(super) const FILE: u64 = 8 << 30;

/// Bounds a child that has just begun; its own children have the same.
fn confine(child: &Child) -> io::Result<()> {
    let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed())) else { return Ok(()) };
    for (resource, most) in
        [(Resource::Data, MEMORY), (Resource::Cpu, CPU_SECONDS), (Resource::Fsize, FILE), (Resource::Core, 0)]
    {
        // Never more than this process may have itself.
        let most = Some(getrlimit(resource).maximum.map_or(most, |own| own.min(most)));
        match prlimit(Some(pid), resource, Rlimit { current: most, maximum: most }) {
            // It has ended already, or has become another user, whose limits not every root may set: what becomes
            // another user sets the same limits on itself before it runs a program.
            Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => {}
            done => drop(done?),
        }
    }
    Ok(())
}

/// Runs a command to its end or kills it. Dropping the future kills it, too.
pub(super) async fn run(
    mut command: Command,
    stdin: Option<&[u8]>,
    limit: Duration,
    on_line: OnLine<'_>,
) -> Result<Finished, Failure> {
    if stdin.is_some() {
        command.stdin(Stdio::piped());
    }
    let mut group = Group(command.spawn()?);
    confine(&group.0)?;
    let child = &mut group.0;
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let (Some(mut pipe), Some(bytes)) = (input, stdin) {
            // A child that does not read to the end says why itself.
            let _ = pipe.write_all(bytes).await;
        }
    };
    let all = async {
        let ((), stdout, stderr, status) =
            tokio::join!(feed, read_output(output), read_lines(errors, on_line), ended(child));
        Ok(Finished { status: status?, stdout: stdout?, stderr: stderr? })
    };
    tokio::time::timeout(limit, all).await.map_err(|_| Failure::TimedOut(limit))?
}

/// Waits for the end of a child and ends what it has left in its group, which has its name for as long as it has not
/// been waited for.
async fn ended(child: &mut Child) -> io::Result<ExitStatus> {
    if let Some(pid) = child.id().and_then(|id| Pid::from_raw(id.cast_signed()))
        && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
    {
        // Deprecated because a descriptor could be closed or exchanged meanwhile: this one is owned and never is.
        #[allow(deprecated)]
        let process = AsyncFd::with_interest(process, Interest::READABLE)?;
        drop(process.readable().await?);
        let _ = kill_process_group(pid, Signal::KILL);
    }
    child.wait().await
}

/// Why the kernel cut a program off, and what to do; nothing where it did not. `memory` is what the build has.
pub(super) fn cut_off(status: ExitStatus, memory: Option<u64>) -> Option<String> {
    let said = match (Signal::from_named_raw(status.signal()?)?, memory) {
        (Signal::KILL, Some(bytes)) => format!(
            "it was ended for taking more memory than the {} MiB that a build may (setting max_memory_bytes of the build \
             service)",
            bytes >> 20
        ),
        (Signal::KILL, None) => "it was killed, perhaps because this machine has too little memory".to_owned(),
        (Signal::XCPU, _) => "it was ended for taking too much processor time".to_owned(),
        (Signal::XFSZ, _) => "it was ended for writing too large a file".to_owned(),
        _ => return None,
    };
    Some(said)
}

async fn read_output(pipe: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(MAX_STDOUT + 1).read_to_end(&mut out).await?;
    }
    if out.len() as u64 > MAX_STDOUT { Err(Failure::TooMuchOutput) } else { Ok(out) }
}

async fn read_lines(pipe: Option<impl AsyncRead + Unpin>, on_line: OnLine<'_>) -> Result<Vec<String>, Failure> {
    let mut kept = Vec::new();
    let Some(pipe) = pipe else { return Ok(kept) };
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line).await? == 0 {
            return Ok(kept);
        }
        let text = without_ansi(String::from_utf8_lossy(&line).trim_end());
        if text.is_empty() {
            continue;
        }
        on_line(&text);
        if kept.len() == MAX_LINES {
            kept.remove(MAX_LINES / 2);
        }
        kept.push(text);
    }
}

/// The text without terminal control sequences and other control characters.
fn without_ansi(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '\u{1b}' {
            if chars.next_if_eq(&'[').is_some() {
                while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {}
            }
        } else if c == '\t' || !c.is_control() {
            out.push(c);
        }
    }
    out
}

/// A child that takes its whole process group with it when it is dropped before its end.
pub(super) struct Group(pub Child);

impl Drop for Group {
    fn drop(&mut self) {
        // The id is there only as long as the child has not been waited for, so it cannot be another process' by now.
        #[cfg(unix)]
        if let Some(pid) = self.0.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) {
            let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Mutex;

    fn shell(script: &str) -> Command {
        let mut command = command(Path::new("/bin/sh"), [("A", "b")]);
        command.arg("-c").arg(script);
        command
    }

    #[tokio::test]
    async fn output_and_environment_are_its_own() {
        let seen = Mutex::new(Vec::new());
        let script = "cat; echo $A; printf '\\033[31mred\\033[0m\\n\\nplain' >&2; exit 3";
        let limit = Duration::from_secs(20);
        let done =
            run(shell(script), Some(b"in\n"), limit, &|l| seen.lock().unwrap().push(l.to_owned())).await.unwrap();
        assert_eq!((done.status.code(), done.stdout.as_slice()), (Some(3), &b"in\nb\n"[..]));
        assert_eq!(done.stderr, ["red", "plain"]);
        assert_eq!(*seen.lock().unwrap(), done.stderr);
    }

    #[tokio::test]
    async fn a_child_that_is_late_ends_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("pid");
        let script = format!("sleep 60 & echo $! > {}; wait", fifo.display());
        let e = run(shell(&script), None, Duration::from_millis(700), &|_| ()).await.unwrap_err();
        assert!(matches!(e, Failure::TimedOut(_)));
        let pid: i32 = std::fs::read_to_string(&fifo).unwrap().trim().parse().unwrap();
        let stat = format!("/proc/{pid}/stat");
        // Killed, and gone as soon as whoever reaps orphans here has done so.
        let alive = |text: String| !text.contains(") Z ") && text.contains("sleep");
        for _ in 0..100 {
            if !std::fs::read_to_string(&stat).is_ok_and(alive) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("{pid} still runs");
    }

    #[tokio::test]
    async fn a_child_has_resource_limits() {
        // The shell says what it has when it has been told to go on, which is after it was bounded.
        let script = "read go; ulimit -d; ulimit -t; ulimit -f; ulimit -c";
        let done = run(shell(script), Some(b"go\n"), Duration::from_secs(20), &|_| ()).await.unwrap();
        let said = String::from_utf8(done.stdout).unwrap();
        let [data, cpu, file, core] = said.lines().collect::<Vec<_>>()[..] else { panic!("{said}") };
        assert_eq!((data, cpu, core), ("4194304", "900", "0"), "{said}");
        assert_ne!(file, "unlimited");
    }

    #[tokio::test]
    async fn the_output_of_a_child_is_bounded() {
        let e = run(shell("yes"), None, Duration::from_secs(20), &|_| ()).await.unwrap_err();
        assert!(matches!(e, Failure::TooMuchOutput), "{e}");
        let lines = run(shell("seq 2000 >&2"), None, Duration::from_secs(20), &|_| ()).await.unwrap().stderr;
        assert_eq!((lines.len(), lines[0].as_str(), lines[MAX_LINES - 1].as_str()), (MAX_LINES, "1", "2000"));
    }
}
