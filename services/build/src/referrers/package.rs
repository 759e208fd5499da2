//! An installed package.

/// A package in an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Normalised, without extras.
    pub name: String,
    /// The exact version.
    pub version: String,
    /// SHA-256 digests, in hexadecimal digits, of the files that the lock allows to be installed.
    pub files: Vec<String>,
}

impl Package {
    pub(super) fn package_url(&self) -> String {
        super::package_url("pypi", &self.name, &self.version)
    }

    /// The digest of the file that is installed, if the lock allows one only.
    pub(super) fn file(&self) -> Option<&str> {
        match &self.files[..] {
            [file] => Some(file),
            _ => None,
        }
    }
}
