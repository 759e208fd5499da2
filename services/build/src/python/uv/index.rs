//! Package indexes that need a password. uv is given addresses without it, and the password beside them: what it
//! writes into its cache, its locks and its messages is then free of it.

use hoistway_model::{Code, Error, Result, Secret};
use percent_encoding::percent_decode_str;
use std::{collections::BTreeMap, path::PathBuf};

/// The indexes that the operator has configured.
#[derive(Debug, Clone, Default)]
pub struct Indexes {
    /// Instead of PyPI.
    pub index: Option<Secret>,
    /// Asked first; the first index that knows a package is the one that it comes from.
    pub extra: Vec<Secret>,
    /// A file with passwords for hosts.
    pub netrc: Option<PathBuf>,
}

impl Indexes {
    /// Refuses what is no address, without repeating it.
    pub fn check(&self) -> Result<()> {
        let listed = self.index.iter().map(|url| ("index_url", url));
        for (setting, url) in listed.chain(self.extra.iter().map(|url| ("extra_index_urls", url))) {
            let text = url.expose();
            let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
            let host = host.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
            let host = host.map(|authority| authority.rsplit('@').next().unwrap_or_default());
            if host.is_none_or(str::is_empty) || text.contains(char::is_whitespace) {
                let text = format!("{setting}: is not an address such as https://user:password@host/simple");
                return Err(Error::new(Code::InvalidArgument, text));
            }
        }
        Ok(())
    }
}

/// User and password of an address, and the address without them.
fn split(url: &str) -> Option<(&str, &str, String)> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (credentials, host) = authority.rsplit_once('@')?;
    let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
    Some((user, password, format!("{scheme}://{host}{path}")))
}

/// The environment with the credentials of indexes in variables of their own.
pub(super) fn apart(mut env: BTreeMap<String, String>) -> BTreeMap<String, String> {
    // The old variables cannot name an index, and without a name it has no variables of its own.
    for (old, new) in [("UV_INDEX_URL", "UV_DEFAULT_INDEX"), ("UV_EXTRA_INDEX_URL", "UV_INDEX")] {
        if env.get(old).is_some_and(|value| value.split_whitespace().any(|url| split(url).is_some()))
            && let Some(value) = env.remove(old)
        {
            let joined = env.remove(new).map_or(value.clone(), |there| match new {
                "UV_INDEX" => format!("{there} {value}"),
                _ => there,
            });
            env.insert(new.to_owned(), joined);
        }
    }
    let mut number = 0;
    for variable in ["UV_DEFAULT_INDEX", "UV_INDEX"] {
        let Some(value) = env.get(variable).cloned() else { continue };
        let mut indexes = Vec::new();
        for entry in value.split_whitespace() {
            let named =
                entry.find("://").and_then(|at| entry[..at].contains('=').then(|| entry.split_once('=')).flatten());
            let (name, url) = named.map_or((None, entry), |(name, url)| (Some(name.to_owned()), url));
            let Some((user, password, plain)) = split(url) else {
                indexes.push(entry.to_owned());
                continue;
            };
            number += 1;
            let name = name.unwrap_or_else(|| format!("hoistway{number}"));
            let upper: String =
                name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
            env.insert(format!("UV_INDEX_{upper}_USERNAME"), decoded(user));
            env.insert(format!("UV_INDEX_{upper}_PASSWORD"), decoded(password));
            indexes.push(format!("{name}={plain}"));
        }
        env.insert(variable.to_owned(), indexes.join(" "));
    }
    env
}

/// The secrets in an address, in both spellings. A user name is, when it has no password: then it is a token.
pub(super) fn secrets(url: &str) -> Vec<Secret> {
    let Some((user, password, _)) = split(url) else { return Vec::new() };
    let secret = if password.is_empty() { user } else { password };
    [secret.to_owned(), decoded(secret), format!("{user}:{password}")].map(Secret::new).into()
}

/// A text without percent-encoding.
fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn env(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect()
    }

    #[test]
    fn credentials_have_variables_of_their_own() {
        let got = apart(env(&[
            ("UV_DEFAULT_INDEX", "https://u:p%40ss@h:8/simple/?a@b"),
            ("UV_INDEX", "https://plain/ my-own=https://tok-en@x/ https://v:w@y"),
        ]));
        let want = env(&[
            ("UV_DEFAULT_INDEX", "hoistway1=https://h:8/simple/?a@b"),
            ("UV_INDEX", "https://plain/ my-own=https://x/ hoistway3=https://y"),
            ("UV_INDEX_HOISTWAY1_USERNAME", "u"),
            ("UV_INDEX_HOISTWAY1_PASSWORD", "p@ss"),
            ("UV_INDEX_MY_OWN_USERNAME", "tok-en"),
            ("UV_INDEX_MY_OWN_PASSWORD", ""),
            ("UV_INDEX_HOISTWAY3_USERNAME", "v"),
            ("UV_INDEX_HOISTWAY3_PASSWORD", "w"),
        ]);
        assert_eq!(got, want);
        let old = apart(env(&[("UV_INDEX_URL", "https://u:p@h"), ("UV_EXTRA_INDEX_URL", "https://e")]));
        assert_eq!(old["UV_DEFAULT_INDEX"], "hoistway1=https://h");
        assert_eq!(old["UV_EXTRA_INDEX_URL"], "https://e");
        assert!(!old.contains_key("UV_INDEX_URL"));
        let plain = env(&[("UV_DEFAULT_INDEX", "https://h/a@b"), ("HTTPS_PROXY", "http://u:p@proxy")]);
        assert_eq!(apart(plain.clone()), plain);
    }

    #[test]
    fn secrets_of_an_index_url_are_found_encoded_and_decoded() {
        let texts = |url: &str| secrets(url).iter().map(|s| s.expose().to_owned()).collect::<Vec<_>>();
        assert_eq!(texts("https://u:p%40ss@h/"), ["p%40ss", "p@ss", "u:p%40ss"]);
        assert_eq!(texts("https://token@h/")[0], "token");
        assert!(texts("https://h/a@b").is_empty());
    }

    #[test]
    fn only_urls_are_taken_as_indexes_without_duplicates() {
        let check = |url: &str| Indexes { index: Some(Secret::new(url)), ..Indexes::default() }.check();
        assert!(check("https://user:pass@host/simple").is_ok() && check("http://127.0.0.1:9/x").is_ok());
        for bad in ["", "hush", "ftp://hush@h/", "https://", "https://hush@/x", "https://h/hush y"] {
            let e = check(bad).expect_err(bad);
            assert!(e.message.starts_with("index_url: ") && !e.message.contains("hush"), "{e}");
        }
    }
}
