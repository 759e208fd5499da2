//! Packages by `uv`: requirements become a lock with hashes, a lock becomes a directory. Wheels only, because a source
//! distribution runs its own code while it is built.

mod cache;
mod failure;
mod index;
mod lock;
mod settings;
mod tool;
mod unpacked_wheels;

pub use failure::{is_gone, is_unsatisfiable};
pub use index::Indexes;
pub use lock::Lock;

use super::{
    Interpreter, Sandbox, Target,
    process::{self, Finished},
    sandbox::Role,
};
use failure::{Doing, WithoutWheel};
use hoistway_model::{
    Code, Error, Result,
    redact::Masker,
    source::{Requirement, Requirements},
};
use settings::Settings;
use std::{
    collections::HashMap,
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::sync::{OnceCell, OwnedRwLockReadGuard, RwLock};
use tool::Program;

/// The number of threads that one uv unpacks with.
const THREADS: &str = "4";
/// The name of a file with a lock.
const LOCK: &str = "lock.txt";
/// The time that it may take to see whether a package has wheels at all.
const LOOK: Duration = Duration::from_secs(30);
/// The name of a file with bounds for versions.
const CONSTRAINTS: &str = "constraints.txt";

fn lines<'a>(requirements: impl Iterator<Item = &'a Requirement>) -> String {
    requirements.flat_map(|requirement| [requirement.line.as_str(), "\n"]).collect()
}

/// One call of uv: what for, with what arguments and standard input, and the directory it may write to beside its
/// cache.
struct Call<'a> {
    doing: Doing,
    arguments: Vec<&'a OsStr>,
    input: &'a [u8],
    writes: Option<&'a Path>,
}

/// How files come from the cache into a directory of packages.
#[derive(Clone, Copy)]
enum LinkMode {
    Copy,
    Symlink,
}

/// Keeps what is in the cache there.
pub type CacheUse = OwnedRwLockReadGuard<()>;

/// Gets log lines while the work goes on; credentials in addresses are masked.
pub type Report<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// The driver. Clones share everything, and look for `uv` once.
#[derive(Debug, Clone)]
pub struct Uv {
    data: PathBuf,
    settings: Settings,
    /// Knows the passwords of the operator's indexes.
    masker: Arc<Masker>,
    program: Arc<OnceCell<Program>>,
    /// Whether it is being installed before anybody needs it.
    preinstalling: Arc<AtomicBool>,
    /// Shared by every use of the cache; whoever empties it has it alone.
    cache: Arc<RwLock<()>>,
    sandbox: Sandbox,
}

impl Uv {
    /// A driver that keeps tools and caches below `data` and passes on the configured indexes and what the operator's
    /// environment says about index, proxy and certificates, and nothing else of it.
    pub fn new(data: &Path, indexes: &Indexes, sandbox: Sandbox) -> Result<Self> {
        indexes.check()?;
        Ok(Self::with(data, Settings::of(env::vars()).with(indexes), sandbox))
    }

    fn with(data: &Path, settings: Settings, sandbox: Sandbox) -> Self {
        let masker = Arc::new(Masker::new(&settings.secrets()));
        Self {
            data: data.to_owned(),
            settings,
            masker,
            program: Arc::default(),
            preinstalling: Arc::default(),
            cache: Arc::default(),
            sandbox,
        }
    }

    /// The same with a control group for one build.
    pub async fn for_build(&self) -> Result<Self> {
        Ok(Self { sandbox: self.sandbox.for_build().await?, ..self.clone() })
    }

    /// Starts programs.
    pub fn sandbox(&self) -> &Sandbox {
        &self.sandbox
    }

    /// Whether packages could be installed at all; the error says in one line what is missing. Starts nothing.
    pub fn available(&self, interpreter: &Interpreter) -> Result<()> {
        if interpreter.pip.is_some() || tool::on_path().next().is_some() || tool::installed(&self.data).is_file() {
            return Ok(());
        }
        let python = interpreter.executable.display();
        let message =
            format!("packages cannot be installed: neither uv nor pip (of {python}) was found; install either");
        Err(Error::new(Code::RequirementFailed, message))
    }

