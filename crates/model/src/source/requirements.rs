//! Requirement lines in pip's format, of which only plain requirements are taken: a name, extras, versions, a marker.
//! Options, addresses and paths would redirect the index or read files of the build machine.

use crate::{Digest, Error, Result};
use std::fmt::Write as _;

/// The most lines of text.
pub const MAX_LINES: usize = 500;
/// The most bytes of text.
pub const MAX_BYTES: usize = 64 << 10;

/// One requirement of PEP 508 without an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The distribution's name, normalised as PEP 503 says.
    pub name: String,
    /// The canonical line: name, extras, versions, marker.
    pub line: String,
}

/// Requirement lines in the order given, and their canonical text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    items: Vec<Requirement>,
    text: String,
}

impl Requirements {
    /// Parses `text`; an error names `field`, the line's number and the line.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        if text.len() > MAX_BYTES {
            return Err(Error::field(field, format!("{} bytes are too many, {MAX_BYTES} is the limit", text.len())));
        }
        if text.lines().count() > MAX_LINES {
            return Err(Error::field(field, format!("more than {MAX_LINES} lines")));
        }
        let mut parsed = Self::default();
        for (number, line) in logical_lines(text) {
            parsed.add(&line).map_err(|fault| Error::field(field, format!("line {number}: {fault}")))?;
        }
        Ok(parsed)
    }

    /// Parses a list in which each text is one requirement; an error names `field` with the text's index.
    pub fn from_list<'a>(field: &str, list: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut parsed = Self::default();
        for (index, text) in list.into_iter().enumerate() {
            let refused = |fault: String| Error::field(format!("{field}[{index}]"), fault);
            if index == MAX_LINES || parsed.text.len() + text.len() > MAX_BYTES {
                return Err(refused(format!("more than {MAX_LINES} requirements or {MAX_BYTES} bytes")));
            }
            parsed.add(text.trim()).map_err(refused)?;
        }
        Ok(parsed)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let requirement = requirement(line).map_err(|fault| {
            let shown: String = line.chars().take(200).collect();
            format!("\"{}\" {fault}", shown.escape_debug())
        })?;
        self.text.push_str(&requirement.line);
        self.text.push('\n');
        self.items.push(requirement);
        Ok(())
    }

    /// The canonical text: one line for each requirement, in the order given. The key of everything made from it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The digest of the canonical text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// The requirements, in the order given.
    pub fn iter(&self) -> std::slice::Iter<'_, Requirement> {
        self.items.iter()
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Lines with continuations joined and comments and blanks dropped, each with the number of its first physical line.
fn logical_lines(text: &str) -> impl Iterator<Item = (usize, String)> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate();
    std::iter::from_fn(move || {
        let (index, first) = lines.next()?;
        let mut line = first.to_owned();
        while line.ends_with('\\') && !line.trim_start().starts_with('#') {
            line.pop();
            let Some((_, next)) = lines.next() else { break };
            line.push_str(next);
        }
        Some((index + 1, without_comment(&line).trim().to_owned()))
    })
    .filter(|(_, line)| !line.is_empty())
}

/// A comment begins at the line's start or after white space, as pip reads it.
fn without_comment(line: &str) -> &str {
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        if c == '#' && before.is_whitespace() {
            return &line[..at];
        }
        before = c;
    }
    line
}

const FORM: &str = "only lines such as `name`, `name[extra]>=1.0,<2` or `name; python_version < \"3.12\"` are taken";

fn requirement(line: &str) -> Result<Requirement, String> {
    if line.starts_with('-') || line.contains(" --") || line.contains("\t--") {
        return Err(format!("is an option; {FORM}"));
    }
    if line.contains("${") {
        return Err(format!("names an environment variable; {FORM}"));
    }
    if line.contains("://") || line.contains('@') {
        return Err(format!("names an address; {FORM}"));
    }
    if line.contains(['/', '\\']) || line.starts_with('.') || line.starts_with('~') {
        return Err(format!("names a path; {FORM}"));
    }
    if line.contains(char::is_control) {
        return Err(format!("contains a control character; {FORM}"));
    }
    parse(&mut Cursor(line)).ok_or_else(|| format!("is not a requirement; {FORM}"))
}

