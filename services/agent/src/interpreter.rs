//! The host's Python, which runs the agents of the process runtime.

use hoistway_confine::python::{self, OLDEST, oci_architecture};
use hoistway_model::{Code, Error, Result};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The newest `python3.MINOR` that is looked for where `python3` is too old.
const NEWEST_TRIED: u32 = 16;

/// Prints the real interpreter behind shims and virtual environments, and its version.
const PROBE: &str = "import json, os, sys\n\
    print(json.dumps({'path': os.path.realpath(getattr(sys, '_base_executable', None) or sys.executable), \
    'major': sys.version_info[0], 'minor': sys.version_info[1]}))";

/// A real Python interpreter of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interpreter {
    /// Its absolute path, no shim.
    pub path: PathBuf,
    /// `major.minor`.
    pub python: String,
    /// `os/architecture` as in the OCI image index.
    pub platform: String,
}

#[derive(Deserialize)]
struct Answer {
    path: PathBuf,
    major: u32,
    minor: u32,
}

impl Interpreter {
    /// The interpreter that `configured` (a path, or a name on `PATH`) really is; without one, the first that is new
    /// enough.
    pub async fn find(configured: Option<&Path>) -> Result<Self> {
        if let Some(command) = configured {
            return Self::probe(command).await;
        }
        let found = Self::probe(Path::new("python3")).await;
        if found.is_ok() {
            return found;
        }
        for minor in (OLDEST.1..=NEWEST_TRIED).rev() {
            if let Ok(found) = Self::probe(Path::new(&format!("python3.{minor}"))).await {
                return Ok(found);
            }
        }
        found
    }

    async fn probe(command: &Path) -> Result<Self> {
        let shown = command.display();
        let unusable =
            |why: String| Error::new(Code::InvalidArgument, format!("{shown} is not usable as Python: {why}"));
        let answer: Answer = python::ask(command, &["-I"], PROBE).await.map_err(unusable)?;
        if (answer.major, answer.minor) < OLDEST {
            return Err(unusable(format!(
                "it is Python {}.{}, and at least {}.{} is needed",
                answer.major, answer.minor, OLDEST.0, OLDEST.1
            )));
        }
        Ok(Self { path: answer.path, python: format!("{}.{}", answer.major, answer.minor), platform: platform() })
    }

    /// Refuses what was built for another Python than this one.
    pub fn suits(&self, built_for: &str) -> Result<()> {
        if built_for == self.python {
            return Ok(());
        }
        let text =
            format!("it was built for Python {built_for}, and this machine has {}: deploy it again", self.python);
        Err(Error::new(Code::UnsupportedImage, text))
    }

    /// Refuses what was built for the Python of a base image that is another than this one.
    pub fn suits_base(&self, built_for: &str) -> Result<()> {
        if built_for == self.python {
            return Ok(());
        }
        let own = &self.python;
        let text = format!(
            "it was built for Python {built_for} of its base image, and this machine has {own}, which agents without \
             containers run with: deploy it again with a base image that has Python {own}, or run agents as containers \
             (hoistway up --runtime docker)"
        );
        Err(Error::new(Code::UnsupportedImage, text))
    }
}

impl Interpreter {
    /// The message about an agent whose image was built here for another Python.
    pub fn changed(&self, built_for: &str) -> String {
        format!(
            "it was built for Python {built_for}, and this machine has {} now: it is being built again from the source \
             that its image keeps; /api/deployments tells how that goes",
            self.python
        )
    }
}

/// This machine as the OCI image index names it.
fn platform() -> String {
    oci_architecture(std::env::consts::ARCH).map_or("unknown".to_owned(), |name| format!("linux/{name}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn the_real_interpreter_is_found() {
        let found = Interpreter::find(None).await.unwrap();
        assert!(found.path.is_absolute());
        assert!(found.suits(&found.python).is_ok());
        let e = found.suits("2.7").unwrap_err();
        assert!(e.code == Code::UnsupportedImage && e.message.contains("built for Python 2.7"), "{e}");
    }

    #[tokio::test]
    async fn a_program_that_is_not_python_is_refused_with_the_reason() {
        for (command, why) in [("/no/such/python", "No such file"), ("/bin/false", "exit status"), ("/bin/true", "EOF")]
        {
            let e = Interpreter::find(Some(Path::new(command))).await.unwrap_err();
            assert!(e.message.starts_with(command) && e.message.contains(why), "{e}");
        }
    }
}
