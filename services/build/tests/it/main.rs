//! The programs of builds as they are really started, by `hoistway-build` itself.

#![allow(clippy::unwrap_used, missing_docs)]

mod memory;
mod sandbox;

use hoistway_build::{
    Config,
    python::{
        Interpreter, Sandbox,
        sandbox::{FileAccess, Role},
    },
};
use std::path::Path;

/// A service's directory, and what starts programs there.
pub struct Place {
    pub dir: tempfile::TempDir,
    pub python: Interpreter,
    pub sandbox: Sandbox,
}

impl Place {
    pub async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config {
            data_dir: dir.path().to_owned(),
            launcher: Some(env!("CARGO_BIN_EXE_hoistway-build").into()),
            ..Config::default()
        };
        change(&mut config);
        std::fs::create_dir_all(config.service_dir().join("cache/uv")).unwrap();
        std::fs::write(dir.path().join("master.key"), "secret").unwrap();
        std::fs::create_dir_all(dir.path().join("agent/apps/other")).unwrap();
        std::fs::write(dir.path().join("agent/apps/other/agent.py"), "secret").unwrap();
        let python = Interpreter::probe(None, "HOISTWAY_PYTHON").await.unwrap();
        let sandbox = Sandbox::open(&config, &python).await.unwrap();
        Self { dir, python, sandbox }
    }

    /// The output of a Python script that is started as a program of a kind.
    pub async fn run(&self, sandbox: &Sandbox, script: &str, role: Role, access: &FileAccess<'_>) -> String {
        let none: [(&str, &str); 0] = [];
        let mut command = sandbox.command(&self.python.executable, none, role, access).unwrap();
        let done = command.args(["-I", "-S", "-B", "-c", script]).arg(self.dir.path()).output().await.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap().trim().to_owned()
    }

    pub fn make_dir(&self, name: &str, role: Role) -> std::path::PathBuf {
        let dir = self.dir.path().join("build/work").join(name);
        self.sandbox.make_dir(&dir, role).unwrap();
        dir
    }
}

/// Whether this machine lets the tests choose users.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    hoistway_testing::need("root", root, "only root can give programs users of their own")
}

/// The content of a file that may be gone.
pub fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
