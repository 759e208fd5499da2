//! The imports of source files, and whether they compile, found by a Python process that only parses.
//!
//! One worker is started when the first file comes, takes one file at a time, and ends when it has had nothing to do
//! for a while or when the service ends. Whatever a file does to the parser hits that process only.

mod remembered;
mod syntax_errors;

use super::{
    Interpreter, Sandbox, Target,
    process::Group,
    reachable_files::ReachableFiles,
    sandbox::{self, Role},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use hoistway_model::{Code, Digest, Error, Result, digest::Hasher, source::SourceFiles};
use remembered::Remembered;
use serde::{Deserialize, Deserializer, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    io,
    path::PathBuf,
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};
use syntax_errors::{Fault, syntax_error};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{ChildStdin, ChildStdout},
    time::Instant,
};

/// The worker's program.
const SCRIPT: &str =
    concat!(include_str!("../../../runner/_hoistway_runner/discovery.py"), "\n\n", include_str!("analyser.py"));
/// The time that one file may take; the worker's own limit of processor time is shorter.
const LIMIT: Duration = Duration::from_secs(20);
/// The time for which a worker without work is kept.
const IDLE: Duration = Duration::from_secs(300);
/// The longest answer in bytes.
const MAX_ANSWER: u64 = 4 << 20;
/// A worker that parsed a larger file is not kept, because it would keep the memory, too.
const MAX_KEPT: usize = 512 << 10;

/// One import statement's module.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "(String, u32, bool)")]
pub struct Import {
    /// The dotted name; of `from a import b` it is `a.b`, because `b` may be a module. A relative one begins with dots.
    pub module: String,
    /// The line.
    pub line: u32,
    /// Whether the program goes on without it: the statement is in a `try` that catches `ImportError`.
    pub optional: bool,
}

impl From<(String, u32, bool)> for Import {
    fn from((module, line, optional): (String, u32, bool)) -> Self {
        Self { module, line, optional }
    }
}

/// The imports of one file, in the file's order; imports for type checkers are left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileImports {
    /// The file.
    pub file: String,
    /// Its imports.
    pub imports: Arc<[Import]>,
    /// Whether the entry point reaches it by imports. Other files are only mentioned, as programs that it may start.
    pub reached: bool,
    /// The reason why its imports are not known, if they are not: it may be for a newer Python than the host's.
    pub unread: Option<Unread>,
}

/// The place at which the host's Python stops reading a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The line.
    pub line: u32,
    /// The host's words for it.
    pub message: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Found(Found),
    Error(Fault),
    /// The message about an entry file that offers nothing to invoke.
    Offers(Option<(String, Vec<String>)>),
}

/// The needs of a file.
#[derive(Debug, Clone, Deserialize)]
struct Found {
    #[serde(deserialize_with = "shared")]
    imports: Arc<[Import]>,
    /// Paths of Python files and, after `-m `, names of modules.
    #[serde(deserialize_with = "shared")]
    mentions: Arc<[String]>,
}

/// A file's bytes as JSON has them.
#[derive(Serialize)]
#[serde(untagged)]
enum Content<'a> {
    Text(&'a str),
    Binary { base64: String },
}

impl<'a> Content<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text),
            Err(_) => Self::Binary { base64: STANDARD.encode(bytes) },
        }
    }
}

/// A file as an older Python than the host's reads it.
#[derive(Serialize)]
struct Older<'a> {
    source: Content<'a>,
    minor: u32,
}

/// Whether an entry file offers anything.
#[derive(Serialize)]
struct Offers<'a> {
    entry: &'a str,
    source: Content<'a>,
    own: &'a BTreeSet<String>,
}

fn shared<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Arc<[T]>, D::Error> {
    Vec::deserialize(from).map(Arc::from)
}

