//! The two names of the platform's registry: the stored one, and the one for the API's users.

use hoistway_model::{
    build::BuiltImage,
    image::{ImageRef, PLATFORM_REGISTRY},
};

/// The public name of the platform's registry.
#[derive(Debug, Clone)]
pub struct PublicRegistry {
    registry: String,
}

impl PublicRegistry {
    /// Returns the mapping for `registry`, the `HOST[:PORT][/PREFIX]` at which the API's users reach the images.
    pub fn new(registry: impl Into<String>) -> Self {
        Self { registry: registry.into().trim_end_matches('/').to_owned() }
    }

    /// Returns the registry's `HOST[:PORT][/PREFIX]`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns an image as it is stored: with the symbolic name of the platform's registry, whichever of its names the
    /// request contains.
    pub fn to_symbolic(&self, image: ImageRef) -> ImageRef {
        let (own, prefix) = self.registry.split_once('/').unwrap_or((&self.registry, ""));
        let port = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
        let loopback = ["localhost:", "127.0.0.1:", "[::1]:"].iter().any(|alias| image.host.starts_with(alias));
        let same_host = image.host.eq_ignore_ascii_case(own)
            || loopback && port(&image.host).is_some() && port(&image.host) == port(own);
        let repository = match prefix {
            "" => Some(image.repository.as_str()),
            prefix => image.repository.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/')),
        };
        match repository.filter(|_| same_host).map(str::to_owned) {
            Some(repository) => ImageRef { repository, ..image.with_host(PLATFORM_REGISTRY) },
            None => image,
        }
    }

    /// Returns an image as it is shown: `HOST/REPOSITORY:TAG` that the API's user can pull.
    pub fn show_image(&self, image: &ImageRef) -> String {
        if image.is_platform() { image.with_host(&self.registry).display_tagged() } else { image.display_tagged() }
    }

    /// Returns the `image_uri` of a built image.
    pub fn image_uri(&self, image: &BuiltImage) -> String {
        format!("{}/{}:{}", self.registry, image.repository, image.tag)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_platforms_registry_has_several_names_outside_and_one_inside() {
        let public = PublicRegistry::new("127.0.0.1:5005");
        let symbolic = |text: &str| public.to_symbolic(text.parse().unwrap()).to_string();
        for ours in ["127.0.0.1:5005/a/b:1", "localhost:5005/a/b:1", "[::1]:5005/a/b:1"] {
            assert_eq!(symbolic(ours), "registry.hoistway.internal/a/b:1");
        }
        for other in ["127.0.0.1:5006/a:1", "localhost/a:1", "example.org:5005/a:1"] {
            assert_eq!(symbolic(other), other);
        }
        let public = PublicRegistry::new("registry.example.org");
        let image = public.to_symbolic("registry.example.org/a:1".parse().unwrap());
        assert!(image.is_platform());
        assert_eq!(public.show_image(&image), "registry.example.org/a:1");
        assert!(!public.to_symbolic("localhost/a:1".parse().unwrap()).is_platform());
        let public = PublicRegistry::new("registry.example.org/team/agents/");
        let image = public.to_symbolic("registry.example.org/team/agents/a:1".parse().unwrap());
        assert_eq!(image.to_string(), "registry.hoistway.internal/a:1");
        assert_eq!(public.show_image(&image), "registry.example.org/team/agents/a:1");
        for other in ["registry.example.org/team/a:1", "registry.example.org/team/agents-too/a:1"] {
            assert!(!public.to_symbolic(other.parse().unwrap()).is_platform(), "{other}");
        }
    }
}
