//! The part of the operator's environment that reaches pip and uv: where the index is, how to get there, whom to trust.
//! The list is closed; everything else stays out.

use super::index::{Indexes, apart};
use crate::python::{Interpreter, Sandbox, process, sandbox::Role};
use hoistway_model::{Error, Result, Secret};
use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::task::spawn_blocking;

/// Settings that both programs read.
const NETWORK: [&str; 12] = [
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "NETRC",
];
const PIP: [&str; 8] = [
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_CERT",
    "PIP_CONFIG_FILE",
    "PIP_PROXY",
    "PIP_TRUSTED_HOST",
    "PIP_DEFAULT_TIMEOUT",
];
const UV: [&str; 11] = [
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_INDEX_STRATEGY",
    "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
    "UV_OFFLINE",
    "UV_KEYRING_PROVIDER",
];
/// Where pip finds its configuration files.
const PIP_HOME: [&str; 3] = ["HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS"];
/// The names of an option in pip and in uv: the first name is set if none of them is.
const SAME: [(&str, &[&str]); 5] = [
    ("PIP_INDEX_URL", &["UV_DEFAULT_INDEX", "UV_INDEX_URL"]),
    ("PIP_EXTRA_INDEX_URL", &["UV_INDEX", "UV_EXTRA_INDEX_URL"]),
    ("PIP_TRUSTED_HOST", &["UV_INSECURE_HOST"]),
    ("PIP_CERT", &["SSL_CERT_FILE"]),
    ("PIP_PROXY", &["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
];
const NETRC: &str = "NETRC";
const LIMIT: Duration = Duration::from_secs(20);

/// The part of an environment that is passed on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    shared: BTreeMap<String, String>,
    pip: BTreeMap<String, String>,
    uv: BTreeMap<String, String>,
    pip_home: BTreeMap<String, String>,
}

impl Settings {
    /// Takes what is on the lists and not empty.
    pub(super) fn of(env: impl Iterator<Item = (String, String)>) -> Self {
        let mut settings = Self::default();
        for (name, value) in env.filter(|(_, value)| !value.is_empty()) {
            let one_of = |list: &[&str]| list.contains(&name.as_str());
            let map = if one_of(&NETWORK) {
                &mut settings.shared
            } else if one_of(&PIP) {
                &mut settings.pip
            } else if one_of(&UV) {
                &mut settings.uv
            } else if one_of(&PIP_HOME) {
                &mut settings.pip_home
            } else {
                continue;
            };
            map.insert(name, value);
        }
        settings
    }

    /// The same with what is configured, which counts more than the environment.
    pub(super) fn with(mut self, indexes: &Indexes) -> Self {
        let texts = |urls: &[Secret]| urls.iter().map(Secret::expose).collect::<Vec<_>>().join(" ");
        if let Some(index) = &indexes.index {
            self.uv.remove("UV_INDEX_URL");
            self.uv.insert("UV_DEFAULT_INDEX".into(), index.expose().into());
            self.pip.insert("PIP_INDEX_URL".into(), index.expose().into());
        }
        if !indexes.extra.is_empty() {
            self.uv.remove("UV_EXTRA_INDEX_URL");
            self.uv.insert("UV_INDEX".into(), texts(&indexes.extra));
            self.pip.insert("PIP_EXTRA_INDEX_URL".into(), texts(&indexes.extra));
        }
        if let Some(netrc) = indexes.netrc.as_ref().and_then(|path| path.to_str()) {
            self.shared.insert("NETRC".into(), netrc.into());
        }
        self
    }

    /// The environment for pip: it reads its own configuration files, too. Authorities that are named for everything else
    /// count for it as well, but less than its own.
    pub(super) fn for_pip(&self) -> Vec<(OsString, OsString)> {
        let mut shared = self.shared.clone();
        if let Some(file) = shared.get("SSL_CERT_FILE").cloned() {
            shared.entry("REQUESTS_CA_BUNDLE".to_owned()).or_insert(file);
        }
        let maps = [&shared, &self.pip, &self.pip_home];
        let mut env: Vec<_> = maps.into_iter().flatten().map(|(n, v)| (n.into(), v.into())).collect();
        env.extend([("PATH".into(), "/usr/bin:/bin".into()), ("LC_ALL".into(), "C.UTF-8".into())]);
        env
    }

    /// The environment for uv: its own settings, and those that are set for pip only.
    pub(super) async fn for_uv(
        &self,
        interpreter: &Interpreter,
        data: &Path,
        sandbox: &Sandbox,
    ) -> Vec<(OsString, OsString)> {
        let mut pip = self.pip_files(interpreter).await;
        pip.extend(self.pip.clone());
        let mut env = self.translated(&pip);
        if let Some(copy) = self.netrc_copy(data, sandbox) {
            env.retain(|(name, _)| name != NETRC);
            env.push((NETRC.into(), copy.into()));
        }
        env
    }

    /// Where uv finds a copy of the netrc file, if it has another user than the file's.
    fn netrc_copy(&self, data: &Path, sandbox: &Sandbox) -> Option<PathBuf> {
        let wanted = self.shared.contains_key(NETRC) && sandbox.owner(Role::Installer).is_some();
        wanted.then(|| data.join("tools/netrc"))
    }

    /// Copies the netrc file, which may have changed since the last time, for uv's user.
    pub(super) async fn copy_netrc(&self, data: &Path, sandbox: &Sandbox) -> Result<()> {
        let (Some(from), Some(copy)) = (self.shared.get(NETRC), self.netrc_copy(data, sandbox)) else { return Ok(()) };
        let (from, sandbox) = (PathBuf::from(from), sandbox.clone());
        let copying = spawn_blocking(move || {
            let directory = copy.parent().unwrap_or(Path::new("/"));
            let mut file = tempfile::NamedTempFile::new_in(directory)?;
            io::copy(&mut std::fs::File::open(&from)?, &mut file)?;
            sandbox.change_owner(file.path(), Role::Installer)?;
            file.persist(&copy).map(drop).map_err(|e| e.error)
        });
        let failed = |e: io::Error| Error::internal("copying the netrc file for uv", e);
        copying.await.map_err(|e| failed(e.into()))?.map_err(failed)
    }

    fn translated(&self, pip: &BTreeMap<String, String>) -> Vec<(OsString, OsString)> {
        let mut env: BTreeMap<String, String> = self.shared.clone();
        env.extend(self.uv.clone());
        for (from, to) in SAME {
            if let Some(value) = pip.get(from)
                && !to.iter().any(|name| env.contains_key(*name))
            {
                let list = value.split_whitespace().collect::<Vec<_>>().join(" ");
                env.insert(to[0].to_owned(), list);
            }
        }
        apart(env).into_iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// The secrets that no file and no message may show.
    pub(super) fn secrets(&self) -> Vec<Secret> {
        let values = [&self.shared, &self.pip, &self.uv].into_iter().flat_map(BTreeMap::values);
        values.flat_map(|value| value.split_whitespace()).flat_map(super::index::secrets).collect()
    }

    /// The settings in pip's configuration files, under the names of the variables for it.
    async fn pip_files(&self, interpreter: &Interpreter) -> BTreeMap<String, String> {
        let Some(python) = &interpreter.pip else { return BTreeMap::new() };
        let mut command = process::command(python, self.for_pip());
        command.args(["-I", "-m", "pip", "--disable-pip-version-check", "config", "list"]);
        match process::run(command, None, LIMIT, &|_| ()).await {
            Ok(done) if done.status.success() => listed(&String::from_utf8_lossy(&done.stdout)),
            _ => BTreeMap::new(),
        }
    }
}

/// Reads `SECTION.KEY='VALUE'` lines; the section `install` has the last word, as it has with pip.
fn listed(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for section in ["global.", "install."] {
        for line in text.lines() {
            let Some((key, value)) = line.strip_prefix(section).and_then(|rest| rest.split_once('=')) else { continue };
            let name = format!("PIP_{}", key.to_ascii_uppercase().replace('-', "_"));
            if SAME.iter().any(|(known, _)| *known == name) {
                let value = value.trim_matches(['\'', '"']).replace("\\n", " ");
                found.insert(name, value.trim().to_owned());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    fn translated(env: &[(&str, &str)], files: &str) -> BTreeMap<String, String> {
        let settings = Settings::of(pairs(env).into_iter());
        let mut pip = listed(files);
        pip.extend(settings.pip.clone());
        let text = |s: OsString| s.to_string_lossy().into_owned();
        settings.translated(&pip).into_iter().map(|(n, v)| (text(n), text(v))).collect()
    }

    #[test]
    fn only_listed_settings_reach_uv() {
        let env = [
            ("AWS_SECRET_ACCESS_KEY", "x"),
            ("HOISTWAY_X", "y"),
            ("UV_PYTHON", "z"),
            ("https_proxy", "p"),
            ("NO_PROXY", ""),
        ];
        assert_eq!(translated(&env, ""), pairs(&[("https_proxy", "p")]));
        let pip = Settings::of(
            pairs(&[("HOME", "/h"), ("PIP_TARGET", "t"), ("PIP_CERT", "c"), ("UV_INDEX", "u")]).into_iter(),
        );
        let names: Vec<_> = pip.for_pip().into_iter().map(|(n, _)| n).collect();
        assert_eq!(names, ["PIP_CERT", "HOME", "PATH", "LC_ALL"]);
        let trusting = Settings::of(pairs(&[("SSL_CERT_FILE", "/ca")]).into_iter()).for_pip();
        assert!(trusting.contains(&("REQUESTS_CA_BUNDLE".into(), "/ca".into())));
    }

    #[test]
    fn uv_is_told_what_only_pip_was_told() {
        let env =
            [("PIP_INDEX_URL", "https://a"), ("PIP_EXTRA_INDEX_URL", "https://b  https://c"), ("PIP_CERT", "/ca")];
        let want = [("SSL_CERT_FILE", "/ca"), ("UV_DEFAULT_INDEX", "https://a"), ("UV_INDEX", "https://b https://c")];
        assert_eq!(translated(&env, ""), pairs(&want));
        let env = [("PIP_INDEX_URL", "https://a"), ("UV_INDEX_URL", "https://own")];
        assert_eq!(translated(&env, ""), pairs(&[("UV_INDEX_URL", "https://own")]));
    }

    #[test]
    fn pips_files_count_less_than_its_variables() {
        let files = ":env:.cert='/x'\nglobal.index-url='https://g'\ninstall.index-url='https://i'\n\
                     global.extra-index-url='\\nhttps://b\\nhttps://c'\nglobal.timeout='60'\n";
        let want = [("UV_DEFAULT_INDEX", "https://i"), ("UV_INDEX", "https://b https://c")];
        assert_eq!(translated(&[], files), pairs(&want));
        assert_eq!(
            translated(&[("PIP_INDEX_URL", "https://e")], "global.index-url='https://g'"),
            pairs(&[("UV_DEFAULT_INDEX", "https://e")])
        );
    }
}
