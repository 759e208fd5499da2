//! The C libraries of Linux distributions.

use std::{fmt, str::FromStr};

/// The C library that programs and packages with native code are linked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Libc {
    /// glibc of a version.
    Glibc(u32, u32),
    /// musl 1.2.
    Musl,
}

impl Libc {
    /// Whether what was made for this one runs with the other.
    pub fn runs_with(self, other: Self) -> bool {
        match (self, other) {
            (Self::Glibc(..), Self::Glibc(..)) => self <= other,
            _ => self == other,
        }
    }
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Glibc(major, minor) => write!(f, "glibc {major}.{minor}"),
            Self::Musl => f.write_str("musl"),
        }
    }
}

impl FromStr for Libc {
    type Err = ();

    /// Reads `glibc 2.36` or `musl`.
    fn from_str(text: &str) -> Result<Self, ()> {
        match text.strip_prefix("glibc ").and_then(|version| version.split_once('.')) {
            Some((major, minor)) => Ok(Self::Glibc(major.parse().map_err(drop)?, minor.parse().map_err(drop)?)),
            None if text == "musl" => Ok(Self::Musl),
            None => Err(()),
        }
    }
}
