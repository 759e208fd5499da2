//! Paths of requests. A capability and the path of a base URL are worth something only if egress and the tool read the
//! same path, so what servers are known to read in different ways is refused.

use percent_encoding::percent_decode_str;

/// The number of times that a path is decoded to find dot segments: some servers decode again what they have decoded.
const ROUNDS: usize = 3;

/// A path that has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RequestPath {
    /// The segments after the first slash, decoded.
    segments: Vec<String>,
    /// Why servers may read it in different ways, if so.
    pub(crate) ambiguous: Option<&'static str>,
}

impl RequestPath {
    /// Refuses what no well-meaning client sends: broken encodings, control characters, backslashes, dot segments.
    pub(crate) fn parse(path: &str) -> Result<Self, &'static str> {
        let rest = path.strip_prefix('/').ok_or("the path does not begin with a slash")?;
        if !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("the path has characters that must be percent-encoded");
        }
        if !is_well_encoded(path) {
            return Err("the path has a broken percent-encoding");
        }
        let mut decoded = path.to_owned();
        for round in 0..=ROUNDS {
            if decoded.chars().any(char::is_control) || decoded.contains('\\') {
                return Err("the path has a control character or a backslash in it");
            }
            let is_dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
            if decoded.split('/').any(is_dots) {
                return Err("the path has a segment \".\" or \"..\" in it");
            }
            let again = percent_decode_str(&decoded).decode_utf8_lossy().into_owned();
            if again == decoded || round == ROUNDS {
                break;
            }
            decoded = again;
        }
        let lower = path.to_ascii_lowercase();
        let ambiguous = if rest.split('/').rev().skip(1).any(str::is_empty) {
            Some("an empty segment")
        } else if path.contains(';') || lower.contains("%3b") {
            Some("a semicolon")
        } else if lower.contains("%2f") {
            Some("an encoded slash")
        } else if lower.contains("%25") {
            Some("an encoded percent sign")
        } else {
            None
        };
        let segments = rest.split('/').map(|s| percent_decode_str(s).decode_utf8_lossy().into_owned()).collect();
        Ok(Self { segments, ambiguous })
    }
}

fn is_well_encoded(path: &str) -> bool {
    path.split('%')
        .skip(1)
        .all(|rest| rest.as_bytes().get(..2).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)))
}

/// Which paths a capability covers: `/v1/charges`, `/v1/charges/*` with any one segment, `/v1/**` with any number of
/// them, none included. `{name}` is another spelling of `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    segments: Vec<Part>,
    /// Whether anything may follow.
    open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Any,
}

impl PathPattern {
    /// Reads a pattern; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix('/').ok_or("must begin with a slash")?;
        let (rest, open) = match rest.strip_suffix("**") {
            Some("") => return Ok(Self { segments: Vec::new(), open: true }),
            Some(before) if before.ends_with('/') => (before.strip_suffix('/').unwrap_or(before), true),
            Some(_) => return Err("\"**\" must be a segment of its own".into()),
            None => (rest, false),
        };
        let part = |segment: &str| match segment {
            "*" => Ok(Part::Any),
            _ if segment.len() > 2 && segment.starts_with('{') && segment.ends_with('}') => Ok(Part::Any),
            _ if segment.contains(['*', '{', '}', '?', '#', ';', '\\', '%']) || segment == "." || segment == ".." => {
                Err(format!("\"{}\" is not a segment: use plain text, \"*\" or \"{{name}}\"", segment.escape_debug()))
            }
            _ => Ok(Part::Text(segment.to_owned())),
        };
        let segments: Vec<Part> = rest.split('/').map(part).collect::<Result<_, _>>()?;
        let inner = segments.len().saturating_sub(usize::from(!open));
        if segments.iter().take(inner).any(|part| *part == Part::Text(String::new())) {
            return Err("has an empty segment".into());
        }
        Ok(Self { segments, open })
    }

    pub(crate) fn matches(&self, path: &RequestPath) -> bool {
        let count = self.segments.len();
        let fits = path.segments.len() == count || self.open && path.segments.len() > count;
        let same = |(part, segment): (&Part, &String)| match part {
            Part::Text(text) => text == segment,
            Part::Any => !segment.is_empty(),
        };
        fits && self.segments.iter().zip(&path.segments).all(same)
    }
}

/// Whether a path is below the path of a base URL, which has no slash at its end.
pub(crate) fn is_below(prefix: &str, path: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ways_out_of_a_path_are_refused() {
        for bad in [
            "",
            "a",
            "/..",
            "/a/../b",
            "/a/./b",
            "/a/%2e%2e/b",
            "/a/.%2E",
            "/a/..%2fb",
            "/a/%252e%252e/b",
            "/a/..;x/b",
            "/a/%2e%2e%3bx/b",
            "/a\\..\\b",
            "/a%5cb",
            "/a%00",
            "/a%0d%0ab",
            "/a%",
            "/a%2",
            "/a%zz",
            "/a b",
            "/é",
            "/%25252e%25252e/x",
            "/a/..%252fb",
        ] {
            assert!(RequestPath::parse(bad).is_err(), "{bad}");
        }
        for (good, ambiguous) in [
            ("/", false),
            ("/a/b.c/...", false),
            ("/a/b/", false),
            ("/a%20b/%C3%A9", false),
            ("//a", true),
            ("/a//b", true),
            ("/a;v=1/b", true),
            ("/a%2Fb", true),
            ("/100%25", true),
        ] {
            assert_eq!(RequestPath::parse(good).unwrap().ambiguous.is_some(), ambiguous, "{good}");
        }
    }

    #[test]
    fn path_patterns_match_whole_segments() {
        let matches = |pattern: &str, path: &str| {
            PathPattern::parse(pattern).unwrap().matches(&RequestPath::parse(path).unwrap())
        };
        for (pattern, path) in [
            ("/", "/"),
            ("/**", "/"),
            ("/**", "/a/b"),
            ("/v1/charges", "/v1/charges"),
            ("/v1/charges", "/v1/%63harges"),
            ("/v1/*", "/v1/x"),
            ("/v1/{id}/refund", "/v1/7/refund"),
            ("/v1/**", "/v1"),
            ("/v1/**", "/v1/"),
            ("/v1/**", "/v1/a/b"),
            ("/v1/*/**", "/v1/a"),
            ("/v1/", "/v1/"),
        ] {
            assert!(matches(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("/", "/a"),
            ("/v1/charges", "/v1/Charges"),
            ("/v1/charges", "/v1/charges/"),
            ("/v1/*", "/v1/"),
            ("/v1/*", "/v1/a/b"),
            ("/v1/*", "/v1"),
            ("/v1/**", "/v10"),
            ("/v1/*/**", "/v1/"),
        ] {
            assert!(!matches(pattern, path), "{pattern} {path}");
        }
        for bad in ["", "v1", "/a**", "/a*b", "/**/a", "/a//b", "/a//**", "/..", "/{a", "/a?b", "/%61"] {
            assert!(PathPattern::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_is_below_a_base_url_by_whole_segments() {
        for (prefix, path) in [("", "/"), ("", "/x"), ("/v1", "/v1"), ("/v1", "/v1/x")] {
            assert!(is_below(prefix, path));
        }
        for (prefix, path) in [("/v1", "/v10"), ("/v1", "/"), ("/v1", "/V1/x"), ("/v1", "/%761/x")] {
            assert!(!is_below(prefix, path));
        }
    }
}
