//! The Python and the platform that an image is built for, and what this machine's interpreter can do for them.

use super::{Interpreter, Libc, standard_library};
use crate::platform::Platform;
use hoistway_confine::python::OLDEST;
use hoistway_model::{Code, Error, Result, source::RequiresPython};
use std::{collections::BTreeSet, fmt, sync::Arc};

/// What an image is built for. Clones are cheap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    host: Interpreter,
    /// Nothing for what runs with the host's interpreter.
    foreign: Option<Foreign>,
}

/// A Python that this machine does not have.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Foreign {
    version: (u32, u32),
    full_version: String,
    platform: Platform,
    libc: Libc,
}

/// What package installers have to be told of a Python that is not the host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wheels<'a> {
    /// The version, as exactly as it is known: `3.13.1`, or `3.13`.
    pub python: &'a str,
    /// `x86_64`, `aarch64`.
    pub machine: &'static str,
    /// The C library.
    pub libc: Libc,
}

impl Target {
    /// The host's interpreter.
    pub fn host(host: &Interpreter) -> Self {
        Self { host: host.clone(), foreign: None }
    }

    /// The Python of a base image, of a version such as `3.13.1` or `3.13`. One that is like the host's counts as the
    /// host's. The error says why there can be no agents on it.
    pub fn of_base(
        host: &Interpreter,
        full_version: &str,
        platform: &Platform,
        libc: Option<Libc>,
    ) -> Result<Self, String> {
        let version = minor(full_version).ok_or_else(|| format!("\"{full_version}\" is not a version of Python"))?;
        if version < OLDEST || version.0 > OLDEST.0 {
            return Err(format!("it has Python {full_version}; agents need Python {}.{} or newer", OLDEST.0, OLDEST.1));
        }
        if !platform.is_supported() {
            return Err(format!("it is for {platform}; only linux/amd64 and linux/arm64 are supported"));
        }
        let runs = |own: Libc| libc.is_none_or(|libc| own.runs_with(libc));
        let like_host = version == host.version
            && platform.suits(&Platform::new(&host.os, &host.architecture))
            && host.libc.is_none_or(runs);
        if like_host {
            return Ok(Self::host(host));
        }
        let libc = libc.ok_or("neither glibc's libc.so.6 nor musl's loader was found in its layers")?;
        let foreign = Foreign { version, full_version: full_version.to_owned(), platform: platform.clone(), libc };
        Ok(Self { host: host.clone(), foreign: Some(foreign) })
    }

    /// The interpreter of this machine, which starts installers and parses sources.
    pub fn interpreter(&self) -> &Interpreter {
        &self.host
    }

    /// The interpreter that compiles modules to bytecode for this Python: only one of the same minor version can.
    pub fn compiler(&self) -> Option<&Interpreter> {
        (self.version() == self.host.version).then_some(&self.host)
    }

    /// The wheels that fit; nothing where the host's interpreter decides that.
    pub fn wheels(&self) -> Option<Wheels<'_>> {
        let Foreign { full_version, platform, libc, .. } = self.foreign.as_ref()?;
        let machine = if platform.architecture == "arm64" { "aarch64" } else { "x86_64" };
        Some(Wheels { python: full_version, machine, libc: *libc })
    }

    /// Major and minor version.
    pub fn version(&self) -> (u32, u32) {
        self.foreign.as_ref().map_or(self.host.version, |foreign| foreign.version)
    }

    /// `major.minor`.
    pub fn python(&self) -> String {
        let (major, minor) = self.version();
        format!("{major}.{minor}")
    }

    /// The version, as exactly as it is known.
    pub fn full_version(&self) -> &str {
        self.foreign.as_ref().map_or(&self.host.full_version, |foreign| &foreign.full_version)
    }

    /// Operating system and architecture.
    pub fn platform(&self) -> Platform {
        let host = || Platform::new(&self.host.os, &self.host.architecture);
        self.foreign.as_ref().map_or_else(host, |foreign| Platform { variant: None, ..foreign.platform.clone() })
    }

    /// Everything that decides which packages fit: part of the key of locks.
    pub fn identity(&self) -> String {
        match &self.foreign {
            None => self.host.identity.clone(),
            Some(Foreign { full_version, libc, .. }) => format!("cpython-{full_version}-{}-{libc}", self.platform()),
        }
    }

    /// Everything that decides the files of packages: part of the key of layers. Bytecode is of the host's exact
    /// version.
    pub fn layer_identity(&self) -> String {
        match (&self.foreign, self.compiler()) {
            (Some(_), Some(compiler)) => format!("{} compiled by {}", self.identity(), compiler.identity),
            _ => self.identity(),
        }
    }

    /// Names of the standard library's top-level modules.
    pub fn standard_library(&self) -> Arc<BTreeSet<String>> {
        let (own, (_, minor)) = (&self.host.stdlib_modules, self.version());
        if minor == self.host.version.1 {
            return own.clone();
        }
        Arc::new(standard_library::modules(own, self.host.version.1, minor))
    }

    /// Whether a project that asks for certain versions of Python runs on this one.
    pub fn suits(&self, wanted: &RequiresPython) -> Result<()> {
        let full_version = self.full_version();
        let patch = full_version.split('.').nth(2).map(|patch| {
            let digits: String = patch.chars().take_while(char::is_ascii_digit).collect();
            digits.parse().unwrap_or_default()
        });
        let (major, minor) = self.version();
        if wanted.admits((major, minor, patch.unwrap_or_default())) {
            return Ok(());
        }
        let text = format!(
            "pyproject.toml: the project requires Python {wanted}, and agents are built for Python {full_version}"
        );
        let remedy = match (&self.foreign, patch) {
            (None, _) => {
                "widen requires-python, or have the operator start the server with another Python (`up --python`)"
            }
            (Some(_), Some(_)) => {
                "widen requires-python, or have the operator choose another base image (`up --base-image`)"
            }
            (Some(_), None) => {
                "widen requires-python, or have the operator choose a base image that names its whole version \
                 (PYTHON_VERSION=3.13.1): the patch version of this one is not known and counts as 0"
            }
        };
        Err(Error::new(Code::BuildFailed, text).with_details([remedy.to_owned()]))
    }

    /// The words for what has no wheel: `this Python and platform`, or which ones.
    pub fn named_for_wheels(&self) -> String {
        match &self.foreign {
            None => "this Python and platform".to_owned(),
            Some(Foreign { libc, .. }) => format!("Python {} on {} ({libc})", self.python(), self.platform()),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Python {} on {}", self.full_version(), self.platform())
    }
}

