//! A service as a process of its own, from the command line to the end.

use crate::{allocator, config, exit, open_files, shutdown, telemetry, telemetry::LogFormat};
use clap::Parser;
use hoistway_model::{Error, Result};
use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};
use tokio_util::sync::CancellationToken;

/// The option that every service has.
#[derive(Debug, clap::Args)]
pub struct ConfigFile {
    /// A TOML file with settings.
    #[arg(long, env = "HOISTWAY_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
}

/// Reads the command line and runs the program; a failure is one line on standard error.
pub fn main<A: Parser>(run: impl FnOnce(A) -> Result<()>) -> ExitCode {
    let arguments = match A::try_parse() {
        Ok(arguments) => arguments,
        Err(e) => {
            let status = if e.use_stderr() { exit::USAGE } else { 0 };
            return match e.print() {
                Ok(()) => ExitCode::from(status),
                Err(_) => ExitCode::FAILURE,
            };
        }
    };
    allocator::give_back_large_blocks();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => exit::fatal(&e),
    }
}

/// Serves until the process is asked to end. Telemetry goes under `name`; an empty `data_dir` is refused.
pub fn serve(
    name: &str,
    log_format: LogFormat,
    data_dir: &Path,
    serve: impl AsyncFnOnce(CancellationToken) -> Result<()>,
) -> Result<()> {
    let _telemetry = telemetry::init(name, log_format)?;
    config::data_dir(Some(data_dir.to_owned()))?;
    open_files::raise_limit()?;
    let runtime = tokio::runtime::Runtime::new().map_err(|e| Error::internal("starting the runtime", e))?;
    runtime.block_on(async { serve(shutdown::on_signals()?).await })
}
