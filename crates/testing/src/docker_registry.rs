//! Docker's own registry, as Debian packages it, for tests of registries that are not Hoistway's.

use crate::{need, runs};
use base64::Engine;
use std::{
    fs,
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

/// Somebody who may use a registry with a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegistryUser {
    /// The name.
    pub name: &'static str,
    /// The password.
    pub password: &'static str,
    /// The line of `htpasswd -B` for both.
    htpasswd: &'static str,
}

/// A user.
pub const ANN: RegistryUser = RegistryUser {
    name: "ann",
    password: "registry-pass",
    htpasswd: "ann:$2y$05$XKmDpAlC4aWqp3iUM4vRrOEBoIqDYhCY.n6rKOWgSSmzRL6xqn8ja",
};
/// Another user.
pub const BOB: RegistryUser = RegistryUser {
    name: "bob",
    password: "other-pass",
    htpasswd: "bob:$2y$05$ZbtD0gyUN2kYEmz5pd7ob.tqGBYxwowx/2NcwhZ1mrPp5of7Sl6lK",
};

/// Who may use a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access<'a> {
    /// Everybody.
    Open,
    /// One user with a password.
    User(RegistryUser),
    /// Holders of the tokens of a server.
    Token {
        /// The server's URL.
        realm: &'a str,
        /// A file with the certificate of what signs them.
        certificate: &'a Path,
    },
}

/// A running registry, ended when it is dropped.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    dir: PathBuf,
    host: String,
}

impl DockerRegistry {
    /// Starts a registry in `dir` for this machine only; none where the program is not installed.
    ///
    /// # Panics
    /// If it is there and does not start, or is required and missing.
    pub fn start(dir: &Path, access: Access<'_>) -> Option<Self> {
        Self::start_at(IpAddr::V4(Ipv4Addr::LOCALHOST), dir, access)
    }

    /// Like [`DockerRegistry::start`], at another address of this machine.
    ///
    /// # Panics
    /// If it is there and does not start, or is required and missing.
    pub fn start_at(address: IpAddr, dir: &Path, access: Access<'_>) -> Option<Self> {
        let is_there = runs("docker-registry", &["--version"]);
        if !need("docker-registry", is_there, "docker-registry is not installed") {
            return None;
        }
        fs::create_dir_all(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
        let password_file = dir.join("htpasswd");
        let auth = match access {
            Access::Open => String::new(),
            Access::User(user) => {
                fs::write(&password_file, user.htpasswd).unwrap_or_else(|e| panic!("{e}"));
                format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", password_file.display())
            }
            Access::Token { realm, certificate } => format!(
                "auth: {{token: {{realm: '{realm}', service: registry, issuer: test, rootcertbundle: {}}}}}\n",
                certificate.display()
            ),
        };
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '{}', secret: test}}\n{auth}",
            dir.join("data").display(),
            SocketAddr::new(address, 0),
        );
        fs::write(&config, text).unwrap_or_else(|e| panic!("{e}"));
        let requests = fs::File::create(dir.join("requests")).unwrap_or_else(|e| panic!("{e}"));
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config).stdin(Stdio::null()).stdout(requests).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("starting docker-registry: {e}"));
        let mut lines = child.stderr.take().map(|output| BufReader::new(output).lines()).into_iter().flatten();
        let mut log = String::new();
        let host = loop {
            let Some(Ok(line)) = lines.next() else { panic!("docker-registry ended:\n{log}") };
            if let Some((_, rest)) = line.split_once("listening on ") {
                break rest.split(['"', ' ']).next().unwrap_or_default().to_owned();
            }
            log.push_str(&format!("{line}\n"));
        };
        // Further output is read, so that the program never blocks.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, dir: dir.to_owned(), host })
    }

    /// Its `HOST:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Writes a `config.json` of Docker with a login, and returns its path.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn docker_config(&self, user: &str, password: &str) -> PathBuf {
        let file = self.dir.join(format!("docker-{user}/config.json"));
        write_docker_config(&file, &[(&self.host, user, password)]);
        file
    }

    /// The names of the repositories that have something.
    pub fn repositories(&self) -> Vec<String> {
        let root = self.dir.join("data/docker/registry/v2/repositories");
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Its access log: a line for each request.
    pub fn requests(&self) -> String {
        fs::read_to_string(self.dir.join("requests")).unwrap_or_default()
    }
}

/// Writes a `config.json` of Docker with logins: a registry's `HOST:PORT`, a user and a password each.
///
/// # Panics
/// If it cannot be written.
pub fn write_docker_config(file: &Path, logins: &[(&str, &str, &str)]) {
    let logins = logins.iter().map(|(host, user, password)| {
        let auth = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        format!(r#""{host}": {{"auth": "{auth}"}}"#)
    });
    let text = format!(r#"{{"auths": {{{}}}}}"#, logins.collect::<Vec<_>>().join(", "));
    let made = file.parent().map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(file, text)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
