//! Requirement lines in pip's format. Plain requirements are accepted: a name, extras, versions, a marker, hashes; and
//! included files of the source. Other options, addresses and paths would redirect the index or read files of the build
//! machine.

mod file;
mod line;
mod option;

use super::SourceFiles;
use crate::{Digest, Error, Result};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// The most requirements and constraints together.
pub const MAX_REQUIREMENTS: usize = 2_000;
/// The most bytes of one file, and of the canonical text. Hashes are most of a large one.
pub const MAX_BYTES: usize = 1 << 20;

/// The prefix of a constraint in the canonical text; no line of a pip file begins like this.
const CONSTRAINT: &str = "~ ";
/// The prefix of a hash.
const HASH: &str = "--hash=sha256:";

/// The message about an index in the source.
pub(super) const OF_THE_OPERATOR: &str = "says where packages come from, which is the operator's: \
     HOISTWAY_BUILD_INDEX_URL or HOISTWAY_BUILD_EXTRA_INDEX_URLS";

/// One requirement of PEP 508 without an address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// The distribution's name, normalised according to PEP 503.
    pub name: String,
    /// The canonical line: name, extras, versions, marker.
    pub line: String,
    /// SHA-256 digests of the allowed files, in lower-case hexadecimal digits; empty means any file of the index.
    pub hashes: BTreeSet<String>,
}

/// Requirement lines in the original order, their version constraints, and their canonical text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Requirements {
    items: Vec<Requirement>,
    constraints: Vec<Requirement>,
    text: String,
}

/// The result of parsing a requirements file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct FileContent {
    /// The requirements.
    pub requirements: Requirements,
    /// Whether it also requires the project of the source itself.
    pub own_project: bool,
    /// Warnings about ignored lines.
    pub warnings: Vec<String>,
}

impl Requirement {
    /// Whether it allows some versions only.
    pub fn names_versions(&self) -> bool {
        self.line.split(';').next().unwrap_or_default().contains(['<', '>', '=', '~', '!'])
    }
}

impl Requirements {
    /// Parses `text`, which includes no files; an error names `field`, the line's number and the line.
    pub fn parse(field: &str, text: &str) -> Result<Self> {
        file::read(field, "", text, &SourceFiles::default()).map(|content| content.requirements)
    }

    /// Parses the text of the file `name` of a source, or of the request with an empty name, and its included files.
    pub(crate) fn read(field: &str, name: &str, text: &str, files: &SourceFiles) -> Result<FileContent> {
        file::read(field, name, text, files)
    }