    /// Finds uv and its settings, and installs it where there is none yet, so that the first build does not wait for it.
    /// If that fails, the first build tries again and tells why.
    pub async fn preinstall(&self, interpreter: &Interpreter) {
        let own = tool::installed(&self.data);
        let (is_on_path, had_own) = (tool::on_path().next().is_some(), own.is_file());
        if !is_on_path && !had_own && interpreter.pip.is_none() {
            return;
        }
        self.preinstalling.store(!is_on_path && !had_own, Ordering::Release);
        let found = self.program(interpreter, &|_| ()).await;
        self.preinstalling.store(false, Ordering::Release);
        match found {
            Ok(found) if found.path == own && !had_own => tracing::info!("installed uv {}", tool::VERSION),
            Ok(found) => tracing::debug!(path = %found.path.display(), "found uv"),
            Err(e) => {
                let remedy =
                    "install uv on PATH, or let pip reach an index that has it (PIP_INDEX_URL, pip.conf, HTTPS_PROXY)";
                let off = "HOISTWAY_BUILD_PREINSTALL_UV=false turns the attempt at start off";
                tracing::warn!("{e}. A build that needs packages tries again, and fails without uv: {remedy}; {off}");
                e.details.iter().for_each(|line| tracing::info!("pip: {line}"));
            }
        }
    }

    /// Removes what a killed process left of an installation of uv. Blocks; nobody else may be installing it.
    pub fn remove_leftovers(&self) {
        tool::remove_leftovers(&self.data);
    }

    /// Resolves requirements for a target; versions of a `former` lock are kept where they still fit. `limit` is
    /// for the whole call.
    pub async fn resolve(
        &self,
        requirements: &Requirements,
        former: Option<&Lock>,
        target: &Target,
        limit: Duration,
        report: Report<'_>,
    ) -> Result<Lock> {
        let began = Instant::now();
        match self.try_resolve(requirements, former, target, limit, report).await {
            Ok(lock) => Ok(lock),
            Err(error) => {
                let left = limit.saturating_sub(began.elapsed()).min(LOOK);
                Err(self.with_other_version(error, requirements, target, left).await)
            }
        }
    }

    /// As [`Self::resolve`], but an error does not name the version that has a wheel: nobody sees it when all is
    /// resolved after that.
    pub async fn try_resolve(
        &self,
        requirements: &Requirements,
        former: Option<&Lock>,
        target: &Target,
        limit: Duration,
        report: Report<'_>,
    ) -> Result<Lock> {
        let options = ["--generate-hashes", "--no-header", "--no-annotate"];
        // uv prefers what is in the file that it is to write.
        let former = former.map(|lock| (LOCK, lock.text().to_owned()));
        let constraints = lines(requirements.constraints());
        let constraints = (!constraints.is_empty()).then_some((CONSTRAINTS, constraints));
        let files: Vec<_> = former.into_iter().chain(constraints).collect();
        let dir = if files.is_empty() { None } else { Some(self.written(files.clone()).await?) };
        let paths: Vec<_> =
            dir.iter().flat_map(|dir| files.iter().map(|(name, _)| (*name, dir.path().join(name)))).collect();
        let option = |name| OsStr::new(if name == LOCK { "--output-file" } else { "--constraint" });
        let given = paths.iter().flat_map(|(name, path)| [option(*name), path.as_os_str()]);
        let arguments = ["compile", "-"].into_iter().chain(options).map(OsStr::new).chain(given).collect();
        let input = lines(requirements.iter());
        let call =
            Call { doing: Doing::Resolve, arguments, input: input.as_bytes(), writes: dir.as_ref().map(TempDir::path) };
        let done = self.run(call, target, limit, report).await?;
        // uv resolves without checking the hashes in its input.
        Lock::parse(&String::from_utf8_lossy(&done.stdout))?.with_hashes(&requirements.hashes())
    }

    /// The error with the version that does have a wheel, where those that are requested have none.
    async fn with_other_version(
        &self,
        mut error: Error,
        requirements: &Requirements,
        target: &Target,
        limit: Duration,
    ) -> Error {
        let found = WithoutWheel::of(&error.details).filter(|found| found.may_have_others);
        let Some(WithoutWheel { package, .. }) = found else { return error };
        let arguments = ["compile", "-", "--no-deps", "--no-header", "--no-annotate"].map(OsStr::new).to_vec();
        let call = Call { doing: Doing::Resolve, arguments, input: package.as_bytes(), writes: None };
        let Ok(done) = self.run(call, target, limit, &|_| ()).await else { return error };
        let answer = String::from_utf8_lossy(&done.stdout);
        let pin = format!("{package}==");
        let Some(version) = answer.lines().find_map(|line| line.strip_prefix(&pin)) else { return error };
        let mut lines = requirements.iter().chain(requirements.constraints());
        let is_bound = lines.any(|line| line.name == package && line.names_versions());
        let remedy = match is_bound {
            true => ": leave the version out".to_owned(),
            false => format!(", and another version of what needs {package} may take it"),
        };
        error.message.push_str(&format!("; {package} {version} has one{remedy}"));
        error
    }

