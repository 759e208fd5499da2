//! What is started: the command line, the environment and the confinement of a process, and the runner's configuration.

use super::rundir::RunDir;
use super::{Instance, ProcessConfig, Program};
use crate::launcher::protocol::{CommandLine, LaunchSpec, Restrictions};
use crate::launcher::{RunAs, memory_file};
use crate::runtime::runner_config::{self, Places};
use crate::runtime::stack_trace::{self, Place};
use crate::sandbox::{Parts, Placed, Sandbox};
use hoistway_model::env::platform;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The process to start, and its resources.
pub(super) struct Start<'a> {
    pub config: &'a ProcessConfig,
    pub sandbox: &'a Arc<Sandbox>,
    pub instance: &'a Instance,
    pub port: u16,
    /// The agent's listener, where it has no network of its own.
    pub listener: Option<BorrowedFd<'a>>,
    pub user: Option<RunAs>,
    /// Whether it works in a copy of its source.
    pub copies_app: bool,
    /// The time that it may take until it is ready.
    pub limit: Option<Duration>,
    /// Whether its process may be forked from a warm parent.
    pub may_fork: bool,
}

/// The runner's configuration, which is secret. It may have to report the modules that it imports.
pub(super) fn config_file(start: &Start<'_>, report_modules: bool) -> Result<File> {
    let closed_network = !start.sandbox.isolation().has_open_network();
    let mut config = runner_config::config(start.instance, closed_network, start.limit);
    if report_modules {
        config["report_modules"] = true.into();
    }
    memory_file(&config)
}

/// The arguments of the interpreter itself, before those of the runner.
pub(super) const INTERPRETER_ARGUMENTS: usize = 3;

/// The command line of a runner. No packages of the user who runs Hoistway (-s) nor of the host (-S): an agent has those
/// of its image, and does not wait for the host's.
pub(super) fn arguments(placed: &Placed) -> Result<Vec<String>> {
    let mut args =
        vec!["-s".to_owned(), "-S".to_owned(), text(&placed.runner)?, "--app".to_owned(), text(&placed.app_dir)?];
    for site in &placed.site_dirs {
        args.extend(["--site".to_owned(), text(site)?]);
    }
    Ok(args)
}

/// The places that are named in the environment of a process with this interpreter.
pub(super) fn interpreter_places(interpreter: &Path, placed: &Placed) -> Result<Places> {
    let bin = interpreter.parent().map(text).transpose()?.unwrap_or_default();
    Ok(Places {
        home: text(&placed.home)?,
        tmp: text(&placed.tmp)?,
        path: Some(format!("{bin}:/usr/local/bin:/usr/bin:/bin")),
        ca_bundle: placed.ca_bundle.as_deref().map(text).transpose()?,
    })
}

/// The file that an agent with this environment is started from.
pub(super) fn entry(env: &BTreeMap<String, String>) -> &str {
    env.get(platform::USER_ENTRY_POINT).map_or("", String::as_str)
}

/// The directories from which the modules of an agent are imported, as the runner's `paths.py` has them.
pub(super) fn module_directories(app_dir: &Path, entry: &str) -> Vec<PathBuf> {
    let mut directories = vec![app_dir.to_owned(), app_dir.join("src")];
    let mut above = app_dir.to_owned();
    let parents: Vec<&str> = entry.split('/').collect();
    for (at, name) in parents.iter().enumerate().take(parents.len().saturating_sub(1)) {
        above.push(name);
        if *name == "src" || at + 2 == parents.len() {
            directories.push(above.clone());
        }
    }
    directories
}

/// The specification to launch, without control groups, and where the agent's files are.
pub(super) fn spec_of(start: &Start<'_>, dir: &RunDir) -> Result<(LaunchSpec, Vec<Place>)> {
    let Program::Unpacked { app_dir, site_dirs, runner, interpreter, .. } = &start.instance.program else {
        return Err(Error::other("the image is not unpacked"));
    };
    let placed = start.sandbox.place(&Parts {
        app_dir,
        own_app: start.copies_app.then(|| dir.app()),
        site_dirs,
        runner,
        home: dir.home(),
        tmp: dir.tmp(),
        root: dir.root(),
        endpoints: &start.instance.endpoints,
        port: Some(start.port),
    });
    let args = arguments(&placed)?;
    let env = runner_config::environment(start.instance, &interpreter_places(interpreter, &placed)?, start.port);
    let places = stack_trace::places((&placed.app_dir, &placed.site_dirs), (app_dir, site_dirs));
    let command = CommandLine {
        args,
        fd_options: ["--listen-fd", "--notify-fd", "--config-fd"].map(str::to_owned).into(),
        env: env.into_iter().collect(),
        cwd: placed.app_dir,
    };
    let restrictions = Restrictions {
        limits: start.sandbox.rlimits(),
        run_as: start.user,
        confinement: placed.confinement,
        cgroups: Vec::new(),
    };
    let spec = LaunchSpec { program: interpreter.clone(), command, restrictions, grace_ms: 5_000 };
    Ok((spec, places))
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| Error::other(format!("{} is not UTF-8", path.display())))
}