/// `name [extras] [versions] [; marker]`.
fn parse(c: &mut Cursor<'_>) -> Option<Requirement> {
    let name = c.identifier()?;
    let mut line = name.clone();
    if c.eat("[") {
        let mut extras = Vec::new();
        while !c.eat("]") {
            if !extras.is_empty() && !c.eat(",") {
                return None;
            }
            extras.push(c.identifier()?);
        }
        if !extras.is_empty() {
            let _ = write!(line, "[{}]", extras.join(","));
        }
    }
    let parenthesised = c.eat("(");
    if !matches!(c.peek(), None | Some(';' | ')')) {
        let mut first = true;
        while first || c.eat(",") {
            if !first {
                line.push(',');
            }
            first = false;
            line.push_str(&c.version_clause()?);
        }
    }
    if parenthesised && !c.eat(")") {
        return None;
    }
    if c.eat(";") {
        line.push_str(" ; ");
        c.marker(&mut line, 0)?;
    }
    c.peek().is_none().then_some(Requirement { name, line })
}

/// What is left of the line. Every method skips the white space before its token.
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn peek(&mut self) -> Option<char> {
        self.0 = self.0.trim_start();
        self.0.chars().next()
    }

    fn eat(&mut self, token: &str) -> bool {
        self.peek();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn take_while(&mut self, inside: impl Fn(char) -> bool) -> &'a str {
        self.peek();
        let end = self.0.find(|c| !inside(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    /// A distribution's or an extra's name, normalised: lower case, runs of `-`, `_` and `.` are one `-`.
    fn identifier(&mut self) -> Option<String> {
        let raw = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        let ends = |c: char| c.is_ascii_alphanumeric();
        if !raw.starts_with(ends) || !raw.ends_with(ends) {
            return None;
        }
        let mut out = String::with_capacity(raw.len());
        for c in raw.chars() {
            match c {
                '-' | '_' | '.' if out.ends_with('-') => {}
                '-' | '_' | '.' => out.push('-'),
                _ => out.push(c.to_ascii_lowercase()),
            }
        }
        Some(out)
    }

    /// `>=1.0` and its like.
    fn version_clause(&mut self) -> Option<String> {
        let operator = ["===", "==", ">=", "<=", "~=", "!=", ">", "<"].into_iter().find(|op| self.eat(op))?;
        let version = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '*' | '+' | '!' | '_' | '-'));
        let begins = version.strip_prefix(['v', 'V']).unwrap_or(version).starts_with(|c: char| c.is_ascii_digit());
        let wildcard = !version.contains('*')
            || (matches!(operator, "==" | "!=") && version.ends_with(".*") && version.matches('*').count() == 1);
        (begins && wildcard).then(|| format!("{operator}{version}"))
    }

    /// Alternatives and conjunctions of comparisons, in parentheses or not, written out with single spaces.
    fn marker(&mut self, out: &mut String, depth: usize) -> Option<()> {
        if depth > 16 {
            return None;
        }
        loop {
            if self.eat("(") {
                out.push('(');
                self.marker(out, depth + 1)?;
                if !self.eat(")") {
                    return None;
                }
                out.push(')');
            } else {
                let left = self.operand()?;
                let operator = self.comparison()?;
                let right = self.operand()?;
                let _ = write!(out, "{left} {operator} {right}");
            }
            match self.word() {
                Some(word @ ("and" | "or")) => {
                    let _ = write!(out, " {word} ");
                }
                Some(_) => return None,
                None => return Some(()),
            }
        }
    }

    fn word(&mut self) -> Option<&'a str> {
        Some(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
    }

    /// A variable of the environment or a quoted text.
    fn operand(&mut self) -> Option<String> {
        let Some(quote @ ('"' | '\'')) = self.peek() else {
            const VARIABLES: [&str; 12] = [
                "python_version",
                "python_full_version",
                "os_name",
                "sys_platform",
                "platform_release",
                "platform_system",
                "platform_version",
                "platform_machine",
                "platform_python_implementation",
                "implementation_name",
                "implementation_version",
                "extra",
            ];
            return self.word().filter(|word| VARIABLES.contains(word)).map(str::to_owned);
        };
        self.0 = &self.0[1..];
        let (text, rest) = self.0.split_once(quote)?;
        self.0 = rest;
        let quote = if text.contains('"') { '\'' } else { '"' };
        Some(format!("{quote}{text}{quote}"))
    }

    fn comparison(&mut self) -> Option<&'static str> {
        if let Some(operator) = ["===", "==", ">=", "<=", "~=", "!=", ">", "<"].into_iter().find(|op| self.eat(op)) {
            return Some(operator);
        }
        match self.word()? {
            "in" => Some("in"),
            "not" => (self.word()? == "in").then_some("not in"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Code;

    #[test]
    fn plain_requirements_become_canonical() {
        for (given, want) in [
            ("openai>=1.0\nrequests", "openai>=1.0\nrequests\n"),
            ("  Flask_Login == 0.6.* , != 0.6.1  # why\r\n\r\n# note \\\nsix", "flask-login==0.6.*,!=0.6.1\nsix\n"),
            ("uvicorn [Standard, a.b] (>=0.1,<1)", "uvicorn[standard,a-b]>=0.1,<1\n"),
            ("a \\\n >= \\\n 1", "a>=1\n"),
            ("x[]", "x\n"),
            ("x===1.0+local.1", "x===1.0+local.1\n"),
            (
                "x~=1.0;python_version<'3.12' and ( os_name!=\"nt\" or 'linux' in sys_platform )",
                "x~=1.0 ; python_version < \"3.12\" and (os_name != \"nt\" or \"linux\" in sys_platform)\n",
            ),
            ("x ; platform_machine not in 'arm64'", "x ; platform_machine not in \"arm64\"\n"),
            ("\u{feff}x # y", "x\n"),
            ("", ""),
            ("# only a comment", ""),
        ] {
            assert_eq!(Requirements::parse("requirements", given).unwrap().text(), want, "{given:?}");
        }
    }

    #[test]
    fn whatever_is_no_plain_requirement_is_refused_with_its_line() {
        for bad in [
            "--index-url http://evil.example/simple",
            "-e .",
            "-r other.txt",
            "pkg @ file:///etc",
            "--config-settings x=y",
            "-i x",
            "-f links",
            "--no-binary :all:",
            "requests --hash=sha256:00",
            "requests\t--hash=x",
            "https://x.example/a.whl",
            "git+ssh://x",
            "pkg@1",
            "./local",
            "../up",
            "local.whl/",
            "dir\\x",
            ".",
            "~/x",
            "pkg==${VERSION}",
            "${PKG}",
            "requests=1",
            "requests>=",
            "requests 1.0",
            "requests>1 <2",
            "requests>=1,",
            "-",
            "a[",
            "a[b",
            "a[b c]",
            "a[,b]",
            "a(>=1",
            "a>=1)",
            "_a",
            "a_",
            "ß",
            "a;",
            "a; python_version",
            "a; evil == 'x'",
            "a; os_name == 'x' and",
            "a; os_name == 'x",
            "a; os_name is 'x'",
            "a>1.*",
            "a==1.*.*",
            "a==*",
            "a\u{7}",
            "x#y",
        ] {
            let text = format!("six\n# note\n{bad}\n");
            let e = Requirements::parse("requirements", &text).expect_err(bad);
            assert_eq!((e.code, e.field.as_deref()), (Code::InvalidArgument, Some("requirements")), "{bad}");
            assert!(e.message.contains(&format!("requirements: line 3: \"{}\"", bad.escape_debug())), "{bad}: {e}");
        }
    }

    #[test]
    fn a_list_is_read_like_lines() {
        let list = Requirements::from_list("f", ["Flask_Login >= 1 ; os_name == 'posix'", " six"]).unwrap();
        assert_eq!(list.text(), "flask-login>=1 ; os_name == \"posix\"\nsix\n");
        for bad in ["", "a\nb", "a # note", "-e .", "a @ https://x.example/a.whl", "a --hash=x", "./a"] {
            let e = Requirements::from_list("f", ["six", bad]).expect_err(bad);
            assert_eq!(e.field.as_deref(), Some("f[1]"), "{bad}");
        }
        assert!(Requirements::from_list("f", ["a"; MAX_LINES]).is_ok());
        assert!(Requirements::from_list("f", ["a"; MAX_LINES + 1]).is_err());
    }

    #[test]
    fn size_is_bounded() {
        assert!(Requirements::parse("requirements", &"a\n".repeat(MAX_LINES)).is_ok());
        assert!(Requirements::parse("requirements", &"a\n".repeat(MAX_LINES + 1)).is_err());
        assert!(Requirements::parse("requirements", &"#".repeat(MAX_BYTES + 1)).is_err());
        assert!(Requirements::parse("requirements", &format!("a; {}os_name == 'x'", "(".repeat(100))).is_err());
    }

    #[test]
    fn the_same_requirements_have_the_same_digest() {
        let digest = |text| Requirements::parse("requirements", text).unwrap().digest();
        assert_eq!(digest("Open_AI >= 1\n\n# x\nsix"), digest("open-ai>=1\nsix"));
        assert_ne!(digest("a\nb"), digest("b\na"));
    }
}