    /// Installs what a lock names, and nothing else, into a directory that [`Sandbox::make_dir`] made. `limit` is for
    /// the whole call.
    pub async fn install(
        &self,
        lock: &Lock,
        directory: &Path,
        target: &Target,
        limit: Duration,
        report: Report<'_>,
    ) -> Result<()> {
        self.install_by(LinkMode::Copy, lock, directory, target, limit, report).await
    }

    /// Has the wheels of a lock downloaded, verified and unpacked by one call, and tells by the packages' names where
    /// the cache has them, for as long as it is in use. Those that have to be installed alone are left out: they have files
    /// for other places, or cannot be in one directory with the others. `directory` is one that [`Sandbox::make_dir`]
    /// made, for nothing else.
    pub async fn fetch(
        &self,
        lock: &Lock,
        directory: &Path,
        target: &Target,
        limit: Duration,
    ) -> Result<HashMap<String, PathBuf>> {
        if let Err(e) = self.install_by(LinkMode::Symlink, lock, directory, target, limit, &|_| ()).await {
            // They are in the cache then.
            if !failure::is_of_directory(&e) {
                return Err(e);
            }
            tracing::debug!(cause = e.chain(), "wheels cannot be in one directory: {e}");
        }
        let (directory, cache) = (directory.to_owned(), self.cache());
        let finding = tokio::task::spawn_blocking(move || unpacked_wheels::find(&directory, &cache.canonicalize()?));
        let failed = |e| Error::internal("finding the wheels in the installer's cache", e);
        finding.await.map_err(|e| failed(e.into()))?.map_err(failed)
    }

    async fn install_by(
        &self,
        mode: LinkMode,
        lock: &Lock,
        directory: &Path,
        target: &Target,
        limit: Duration,
        report: Report<'_>,
    ) -> Result<()> {
        if lock.is_empty() {
            return Ok(());
        }
        let mode = match mode {
            LinkMode::Copy => "copy",
            LinkMode::Symlink => "symlink",
        };
        let options =
            ["install", "--quiet", "-r", "-", "--require-hashes", "--no-deps", "--link-mode", mode, "--target"];
        let arguments = options.into_iter().map(OsStr::new).chain([directory.as_os_str()]).collect();
        let call = Call { doing: Doing::Install, arguments, input: lock.text().as_bytes(), writes: Some(directory) };
        self.run(call, target, limit, report).await.map(|_| ())
    }

    /// Uses the cache: nothing is removed from it meanwhile.
    pub async fn use_cache(&self) -> CacheUse {
        Arc::clone(&self.cache).read_owned().await
    }

    fn cache(&self) -> PathBuf {
        tool::cache(&self.data)
    }

    /// Empties the cache if there are more than so many bytes in it, unless it is used right now.
    pub async fn trim_cache(&self, bytes: u64) -> Result<()> {
        let (cache, lock, sandbox) = (self.cache(), Arc::clone(&self.cache), self.sandbox.clone());
        let make = move |cache: &Path| sandbox.make_dir(cache, Role::Installer);
        let trim = move || cache::trim(&cache, bytes, || lock.try_write_owned().ok(), make);
        let failed = |e: std::io::Error| Error::internal("emptying the installer's cache", e);
        let trimmed = tokio::task::spawn_blocking(trim).await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        if let Some(size) = trimmed {
            tracing::info!("emptied the installer's cache, which had {size} bytes");
        }
        Ok(())
    }