/// The minor version of a version of Python, which may be a pre-release.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    let version_of = |part: &str| part.parse().ok();
    let fine = version.len() < 32 && version.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'.');
    fine.then_some((version_of(parts.next()?)?, version_of(parts.next()?)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const BOOKWORM: Option<Libc> = Some(Libc::Glibc(2, 36));

    fn of_base(version: &str, platform: &str, libc: Option<Libc>) -> Result<Target, String> {
        let (os, architecture) = platform.split_once('/').unwrap();
        Target::of_base(&Interpreter::example((3, 11)), version, &Platform::new(os, architecture), libc)
    }

    #[test]
    fn a_base_like_the_host_is_the_host() {
        let host = Target::host(&Interpreter::example((3, 11)));
        for (version, libc) in [("3.11.9", BOOKWORM), ("3.11", None), ("3.11.2", Some(Libc::Glibc(2, 41)))] {
            assert_eq!(of_base(version, "linux/amd64", libc).unwrap(), host, "{version} {libc:?}");
        }
        assert_eq!((host.identity(), host.layer_identity()), (host.host.identity.clone(), host.host.identity.clone()));
        assert_eq!(host.to_string(), "Python 3.11.2 on linux/amd64");
        assert_eq!((host.wheels(), host.compiler()), (None, Some(&host.host)));
    }

    #[test]
    fn another_version_platform_or_c_library_is_a_target_of_its_own() {
        for (version, platform, libc, machine, compiled) in [
            ("3.13.1", "linux/amd64", Libc::Glibc(2, 36), "x86_64", false),
            ("3.11.9", "linux/arm64", Libc::Glibc(2, 36), "aarch64", true),
            ("3.11.9", "linux/amd64", Libc::Glibc(2, 31), "x86_64", true),
            ("3.11.9", "linux/amd64", Libc::Musl, "x86_64", true),
        ] {
            let target = of_base(version, platform, Some(libc)).unwrap();
            assert_eq!(target.wheels(), Some(Wheels { python: version, machine, libc }));
            assert_eq!(target.identity(), format!("cpython-{version}-{platform}-{libc}"));
            assert_eq!(target.compiler().is_some(), compiled);
            assert_eq!(target.layer_identity().contains(&target.host.identity), compiled, "bytecode is the host's");
            assert_eq!(target.to_string(), format!("Python {version} on {platform}"));
        }
    }

    #[test]
    fn a_base_that_no_agent_can_be_on_is_refused() {
        for (version, platform, libc, want) in [
            ("3.9.2", "linux/amd64", BOOKWORM, "it has Python 3.9.2; agents need Python 3.10 or newer"),
            ("2.7", "linux/amd64", BOOKWORM, "it has Python 2.7; agents need Python 3.10 or newer"),
            ("three", "linux/amd64", BOOKWORM, "\"three\" is not a version of Python"),
            ("3.11 -x", "linux/amd64", BOOKWORM, "\"3.11 -x\" is not a version of Python"),
            ("3.11", "linux/386", BOOKWORM, "it is for linux/386; only linux/amd64 and linux/arm64 are supported"),
            ("3.12", "linux/amd64", None, "neither glibc's libc.so.6 nor musl's loader was found in its layers"),
        ] {
            assert_eq!(of_base(version, platform, libc).unwrap_err(), want);
        }
    }

    #[test]
    fn required_versions_are_compared_with_the_images_python() {
        let suits = |version: &str, wanted: &str| {
            of_base(version, "linux/arm64", BOOKWORM).unwrap().suits(&RequiresPython::parse(wanted).unwrap())
        };
        assert!(suits("3.13.1", ">=3.12,==3.13.1").is_ok());
        let e = suits("3.13.1", ">=3.10,<3.12").unwrap_err();
        let want = "pyproject.toml: the project requires Python >=3.10,<3.12, and agents are built for Python 3.13.1";
        assert_eq!((e.code, e.message.as_str()), (Code::BuildFailed, want));
        assert!(e.details[0].contains("another base image"), "{e:?}");
        let e = suits("3.13", ">=3.13.1").unwrap_err();
        assert!(e.details[0].contains("the patch version of this one is not known"), "{e:?}");
        let host = Target::host(&Interpreter::example((3, 11)));
        assert!(host.suits(&RequiresPython::parse("==3.11.2").unwrap()).is_ok());
        let e = host.suits(&RequiresPython::parse(">=3.10,<3.10.1").unwrap()).unwrap_err();
        assert!(e.message.contains("requires Python >=3.10,<3.10.1") && e.message.contains("3.11.2"), "{e}");
        assert!(e.details[0].contains("up --python"), "{e:?}");
    }
}