/// Why a file has no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("parsing takes too long")]
    TimedOut,
    #[error("the parser ended while parsing it")]
    Ended,
    #[error("the answer cannot be read: {0}")]
    Garbled(#[from] serde_json::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Asks the worker. Cheap to clone; the clones share worker and memory.
#[derive(Debug, Clone)]
pub struct Analyser {
    shared: Arc<Inner>,
    target: Target,
}

#[derive(Debug)]
struct Inner {
    python: PathBuf,
    sandbox: Sandbox,
    limit: Duration,
    worker: tokio::sync::Mutex<Option<Worker>>,
    remembered: Mutex<Remembered>,
}

impl Analyser {
    /// No process is started yet.
    pub fn new(interpreter: &Interpreter, sandbox: Sandbox) -> Self {
        Self::with_limit(interpreter, sandbox, LIMIT)
    }

    fn with_limit(interpreter: &Interpreter, sandbox: Sandbox, limit: Duration) -> Self {
        let shared = Arc::new(Inner {
            python: interpreter.executable.clone(),
            sandbox,
            limit,
            worker: tokio::sync::Mutex::default(),
            remembered: Mutex::default(),
        });
        Self { shared, target: Target::host(interpreter) }
    }

    /// The same worker, judging files that are to run with another Python.
    pub fn for_target(&self, target: &Target) -> Self {
        Self { shared: Arc::clone(&self.shared), target: target.clone() }
    }

    /// Starts the worker if it does not run, so that the first build need not wait for it.
    pub async fn warm_up(&self) -> Result<()> {
        self.ask(&"").await.map(|_| ()).map_err(|e| Error::internal("starting the source analyser", e))
    }

    /// The imports of the entry file and of the files that it reaches, by file; no others are read. Files that are
    /// imported and do not compile are [`Code::SyntaxError`], all of them in one answer, unless they are to run with a
    /// newer Python than the host's, which may well read them.
    pub async fn analyse(&self, files: &SourceFiles, entry: &str) -> Result<Vec<FileImports>> {
        let reachable = ReachableFiles::new(files, entry);
        let (mut all, mut faults) = (BTreeMap::new(), BTreeMap::new());
        // Imported files come first: a file that is only mentioned may turn out to be imported.
        let (mut imported, mut mentioned) = (reachable.entry(), Vec::new());
        let mut queued = HashSet::new();
        while let Some((file, reached)) =
            imported.pop().map(|file| (file, true)).or_else(|| mentioned.pop().map(|file| (file, false)))
        {
            let Some(content) = files.get(&file).filter(|_| !all.contains_key(&file) && !faults.contains_key(&file))
            else {
                continue;
            };
            let answer = match self.about(content, &file).await {
                // It may be no program at all.
                Err(_) if !reached => continue,
                answer => answer?,
            };
            match answer {
                Answer::Found(Found { imports, mentions }) => {
                    // A module that a program goes on without, or never imports here, need not compile or have its
                    // packages.
                    let onward = imports.iter().flat_map(|import| {
                        let found = reachable.imported(&file, &import.module);
                        let elsewhere = if found.is_empty() { reachable.elsewhere(&import.module) } else { Vec::new() };
                        let found = found.into_iter().map(|file| (file, reached && !import.optional));
                        found.chain(elsewhere.into_iter().map(|file| (file, false)))
                    });
                    let named = mentions.iter().flat_map(|mention| reachable.mentioned(&file, mention));
                    let all_named = onward.chain(named.map(|file| (file, false)));
                    for (file, reached) in all_named {
                        if queued.insert((file.clone(), reached)) {
                            if reached { &mut imported } else { &mut mentioned }.push(file);
                        }
                    }
                    // Answers that are remembered come without a pause, and there may be many.
                    tokio::task::yield_now().await;
                    all.insert(file.clone(), FileImports { file, imports, reached, unread: None });
                }
                Answer::Error(fault) if reached && self.is_newer() && fault.remedy().is_none() => {
                    let unread = Some(Unread { line: fault.line, message: fault.message });
                    all.insert(file.clone(), FileImports { file, imports: Arc::default(), reached, unread });
                }
                Answer::Error(fault) if reached => drop(faults.insert(file, fault)),
                _ => {}
            }
        }
        let faults: Vec<_> = faults.iter().map(|(file, fault)| (file.as_str(), fault.clone())).collect();
        if faults.is_empty() {
            Ok(all.into_values().collect())
        } else {
            Err(syntax_error(&faults, self.target.full_version()))
        }
    }

    /// Whether files are to run with a newer Python than the one that reads them.
    fn is_newer(&self) -> bool {
        self.target.version() > self.target.interpreter().version
    }

    async fn about(&self, content: &[u8], file: &str) -> Result<Answer> {
        let (version, host) = (self.target.version(), self.target.interpreter().version);
        let source = Content::of(content);
        if version >= host {
            return self.remembered_or_asked(Digest::of(content), &source, file).await;
        }
        let mut identity = Hasher::new();
        for part in [self.target.python().as_bytes(), content] {
            identity.member(part);
        }
        self.remembered_or_asked(identity.finish(), &Older { source, minor: version.1 }, file).await
    }

    /// Refuses an entry file that offers nothing to invoke, as far as its text alone tells: [`Code::NothingToInvoke`].
    pub async fn must_offer(&self, files: &SourceFiles, entry: &str, own: &BTreeSet<String>) -> Result<()> {
        let source = files.get(entry).unwrap_or_default();
        let mut identity = Hasher::new();
        for part in own.iter().map(String::as_bytes).chain([source, entry.as_bytes()]) {
            identity.member(part);
        }
        let question = Offers { entry, source: Content::of(source), own };
        match self.remembered_or_asked(identity.finish(), &question, entry).await? {
            Answer::Offers(Some((text, details))) => Err(Error::new(Code::NothingToInvoke, text).with_details(details)),
            _ => Ok(()),
        }
    }

    async fn remembered_or_asked<Q: Serialize>(&self, identity: Digest, question: &Q, file: &str) -> Result<Answer> {
        let remembered = self.shared.remembered().get(&identity);
        if let Some(answer) = remembered {
            return Ok(answer);
        }
        let answer = self.ask(question).await.map_err(|e| unparsable(file, e))?;
        self.shared.remembered().put(identity, answer.clone());
        Ok(answer)
    }

    async fn ask<Q: Serialize>(&self, question: &Q) -> Result<Answer, Failure> {
        let question = serde_json::to_vec(question)?;
        let size = question.len();
        let mut slot = self.shared.worker.lock().await;
        // Out of its place while it works: if this call is dropped half-way, the worker goes with it instead of
        // answering the next question with this one's answer.
        let mut worker = match slot.take() {
            Some(worker) => worker,
            None => Worker::start(&self.shared).await?,
        };
        let answer =
            tokio::time::timeout(self.shared.limit, worker.ask(question)).await.map_err(|_| Failure::TimedOut)??;
        if size <= MAX_KEPT {
            worker.last_used = Instant::now();
            *slot = Some(worker);
        }
        Ok(answer)
    }
}

impl Inner {
    fn remembered(&self) -> MutexGuard<'_, Remembered> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unparsable(file: &str, failure: Failure) -> Error {
    match failure {
        Failure::Io(e) => Error::internal("starting the source analyser", e),
        other => Error::new(Code::BuildFailed, format!("{file} cannot be analysed: {other}")),
    }
}

/// The running process.
#[derive(Debug)]
struct Worker {
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    last_used: Instant,
    _process: Process,
    /// Its control group ends with it.
    _children: Sandbox,
}

/// Only there to end the process when the worker is dropped.
struct Process(#[allow(dead_code, reason = "held for its Drop")] Group);

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Process")
    }
}

