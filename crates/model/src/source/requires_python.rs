//! `requires-python` of a project: the versions of Python that it supports, according to PEP 440.

use std::fmt;

/// The longest text in bytes.
const MAX_TEXT: usize = 200;
/// The most numbers in a release; more are meaningless for Python.
const MAX_PARTS: usize = 4;

/// A set of version clauses that all must hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequiresPython {
    text: String,
    clauses: Vec<Clause>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Clause {
    operator: Operator,
    release: Vec<u32>,
    /// Whether the version ends in `.*`: only the listed numbers count.
    prefix: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Compatible,
    Equal,
    Different,
    AtLeast,
    AtMost,
    Above,
    Below,
}

impl RequiresPython {
    /// Parses a list such as `>=3.10,<4`; `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_TEXT || text.contains(char::is_control) {
            return None;
        }
        let clauses = text.split(',').map(str::trim).filter(|clause| !clause.is_empty());
        Some(Self { text: text.trim().to_owned(), clauses: clauses.map(clause).collect::<Option<_>>()? })
    }

    /// Whether a released Python of this version is admitted.
    pub fn admits(&self, version: (u32, u32, u32)) -> bool {
        self.clauses.iter().all(|clause| clause.admits(&[version.0, version.1, version.2]))
    }
}

impl fmt::Display for RequiresPython {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn clause(text: &str) -> Option<Clause> {
    const OPERATORS: [(&str, Operator); 8] = [
        ("~=", Operator::Compatible),
        ("===", Operator::Equal),
        ("==", Operator::Equal),
        ("!=", Operator::Different),
        (">=", Operator::AtLeast),
        ("<=", Operator::AtMost),
        (">", Operator::Above),
        ("<", Operator::Below),
    ];
    let (operator, version) = OPERATORS.iter().find_map(|(sign, op)| Some((*op, text.strip_prefix(sign)?.trim())))?;
    let (numbers, prefix) = match version.strip_suffix(".*") {
        Some(numbers) => (numbers, true),
        None => (version, false),
    };
    if prefix && !matches!(operator, Operator::Equal | Operator::Different) {
        return None;
    }
    // A pre-release (`3.13.0rc1`, `3.12.dev0`) is older than its release, and an installed Python is a release.
    let end = numbers.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(numbers.len());
    let (numbers, rest) = numbers.split_at(end);
    let known_rest = |rest: &str| ["a", "b", "c", "rc", ".dev", "dev"].iter().any(|kind| rest.starts_with(kind));
    if !rest.is_empty() && (prefix || !known_rest(rest)) {
        return None;
    }
    let release: Vec<u32> =
        numbers.trim_end_matches('.').split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let long_enough = operator != Operator::Compatible || release.len() >= 2;
    (long_enough && release.len() <= MAX_PARTS).then_some(Clause { operator, release, prefix })
}

impl Clause {
    fn admits(&self, version: &[u32; 3]) -> bool {
        let order = compare(version, &self.release);
        let starts = |with: &[u32]| {
            with.iter().enumerate().all(|(i, part)| version.get(i).copied().unwrap_or_default() == *part)
        };
        match self.operator {
            Operator::Equal if self.prefix => starts(&self.release),
            Operator::Different if self.prefix => !starts(&self.release),
            Operator::Equal => order.is_eq(),
            Operator::Different => order.is_ne(),
            Operator::AtLeast => order.is_ge(),
            Operator::AtMost => order.is_le(),
            Operator::Above => order.is_gt(),
            Operator::Below => order.is_lt(),
            Operator::Compatible => {
                order.is_ge() && starts(self.release.split_last().map_or(&[][..], |(_, series)| series))
            }
        }
    }
}

/// Compares two releases; missing numbers are zero.
fn compare(a: &[u32], b: &[u32]) -> std::cmp::Ordering {
    let at = |list: &[u32], i: usize| list.get(i).copied().unwrap_or_default();
    (0..a.len().max(b.len()))
        .map(|i| at(a, i).cmp(&at(b, i)))
        .find(|order| order.is_ne())
        .unwrap_or(std::cmp::Ordering::Equal)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn versions_are_admitted_as_pep_440_says() {
        for (text, yes, no) in [
            (">=3.10", &[(3, 10, 0), (3, 11, 7)][..], &[(3, 9, 20)][..]),
            (">=3.10,<3.12", &[(3, 11, 9)], &[(3, 12, 0)]),
            (">= 3.10 , < 4", &[(3, 14, 1)], &[(4, 0, 0)]),
            ("~=3.11", &[(3, 11, 0), (3, 14, 0)], &[(3, 10, 9), (4, 0, 0)]),
            ("~=3.11.4", &[(3, 11, 4), (3, 11, 9)], &[(3, 11, 3), (3, 12, 0)]),
            ("==3.11.*", &[(3, 11, 7)], &[(3, 12, 0)]),
            ("!=3.11.*,>3.9", &[(3, 10, 0)], &[(3, 11, 2), (3, 9, 0)]),
            ("==3.11.7", &[(3, 11, 7)], &[(3, 11, 8)]),
            (">3.10", &[(3, 10, 1)], &[(3, 10, 0)]),
            ("<=3.11", &[(3, 11, 0)], &[(3, 11, 1)]),
            (">=3.13.0rc1", &[(3, 13, 0)], &[(3, 12, 9)]),
            ("", &[(3, 10, 0)], &[]),
        ] {
            let parsed = RequiresPython::parse(text).unwrap();
            assert!(yes.iter().all(|version| parsed.admits(*version)), "{text} takes {yes:?}");
            assert!(!no.iter().any(|version| parsed.admits(*version)), "{text} does not take {no:?}");
        }
    }

    #[test]
    fn other_texts_are_none() {
        for bad in ["^3.10", "3.10", ">=x", ">=3.*", "~=3", ">=3.10;x", ">=3..1", "==", ">=3.10 <4", ">=3.1\n"] {
            assert_eq!(RequiresPython::parse(bad), None, "{bad}");
        }
    }
}
