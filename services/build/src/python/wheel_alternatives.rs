//! Packages that people ask for and that have no wheel, with what does the same and has wheels.

use std::fmt::Write as _;

/// Distributions of the index, by name, as PEP 503 has it; sorted.
const ALTERNATIVES: [(&str, &str); 17] = [
    ("annoy", "usearch"),
    ("dlib", "dlib-bin"),
    ("docopt", "docopt-ng"),
    ("fasttext", "fasttext-wheel"),
    ("hnswlib", "chroma-hnswlib"),
    ("jieba", "rjieba"),
    ("langdetect", "lingua-language-detector"),
    ("mysqlclient", "pymysql"),
    ("openai-whisper", "faster-whisper"),
    ("psycopg2", "psycopg2-binary"),
    ("pyaudio", "sounddevice"),
    ("pycrypto", "pycryptodome"),
    ("python-ldap", "ldap3"),
    ("sklearn", "scikit-learn"),
    ("uwsgi", "pyuwsgi"),
    ("wget", "requests"),
    ("wikipedia", "wikipedia-api"),
];

/// Modules of such packages that are not named as these are.
const MODULES: [(&str, &str); 3] = [("MySQLdb", "mysqlclient"), ("ldap", "python-ldap"), ("whisper", "openai-whisper")];

/// The distribution without wheels that provides a module, if there is an alternative for it.
pub fn distribution_of(module: &str) -> Option<&str> {
    let named = MODULES.iter().find(|(name, _)| *name == module).map_or(module, |(_, distribution)| distribution);
    alternative(named).map(|_| named)
}

/// Of what versions of a package there is no wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions<'a> {
    /// Of none that exists.
    All,
    /// Of none that the requirements allow.
    Allowed,
    /// Of this one.
    One(&'a str),
}

/// The message about a package without a wheel that fits `platform`, such as `this Python and platform`.
pub fn without_wheel(package: &str, versions: Versions<'_>, platform: &str) -> String {
    let version = if let Versions::One(version) = versions { format!(" {version}") } else { String::new() };
    let place = if versions == Versions::Allowed { " in the versions that the requirements allow" } else { "" };
    let mut text = format!(
        "{package}{version} has no wheel that fits {platform}{place}, and only wheels are installed, because \
         a source distribution runs its own code while it is built"
    );
    if let Some(alternative) = alternative(package) {
        let _ = write!(text, "; {alternative} has wheels and may do instead");
    }
    text
}

/// A distribution with wheels that does the same as one that has none.
pub fn alternative(distribution: &str) -> Option<&'static str> {
    let at = ALTERNATIVES.binary_search_by_key(&distribution, |(name, _)| name).ok()?;
    Some(ALTERNATIVES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_alternatives_is_sorted() {
        assert!(ALTERNATIVES.is_sorted_by(|a, b| a.0 < b.0));
    }

    #[test]
    fn an_alternative_is_named_where_there_is_one() {
        let text = without_wheel("psycopg2", Versions::One("2.8"), "this Python and platform");
        assert!(text.starts_with("psycopg2 2.8 has no wheel that fits this Python"), "{text}");
        assert!(text.ends_with("; psycopg2-binary has wheels and may do instead"), "{text}");
        let text = without_wheel("other", Versions::All, "Python 3.13 on linux/arm64");
        assert!(
            text.starts_with("other has no wheel that fits Python 3.13 on linux/arm64, and")
                && text.ends_with("while it is built"),
            "{text}"
        );
        assert_eq!(distribution_of("MySQLdb"), Some("mysqlclient"));
        assert_eq!((distribution_of("docopt"), distribution_of("other")), (Some("docopt"), None));
        assert!(MODULES.iter().all(|(_, distribution)| alternative(distribution).is_some()));
    }
}
