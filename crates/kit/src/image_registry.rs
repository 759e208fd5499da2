//! The registry that an operator has named for the images that Hoistway builds.

use hoistway_model::{Error, Result};
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
        format!("{self}/{repository}")
    }
}

impl FromStr for ImageRegistry {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (host, prefix) = text.split_once('/').unwrap_or((text, ""));
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let is_host = host == "localhost" || host.contains(['.', ':']);
        let is_word = |part: &str| {
            let may_be = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
            !part.is_empty() && part.bytes().all(may_be)
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok();
        let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
        let is_name = name.split('.').all(|part| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-'));
        if !is_host
            || name.is_empty()
            || !is_name
            || !port.is_none_or(is_port)
            || !(prefix.is_empty() || prefix.split('/').all(is_word))
        {
            let text = format!("\"{text}\" is not HOST[:PORT][/PREFIX], such as registry.example.com/agents");
            return Err(Error::field("image_registry", text));
        }
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