    /// A directory with files that uv may read and write to.
    async fn written(&self, files: Vec<(&'static str, String)>) -> Result<TempDir> {
        let (work, sandbox) = (self.data.join("work"), self.sandbox.clone());
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&work)?;
            let dir = tempfile::Builder::new().prefix("lock-").tempdir_in(work)?;
            for (name, text) in files {
                std::fs::write(dir.path().join(name), text)?;
                sandbox.change_owner(&dir.path().join(name), Role::Installer)?;
            }
            sandbox.change_owner(dir.path(), Role::Installer)?;
            Ok(dir)
        });
        let failed = |e: std::io::Error| Error::internal("writing a lock", e);
        written.await.map_err(|e| Error::internal("writing a lock", e))?.map_err(failed)
    }

    async fn run(
        &self,
        Call { doing, arguments, input, writes }: Call<'_>,
        target: &Target,
        limit: Duration,
        report: Report<'_>,
    ) -> Result<Finished> {
        let work = async {
            let interpreter = target.interpreter();
            let program = self.program(interpreter, report).await?;
            let _cache = self.cache.read().await;
            self.settings.copy_netrc(&self.data, &self.sandbox).await?;
            let mut command =
                program.command(&self.sandbox, &self.data, writes).map_err(|e| doing.did_not_end(e.into()))?;
            command.arg("pip").args(arguments).arg("--python").arg(&interpreter.executable);
            if let Some(wheels) = target.wheels() {
                let platform = program.platform(&wheels).ok_or_else(|| doing.unknown_platform(target))?;
                command.args(["--python-version", wheels.python, "--python-platform", platform]);
            }
            command.args(["--only-binary", ":all:", "--no-config", "--no-progress", "--color", "never"]);
            let on_line = |line: &str| report(&failure::masked(&self.masker.text(line), &self.data));
            process::run(command, Some(input), limit, &on_line).await.map_err(|e| doing.did_not_end(e))
        };
        let done = tokio::time::timeout(limit, work)
            .await
            .unwrap_or_else(|_| Err(doing.did_not_end(process::Failure::TimedOut(limit))))?;
        if done.status.success() {
            return Ok(done);
        }
        let lines: Vec<String> = done.stderr.iter().map(|line| self.masker.text(line)).collect();
        Err(match process::cut_off(done.status, self.sandbox.memory()) {
            Some(why) => doing.cut_off(&why, &lines, &self.data),
            None => doing.failed(&lines, &self.data, &target.named_for_wheels()),
        })
    }

    /// The program, found or installed by the first caller while others wait.
    async fn program(&self, interpreter: &Interpreter, report: Report<'_>) -> Result<&Program> {
        if self.preinstalling.load(Ordering::Acquire) && !self.program.initialized() {
            report(&format!("waiting for uv {}, which is being installed", tool::VERSION));
        }
        self.program.get_or_try_init(|| self.find(interpreter, report)).await
    }

    async fn find(&self, interpreter: &Interpreter, report: Report<'_>) -> Result<Program> {
        let failed = |e: std::io::Error| Error::internal("preparing the data directory for uv", e);
        let (home, cache) = (tool::home(&self.data), self.cache());
        let (sandbox, made) = (self.sandbox.clone(), [home.clone(), cache.clone()]);
        let making =
            tokio::task::spawn_blocking(move || made.iter().try_for_each(|dir| sandbox.make_dir(dir, Role::Installer)));
        making.await.map_err(|e| failed(e.into()))?.map_err(failed)?;
        let mut env = self.settings.for_uv(interpreter, &self.data, &self.sandbox).await;
        env.extend([
            ("HOME".into(), home.into_os_string()),
            ("UV_CACHE_DIR".into(), cache.into_os_string()),
            ("UV_PYTHON_DOWNLOADS".into(), "never".into()),
            // Threads, which a build may have so many of in all; otherwise as many as this machine has processors.
            ("UV_CONCURRENT_INSTALLS".into(), THREADS.into()),
            ("RAYON_NUM_THREADS".into(), THREADS.into()),
            ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
            ("LC_ALL".into(), "C.UTF-8".into()),
        ]);
        for candidate in tool::on_path().chain([tool::installed(&self.data)]) {
            if let Some(program) = Program::probe(candidate, &env, &self.sandbox, &self.data).await {
                return Ok(program);
            }
        }
        report(&format!("installing uv {}", tool::VERSION));
        let installed = tool::install(&self.data, interpreter, &self.settings).await;
        let path = installed.map_err(|e| self.masker.error(e))?;
        Program::probe(path, &env, &self.sandbox, &self.data)
            .await
            .ok_or_else(|| Error::new(Code::RequirementFailed, "the installed uv does not run on this machine"))
    }
}

#[cfg(test)]
mod tests;
