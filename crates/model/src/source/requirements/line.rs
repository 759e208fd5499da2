//! One requirement according to PEP 508, without an address.

use super::{HASH, Requirement, normalised};
use std::{collections::BTreeSet, fmt::Write as _};

/// The accepted forms of a line.
pub(super) const FORM: &str =
    "only lines such as `name`, `name[extra]>=1.0,<2` or `name; python_version < \"3.12\"` are taken";
/// The remedy for an address or a path.
const VENDOR: &str = "packages come from the index only: put its files into the source (vendor it), or a wheel of it into \
                      the operator's index";

/// Parses a line; the error quotes it.
pub(super) fn requirement(line: &str) -> Result<Requirement, String> {
    let (line, hashes) = split_hashes(line).map_err(|fault| quoted(line, &fault))?;
    let fault = |fault: &str| quoted(line, fault);
    if line.starts_with('-') {
        return Err(fault(&format!("is an option; {FORM}")));
    }
    if line.contains("${") {
        return Err(fault(&format!("names an environment variable; {FORM}")));
    }
    if line.contains("://") || line.contains('@') {
        return Err(fault(&format!("names an address; {VENDOR}")));
    }
    if line.contains(['/', '\\']) || line.starts_with('.') || line.starts_with('~') || is_archive(line) {
        return Err(fault(&format!("names a path; {VENDOR}")));
    }
    if line.contains('#') {
        return Err(fault("contains '#', which begins a comment"));
    }
    if line.contains(char::is_control) {
        return Err(fault(&format!("contains a control character; {FORM}")));
    }
    let (name, line) = parse(&mut Cursor(line)).ok_or_else(|| fault(&format!("is not a requirement; {FORM}")))?;
    Ok(Requirement { name, line, hashes })
}

/// Whether the name is that of a file. On the index, it would be a package that any user may publish.
fn is_archive(line: &str) -> bool {
    const ENDS: [&str; 7] = [".whl", ".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"];
    let name = line.split([' ', '\t', ';', '[', '(', '<', '>', '=', '!', '~', ',']).next().unwrap_or_default();
    let name = name.to_ascii_lowercase();
    ENDS.iter().any(|end| name.ends_with(end))
}

/// Formats a line and its problem.
pub(super) fn quoted(line: &str, fault: &str) -> String {
    let shown: String = without_credentials(line).chars().take(200).collect();
    format!("\"{}\" {fault}", shown.escape_debug())
}

/// Removes the users, passwords and queries of addresses from a line.
fn without_credentials(line: &str) -> String {
    line.split(' ').map(without_credentials_in_word).collect::<Vec<_>>().join(" ")
}

fn without_credentials_in_word(word: &str) -> String {
    let Some((before, rest)) = word.split_once("://") else { return word.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    // A password may contain `@`, `?` and `/`, and `@` may precede a version: only a host is shown.
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let after = user.map_or(rest, |user| &rest[user.len() + 1..]);
    let (path, query) = after.split_once('?').map_or((after, ""), |(path, _)| (path, "?***"));
    let shown = match user {
        None if has_host(path) => path,
        // Either may be the secret: the user before `?`, or the query after it.
        Some(user) if user.split_once('?').is_some_and(|(host, _)| has_host(host) && looks_like_host(host)) => "***",
        _ => {
            let own = user.map(|_| path);
            let mut hosts = own.into_iter().chain(path.match_indices('@').map(|(at, _)| &path[at + 1..]));
            let host = hosts.clone().find(|text| looks_like_host(text)).or(hosts.next_back());
            return host.map_or(format!("{before}://***"), |host| format!("{before}://***@{host}{query}"));
        }
    };
    format!("{before}://{shown}{query}")
}

/// Whether a text begins with a possible host and port, and not with a user and a password.
fn has_host(text: &str) -> bool {
    let host = text.split(['/', '#']).next().unwrap_or_default();
    host.split_once(':').is_none_or(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
}

fn looks_like_host(text: &str) -> bool {
    let host = text.split(['/', '@', '#', ':']).next().unwrap_or_default();
    host.contains('.') || host == "localhost"
}

/// Splits a line into the requirement and its hashes.
fn split_hashes(line: &str) -> Result<(&str, BTreeSet<String>), String> {
    let option = |at: &usize| line[..*at].ends_with([' ', '\t']);
    let Some(at) = line.match_indices("--").map(|(at, _)| at).find(option) else { return Ok((line, BTreeSet::new())) };
    let mut hashes = BTreeSet::new();
    let given = line[at..].replace("--hash ", "--hash=").replace("--hash\t", "--hash=");
    for word in given.split_whitespace() {
        let hash =
            word.strip_prefix(HASH).filter(|hash| hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()));
        hashes.insert(hash.ok_or_else(|| hash_fault(word))?.to_ascii_lowercase());
    }
    Ok((line[..at].trim_end(), hashes))
}

fn hash_fault(word: &str) -> String {
    let shown: String = word.chars().take(100).collect();
    if word.starts_with("--hash") {
        format!("has {shown}, and {HASH} with 64 hexadecimal digits is the only form of a hash that is taken")
    } else {
        format!("has {shown}, and --hash is the only option that a requirement may have: leave it out")
    }
}

/// Parses `name [extras] [versions] [; marker]` into the name and the canonical line.
fn parse(c: &mut Cursor<'_>) -> Option<(String, String)> {
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
    c.peek().is_none().then_some((name, line))
}

/// The rest of the line. Every method skips the white space before its token.
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

    /// Parses the name of a distribution or of an extra, normalised: lower case, runs of `-`, `_` and `.` are one `-`.
    fn identifier(&mut self) -> Option<String> {
        let raw = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
        let ends = |c: char| c.is_ascii_alphanumeric();
        if !raw.starts_with(ends) || !raw.ends_with(ends) {
            return None;
        }
        Some(normalised(raw))
    }

    /// Parses a clause such as `>=1.0`.
    fn version_clause(&mut self) -> Option<String> {
        let operator = ["===", "==", ">=", "<=", "~=", "!=", ">", "<"].into_iter().find(|op| self.eat(op))?;
        let version = self.take_while(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '*' | '+' | '!' | '_' | '-'));
        let begins = version.strip_prefix(['v', 'V']).unwrap_or(version).starts_with(|c: char| c.is_ascii_digit());
        let wildcard = !version.contains('*')
            || (matches!(operator, "==" | "!=") && version.ends_with(".*") && version.matches('*').count() == 1);
        (begins && wildcard).then(|| format!("{operator}{version}"))
    }

    /// Parses alternatives and conjunctions of comparisons, with or without parentheses, and writes them with single
    /// spaces.
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

    /// Parses an environment variable of markers or a quoted text.
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