impl Worker {
    async fn start(inner: &Arc<Inner>) -> io::Result<Self> {
        let sandbox = inner.sandbox.for_build().await.map_err(io::Error::other)?;
        let env = [("PYTHONDONTWRITEBYTECODE", "1")];
        let access = sandbox::FileAccess { lasting: true, ..sandbox::FileAccess::default() };
        let mut command = sandbox.command(&inner.python, env, Role::Reader, &access)?;
        command.args(["-I", "-S", "-c", SCRIPT]).stdin(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::Error::other("the child has no pipes"));
        };
        tokio::spawn(end_when_idle(Arc::downgrade(inner)));
        let (stdout, last_used) = (BufReader::new(stdout), Instant::now());
        Ok(Self { stdin, stdout, last_used, _process: Process(Group(child)), _children: sandbox })
    }

    async fn ask(&mut self, mut request: Vec<u8>) -> Result<Answer, Failure> {
        request.push(b'\n');
        if self.stdin.write_all(&request).await.is_err() {
            return Err(Failure::Ended);
        }
        let mut answer = Vec::new();
        (&mut self.stdout).take(MAX_ANSWER).read_until(b'\n', &mut answer).await?;
        if answer.last() != Some(&b'\n') {
            return Err(Failure::Ended);
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}

/// Ends the worker once it has been idle; one such task lives as long as its worker does, or a little longer.
async fn end_when_idle(inner: Weak<Inner>) {
    let mut wake = Instant::now() + IDLE;
    loop {
        tokio::time::sleep_until(wake).await;
        let Some(inner) = inner.upgrade() else { return };
        let mut slot = inner.worker.lock().await;
        match slot.as_ref().map(|worker| worker.last_used + IDLE) {
            Some(later) if later > Instant::now() => wake = later,
            _ => {
                *slot = None;
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests;