    /// Parses a list in which each text is one requirement; an error names `field` with the text's index.
    pub fn from_list<'a>(field: &str, list: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut parsed = Self::default();
        for (index, text) in list.into_iter().enumerate() {
            let added = line::requirement(text.trim()).and_then(|requirement| parsed.add(requirement, false));
            added.map_err(|fault| Error::field(format!("{field}[{index}]"), fault))?;
        }
        Ok(parsed)
    }

    fn add(&mut self, requirement: Requirement, constraint: bool) -> Result<(), String> {
        let before = self.text.len();
        if constraint {
            self.text.push_str(CONSTRAINT);
        }
        self.text.push_str(&requirement.line);
        for hash in &requirement.hashes {
            self.text.extend([" ", HASH, hash]);
        }
        self.text.push('\n');
        let (count, bytes) = (self.items.len() + self.constraints.len(), self.text.len());
        if count == MAX_REQUIREMENTS || bytes > MAX_BYTES {
            self.text.truncate(before);
            return Err(format!("more than {MAX_REQUIREMENTS} requirements or {MAX_BYTES} bytes"));
        }
        if constraint { &mut self.constraints } else { &mut self.items }.push(requirement);
        Ok(())
    }

    /// Appends another's requirements and constraints.
    pub(crate) fn extend(&mut self, other: Self) -> Result<(), String> {
        let items = other.items.into_iter().map(|item| (item, false));
        let all = items.chain(other.constraints.into_iter().map(|item| (item, true)));
        all.into_iter().try_for_each(|(item, constraint)| self.add(item, constraint))
    }

    /// Returns the canonical text: one line for each requirement and constraint, in the original order, which
    /// [`Self::parse`] accepts. It is the key of everything derived from it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the digest of the canonical text.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// Returns the requirements, in the original order.
    pub fn iter(&self) -> std::slice::Iter<'_, Requirement> {
        self.items.iter()
    }

    /// Returns the constraints, which bound versions but add no package.
    pub fn constraints(&self) -> std::slice::Iter<'_, Requirement> {
        self.constraints.iter()
    }

    /// Returns the names of the packages that `former` bounds and that are no longer bound like that, or of which other
    /// files are allowed.
    pub fn changed_bounds<'a>(&'a self, former: &'a Self) -> HashSet<&'a str> {
        let items = missing_in(&self.items, &former.items);
        let gone = items.chain(missing_in(&self.constraints, &former.constraints));
        let unbound = gone.filter(|item| item.names_versions()).map(|item| item.name.as_str());
        let (hashes, former_hashes) = (self.hashes(), former.hashes());
        let names = hashes.keys().chain(former_hashes.keys()).copied();
        unbound.chain(names.filter(|name| hashes.get(name) != former_hashes.get(name))).collect()
    }

    /// Returns what was added to `former`, with the constraints, which are the same in both. None if something else has
    /// changed, too: a requirement that is not there any more, or a constraint.
    pub fn added_to(&self, former: &Self) -> Option<Self> {
        if self.constraints != former.constraints || missing_in(&self.items, &former.items).next().is_some() {
            return None;
        }
        let items = missing_in(&former.items, &self.items).cloned().collect();
        let mut added = Self::default();
        added.extend(Self { items, constraints: self.constraints.clone(), text: String::new() }).ok()?;
        Some(added)
    }

    /// Returns the hashes of allowed files, by package; a package without any is unrestricted.
    pub fn hashes(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for item in self.items.iter().chain(&self.constraints).filter(|item| !item.hashes.is_empty()) {
            all.entry(&item.name).or_default().extend(item.hashes.iter().map(String::as_str));
        }
        all
    }

    /// Whether nothing is required.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// Those of `wanted` that are not among `there`.
fn missing_in<'a>(there: &[Requirement], wanted: &'a [Requirement]) -> impl Iterator<Item = &'a Requirement> {
    let there: HashSet<&Requirement> = there.iter().collect();
    wanted.iter().filter(move |item| !there.contains(item))
}

