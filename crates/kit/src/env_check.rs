//! The `HOISTWAY_*` variables of the environment. An unknown one is refused at start: a misspelt setting is worse than
//! none, because its author believes that it is set.

use hoistway_model::{Code, Error, Result};
use std::{env, ffi::OsString};

const ALL: &str = "HOISTWAY_";

/// Variables of `hoistway up`, of the compose file and of logging. Every program accepts all of them, since programs
/// often share one environment.
const KNOWN: [&str; 12] = [
    "HOISTWAY_API_PORT",
    "HOISTWAY_BASE_IMAGE",
    "HOISTWAY_CONFIG",
    "HOISTWAY_DATABASE_PASSWORD_FILE",
    "HOISTWAY_DATABASE_URL",
    "HOISTWAY_DATA_DIR",
    "HOISTWAY_ECHO_PORT",
    "HOISTWAY_LISTEN",
    crate::telemetry::LOG_VARIABLE,
    "HOISTWAY_LOG_FORMAT",
    "HOISTWAY_PYTHON",
    "HOISTWAY_REGISTRY_PORT",
];

/// The prefixes of the variables of one service, or of the project's own tests and scripts. A service checks the rest
/// of its own variables itself.
const PREFIXES: [&str; 8] = [
    "HOISTWAY_AGENT_",
    "HOISTWAY_BUILD_",
    "HOISTWAY_EGRESS_",
    "HOISTWAY_FUZZ_",
    "HOISTWAY_GATEWAY_",
    "HOISTWAY_TEST_",
    "HOISTWAY_TOOL_REGISTRY_",
    "HOISTWAY_UPDATE_",
];

/// Refuses a `HOISTWAY_*` variable that is neither known to every program nor one of `more`.
pub fn check<'a>(more: impl IntoIterator<Item = &'a str>) -> Result<()> {
    check_names(&more.into_iter().collect::<Vec<_>>(), env::vars_os().map(|(name, _)| name))
}

fn check_names(more: &[&str], names: impl Iterator<Item = OsString>) -> Result<()> {
    let mut names: Vec<String> = names.filter_map(|name| name.into_string().ok()).collect();
    names.sort();
    let known = || KNOWN.iter().chain(more).copied();
    let unknown = names.into_iter().find(|name| {
        name.starts_with(ALL) && !known().any(|k| k == name) && !PREFIXES.iter().any(|p| name.starts_with(p))
    });
    let Some(name) = unknown else { return Ok(()) };
    let hint = meant(&name, known()).map_or(String::new(), |meant| format!("; did you mean {meant}?"));
    Err(Error::new(Code::InvalidArgument, format!("{name}: no program reads this variable{hint}")))
}

/// Returns the known variable, or the known prefix, that `name` resembles.
fn meant<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let whole = known.map(|k| (similar(name, k), k.to_owned()));
    let beginnings = PREFIXES.iter().filter_map(|prefix| {
        // The prefix of a service's variables has as many words as the service's name.
        let words = prefix.matches('_').count();
        let (end, _) = name.match_indices('_').nth(words - 1)?;
        Some((similar(&name[..=end], prefix), format!("{prefix}{}", &name[end + 1..])))
    });
    let near = whole.chain(beginnings).filter_map(|(distance, text)| Some((distance?, text)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, text)| text)
}

/// Returns the edit distance of two names, if it is small enough for a misspelling.
pub(crate) fn similar(given: &str, known: &str) -> Option<usize> {
    let part = |text: &str| text.strip_prefix(ALL).unwrap_or(text).to_ascii_lowercase();
    let (given, known) = (part(given), part(known));
    let distance = strsim::damerau_levenshtein(&given, &known);
    (distance <= 1 + known.len() / 5).then_some(distance)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn said(name: &str) -> String {
        check_names(&["HOISTWAY_EXTRA"], [OsString::from(name)].into_iter())
            .map_or_else(|e| e.message, |()| String::new())
    }

    #[test]
    fn known_ones_and_other_peoples_pass() {
        for name in ["HOISTWAY_LOG", "HOISTWAY_EXTRA", "HOISTWAY_TEST_REQUIRE", "HOISTWAY_BUILD_X", "PATH", "HOISTWAYS"]
        {
            assert_eq!(said(name), "");
        }
        check_names(&[], KNOWN.into_iter().map(OsString::from)).unwrap();
    }

    #[test]
    fn misspelt_ones_are_refused_with_what_was_meant() {
        let no = "no program reads this variable";
        for (name, hint) in [
            ("HOISTWAY_LISTN", "; did you mean HOISTWAY_LISTEN?"),
            ("HOISTWAY_DATADIR", "; did you mean HOISTWAY_DATA_DIR?"),
            ("HOISTWAY_EXTRAS", "; did you mean HOISTWAY_EXTRA?"),
            ("HOISTWAY_GATEWY_LISTEN", "; did you mean HOISTWAY_GATEWAY_LISTEN?"),
            ("HOISTWAY_TOOLS_REGISTRY_LISTEN", "; did you mean HOISTWAY_TOOL_REGISTRY_LISTEN?"),
            ("HOISTWAY_SOMETHING_ELSE", ""),
            ("HOISTWAY_", ""),
        ] {
            assert_eq!(said(name), format!("{name}: {no}{hint}"));
        }
    }
}
