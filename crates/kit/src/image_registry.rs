//! The registry that an operator has named for the images that Hoistway builds.

use hoistway_model::{
    Error, Result,
    image::{ImageRef, names_host},
};
use std::{fmt, str::FromStr};

/// `HOST[:PORT][/PREFIX]`: a registry, and the part of it that is the installation's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRegistry {
    host: String,
    prefix: String,
}

impl ImageRegistry {
    /// Reads the setting `image_registry`; an empty text is none.
    pub fn of_setting(text: Option<&str>) -> Result<Option<Self>> {
        text.filter(|text| !text.is_empty()).map(str::parse).transpose()
    }

    /// `HOST` or `HOST:PORT`.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The full name of a repository: with host and prefix.
    pub fn repository(&self, repository: &str) -> String {
        format!("{}/{}", self.host, self.path(repository))
    }

    /// The name of a repository within the registry: with the prefix.
    pub fn path(&self, repository: &str) -> String {
        match self.prefix.as_str() {
            "" => repository.to_owned(),
            prefix => format!("{prefix}/{repository}"),
        }
    }
}

impl FromStr for ImageRegistry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let named = text.strip_suffix('/').unwrap_or(text);
        let host = named.split('/').next().unwrap_or_default();
        // What may be in front of a repository is what an image's name may begin with.
        let image: Option<ImageRef> = format!("{named}/image").parse().ok();
        // Neither Docker nor every client of registries reads addresses of IPv6.
        let image = image.filter(|image| image.host == host && names_host(host) && !host.starts_with('['));
        let Some(image) = image else {
            let text = format!("\"{text}\" is not HOST[:PORT][/PREFIX], such as registry.example.com/agents");
            return Err(Error::field("image_registry", text));
        };
        let prefix = image.repository.strip_suffix("image").unwrap_or_default().trim_end_matches('/');
        Ok(Self { host: host.to_owned(), prefix: prefix.to_owned() })
    }
}

impl fmt::Display for ImageRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix.as_str() {
            "" => f.write_str(&self.host),
            prefix => write!(f, "{}/{prefix}", self.host),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_image_registry_is_a_host_with_or_without_a_prefix() {
        let place = |text: &str| text.parse::<ImageRegistry>().unwrap().repository("agent");
        assert_eq!(place("registry.example.com"), "registry.example.com/agent");
        assert_eq!(place("127.0.0.1:5000/a/b/"), "127.0.0.1:5000/a/b/agent");
        assert_eq!(ImageRegistry::of_setting(Some("")).unwrap(), None);
        for wrong in [
            "agents",
            "registry/agents",
            "https://registry.example.com",
            "registry.example.com/A",
            "r.example//a",
            ":5000",
            "r.example:x",
        ] {
            let refused = wrong.parse::<ImageRegistry>().unwrap_err();
            assert!(refused.message.contains("HOST[:PORT][/PREFIX]"), "{wrong}: {refused}");
        }
    }
}