/// Normalises a distribution's name according to PEP 503.
pub(super) fn normalised(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for c in name.chars() {
        match c {
            '-' | '_' | '.' if out.ends_with('-') => {}
            '-' | '_' | '.' => out.push('-'),
            _ => out.push(c.to_ascii_lowercase()),
        }
    }
    out
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
            "-r other.txt",
            "-c ../up.txt",
            "-r https://x.example/r.txt",
            "-e ./lib",
            "-e git+https://x.example/y",
            "pkg @ file:///etc",
            "--config-settings x=y",
            "-i x",
            "-f links",
            "--no-binary :all:",
            "requests --hash=sha256:00",
            "requests\t--hash=x",
            "requests --hash=md5:d41d8cd98f00b204e9800998ecf8427e",
            "requests --global-option=x",
            "https://x.example/a.whl",
            "git+ssh://x",
            "pkg@1",
            "./local",
            "../up",
            "local.whl/",
            "mylib.zip",
            "six-1.16.0.tar.gz",
            "x-1.0-py3-none-any.WHL ; os_name == 'posix'",
            "dist.tgz[extra]==1",
            "dir\\x",
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
            let shown = bad.strip_prefix("-e ").unwrap_or(bad);
            assert!(e.message.contains(&format!("requirements: line 3: \"{}\"", shown.escape_debug())), "{bad}: {e}");
        }
    }

    #[test]
    fn a_list_is_read_like_lines() {
        let list = Requirements::from_list("f", ["Flask_Login >= 1 ; os_name == 'posix'", " six"]).unwrap();
        assert_eq!(list.text(), "flask-login>=1 ; os_name == \"posix\"\nsix\n");
        for bad in
            ["", "a\nb", "a # note", "a; os_name != 'x #y'", "-e .", "a @ https://x.example/a.whl", "a --hash=x", "./a"]
        {
            let e = Requirements::from_list("f", ["six", bad]).expect_err(bad);
            assert_eq!(e.field.as_deref(), Some("f[1]"), "{bad}");
        }
        assert!(Requirements::from_list("f", ["a"; MAX_REQUIREMENTS]).is_ok());
        assert!(Requirements::from_list("f", ["a"; MAX_REQUIREMENTS + 1]).is_err());
    }

    #[test]
    fn size_is_bounded() {
        assert!(Requirements::parse("requirements", &"a\n".repeat(MAX_REQUIREMENTS)).is_ok());
        assert!(Requirements::parse("requirements", &"a\n".repeat(MAX_REQUIREMENTS + 1)).is_err());
        assert!(Requirements::parse("requirements", &"#".repeat(MAX_BYTES + 1)).is_err());
        assert!(Requirements::parse("requirements", &format!("a; {}os_name == 'x'", "(".repeat(100))).is_err());
    }

    #[test]
    fn the_same_requirements_have_the_same_digest() {
        let digest = |text| Requirements::parse("requirements", text).unwrap().digest();
        assert_eq!(digest("Open_AI >= 1\n\n# x\nsix"), digest("open-ai>=1\nsix"));
        assert_ne!(digest("a\nb"), digest("b\na"));
    }

    #[test]
    fn additions_and_changed_bounds_are_known() {
        let parse = |text: &str| Requirements::parse("requirements", text).unwrap();
        let hash = format!(" --hash=sha256:{}", "0".repeat(64));
        let former = parse(&format!("b==1{hash}\na ; os_name == 'posix'\n~ c<2"));
        let a = "a ; os_name == 'posix'";
        for (text, added, changed) in [
            ("@\nb==1#\n~ c<2", Some("~ c<2\n"), ""),
            ("@\nb==1#\n~ c<2\nd>1", Some("d>1\n~ c<2\n"), ""),
            ("@\nb==1#\n~ c<2\nb<3", Some("b<3\n~ c<2\n"), ""),
            ("@\nb==1\n~ c<2", None, "b"),
            ("@\n~ c<2\nb", None, "b"),
            ("a\nb==1#\n~ c<2", None, ""),
            ("b==1#\n~ c<2", None, ""),
            ("@\nb==1#", None, "c"),
            ("@\nb==1#\n~ c<2\n~ d<1", None, ""),
        ] {
            let requirements = parse(&text.replace('#', &hash).replace('@', a));
            assert_eq!(requirements.added_to(&former).as_ref().map(Requirements::text), added, "{text}");
            assert_eq!(Vec::from_iter(requirements.changed_bounds(&former)).concat(), changed, "{text}");
        }
    }

    fn files(pairs: &[(&str, &str)]) -> SourceFiles {
        SourceFiles::parse(pairs.iter().map(|(n, t)| (n.to_string(), t.to_string())).collect()).unwrap()
    }

    #[test]
    fn files_are_included_relative_to_the_one_that_names_them() {
        let source = files(&[
            ("requirements.txt", ""),
            ("more/base.txt", "six==1.16.0\n-c 'limits.txt'\n--requirement=../requirements.txt\n-r base.txt\n"),
            ("more/limits.txt", "urllib3<2\n-r deep.txt\n"),
            ("more/deep.txt", "idna<3"),
        ]);
        let read = |text: &str| Requirements::read("f", "requirements.txt", text, &source).unwrap().requirements;
        let all = read("-rmore/base.txt\nrequests\n");
        assert_eq!(all.text(), "six==1.16.0\n~ urllib3<2\n~ idna<3\nrequests\n");
        assert_eq!(all.iter().map(|item| item.name.as_str()).collect::<Vec<_>>(), ["six", "requests"]);
        assert_eq!(all.constraints().count(), 2);
        assert_eq!(Requirements::parse("f", all.text()).unwrap(), all);
        assert!(read("-c more/limits.txt").is_empty());
        assert_eq!(read("-r more/base.txt -c more/deep.txt").constraints().count(), 2);
        let deep: Vec<_> = (0..100).map(|i| (format!("r{i}.txt"), format!("-r r{}.txt", i + 1))).collect();
        let deep = SourceFiles::parse(deep.into_iter().collect()).unwrap();
        let e = Requirements::read("f", "requirements.txt", "-r r0.txt", &deep).unwrap_err();
        assert!(e.message.contains("more than 20 deep"), "{e}");
        let broken = files(&[("more/base.txt", "six\n-r gone.txt"), ("bad.txt", "x\n==")]);
        for (text, field, words) in [
            ("six\n-r gone.txt", "f", "line 2: \"-r gone.txt\" names a file that is not in the source"),
            ("-r ../base.txt", "f", "\"-r ../base.txt\" names a file"),
            ("-r /etc/passwd", "f", "\"-r /etc/passwd\" names a file"),
            ("-r more/base.txt", "source_files[\"more/base.txt\"]", "line 2: \"-r gone.txt\""),
            ("-r bad.txt", "source_files[\"bad.txt\"]", "line 2: \"==\" is not a requirement"),
        ] {
            let e = Requirements::read("f", "requirements.txt", text, &broken).unwrap_err();
            assert_eq!(e.field.as_deref(), Some(field));
            assert!(e.message.contains(words), "{e}");
        }
    }

    #[test]
    fn hashes_bound_the_files_of_a_package() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let text = format!(
            "six==1.16.0 \\\n    --hash=sha256:{} \\\n    --hash=sha256:{b}\n    # via x\nrequests\n",
            a.to_uppercase()
        );
        let all = Requirements::parse("f", &text).unwrap();
        assert_eq!(all.text(), format!("six==1.16.0 --hash=sha256:{a} --hash=sha256:{b}\nrequests\n"));
        assert_eq!(all.hashes(), BTreeMap::from([("six", BTreeSet::from([a.as_str(), b.as_str()]))]));
        assert_eq!(Requirements::parse("f", all.text()).unwrap(), all);
        let apart = Requirements::parse("f", &format!("six --hash sha256:{a} --hash\tsha256:{b}")).unwrap();
        assert_eq!(apart.hashes()["six"].len(), 2);
        let e = Requirements::parse("f", &format!("--require-hashes\n{text}")).unwrap_err();
        assert!(e.message.contains("\"requests\" has no hash"), "{e}");
    }

    #[test]
    fn the_source_itself_and_needless_options_are_dropped_with_a_warning() {
        for line in
            ["-e .", ".", "--editable=.", "./", "-e file:.", "-e .#egg=shop", ". ; python_version >= '3.8'", "./."]
        {
            let content = Requirements::read("f", "requirements.txt", &format!("six\n{line}\n"), &files(&[])).unwrap();
            assert_eq!((content.requirements.text(), content.own_project), ("six\n", true), "{line}");
            let shown = line.escape_debug();
            let warning = format!("f: line 2: \"{shown}\" is the source itself, which is there and not installed");
            assert_eq!(content.warnings, [warning]);
            let e = Requirements::parse("requirements", line).unwrap_err();
            assert!(e.message.contains("leave the line out"), "{e}");
        }
        for line in ["-e .[dev]", ".[dev] ; python_version >= '3.8'"] {
            let content = Requirements::read("f", "r.txt", line, &files(&[])).unwrap();
            assert!(content.warnings[0].ends_with("list the packages of its extras"), "{:?}", content.warnings);
        }
        let limits = files(&[("c.txt", "-e .\nsix<2")]);
        assert!(!Requirements::read("f", "r.txt", "-c c.txt", &limits).unwrap().own_project);
        let content = Requirements::read("f", "", "--prefer-binary\nsix", &files(&[])).unwrap();
        assert_eq!((content.own_project, content.warnings.len()), (false, 1));
    }

    #[test]
    fn options_that_ask_for_what_is_done_anyway_are_dropped_with_a_warning() {
        for line in [
            "-i https://pypi.org/simple",
            "--index-url=https://PyPI.org/simple/",
            "--extra-index-url https://pypi.python.org/simple",
            "--trusted-host pypi.org",
            "--only-binary :all:",
            "--no-binary :none:",
            "--use-feature=fast-deps",
        ] {
            let content = Requirements::read("f", "r.txt", &format!("{line}\nsix"), &files(&[])).unwrap();
            assert_eq!(content.requirements.text(), "six\n", "{line}");
            assert!(
                content.warnings.concat().starts_with(&format!("f: line 1: \"{line}\" ")),
                "{:?}",
                content.warnings
            );
            assert!(content.warnings.concat().contains("ignored"), "{:?}", content.warnings);
        }
        let of = |text: &str| Requirements::read("f", "r.txt", text, &files(&[])).unwrap();
        let two = of("-i https://pypi.org/simple --prefer-binary\nsix");
        assert_eq!((two.requirements.text(), two.warnings.len()), ("six\n", 2));
        assert_eq!(of(&"--prefer-binary\n".repeat(1_000)).warnings.len(), 50);
        for other in
            ["-i https://pypi.org.x.example/simple", "-i https://x@pypi.org/simple", "-i https://pypi.org/simple2"]
        {
            assert!(Requirements::parse("f", other).is_err(), "{other}");
        }
    }

    #[test]
    fn refusals_say_what_to_do_instead() {
        for (line, words) in [
            ("-i https://x.example/simple", "HOISTWAY_BUILD_INDEX_URL"),
            ("--extra-index-url=https://x.example", "HOISTWAY_BUILD_EXTRA_INDEX_URLS"),
            ("--find-links ./wheels", "PIP_FIND_LINKS"),
            ("--trusted-host x.example", "PIP_TRUSTED_HOST"),
            (
                "--index-url https://pypi.org/simple --extra-index-url https://x.example",
                "HOISTWAY_BUILD_EXTRA_INDEX_URLS",
            ),
            ("--only-binary :all: --pre", "name>=2.0rc1"),
            ("--no-binary=numpy", "only wheels are installed"),
            ("--user", "leave it out"),
            ("six --pre", "leave it out"),
            ("six @ git+https://x.example/six@1", "vendor it"),
            ("-e git+https://x.example/six.git", "vendor it"),
            ("./lib", "vendor it"),
            ("--index-url https://user:pass@x.example/simple", "\"--index-url https://***@x.example/simple\""),
            ("git+https://token@x.example/y.git@1.0", "\"git+https://***@x.example/y.git@1.0\""),
            ("git+https://x.example/y.git@1.0", "\"git+https://x.example/y.git@1.0\""),
            ("git+https://u:p@ss/word@x.example/y.git@1.0", "\"git+https://***@x.example/y.git@1.0\""),
            ("https://u:pass/word@x.example/y", "\"https://***@x.example/y\""),
            ("-i https://user:p@ss.word1@x.example/simple", "\"-i https://***@x.example/simple\""),
            ("-i https://user:p@localhost1@x.example/simple", "\"-i https://***@x.example/simple\""),
            ("-i https://user:hunter2?x@x.example/simple", "\"-i https://***@x.example/simple\""),
            ("git+https://tok?en@x.example/y?z", "\"git+https://***@x.example/y?***\""),
            ("-i https://user:hunter2/simple", "\"-i https://***\""),
            ("-i https://user:hun/ter2?x@x.example/simple", "\"-i https://***\""),
            ("-f https://x.example?token=hunter2@y.z", "\"-f https://***\""),
            ("-f https://x.example/?token=hunter2", "\"-f https://x.example/?***\""),
            ("x@https://x.example/x.whl?token=hunter2", "\"x@https://x.example/x.whl?***\""),
        ] {
            let e = Requirements::parse("requirements", line).unwrap_err();
            assert!(e.message.contains(words), "{e}");
        }
    }
}
