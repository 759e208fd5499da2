//! The names of images that were built here: the stored one, and the one for the API's users.

use hoistway_kit::image_registry::ImageRegistry;
use hoistway_model::{
    build::BuiltImage,
    image::{ImageRef, PLATFORM_REGISTRY},
};

/// The public names of the platform's registry and of its images.
#[derive(Debug, Clone)]
pub struct PublicRegistry {
    registry: String,
    /// Where built images are pushed to besides, if anywhere.
    image_registry: Option<ImageRegistry>,
}

impl PublicRegistry {
    /// Returns the mapping for `registry`, the `host:port` at which the API's users reach the platform's registry, and
    /// for the one that images are pushed to besides.
    pub fn new(registry: impl Into<String>, image_registry: Option<ImageRegistry>) -> Self {
        Self { registry: registry.into(), image_registry }
    }

    /// Returns the registry's `host:port`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Returns an image as it is stored: with the symbolic name of the platform's registry, whichever of its names the
    /// request contains. Images of another registry are that registry's, whoever pushed them there.
    pub fn to_symbolic(&self, image: ImageRef) -> ImageRef {
        let port = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
        let loopback = ["localhost:", "127.0.0.1:", "[::1]:"].iter().any(|alias| image.host.starts_with(alias));
        let ours = image.host.eq_ignore_ascii_case(&self.registry)
            || loopback && port(&image.host).is_some() && port(&image.host) == port(&self.registry);
        if ours { image.with_host(PLATFORM_REGISTRY) } else { image }
    }

    /// Returns an image as it is shown: `HOST/REPOSITORY:TAG` that the API's user can pull.
    pub fn show_image(&self, image: &ImageRef) -> String {
        if image.is_platform() { image.with_host(&self.shown()).display_tagged() } else { image.display_tagged() }
    }

    /// Returns the `image_uri` of a built image.
    pub fn image_uri(&self, image: &BuiltImage) -> String {
        format!("{}/{}:{}", self.shown(), image.repository, image.tag)
    }

    fn shown(&self) -> String {
        self.image_registry.as_ref().map_or_else(|| self.registry.clone(), ToString::to_string)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_platforms_registry_has_several_names_outside_and_one_inside() {
        let public = PublicRegistry::new("127.0.0.1:5005", None);
        let symbolic = |text: &str| public.to_symbolic(text.parse().unwrap()).to_string();
        for ours in ["127.0.0.1:5005/a/b:1", "localhost:5005/a/b:1", "[::1]:5005/a/b:1"] {
            assert_eq!(symbolic(ours), "registry.hoistway.internal/a/b:1");
        }
        for other in ["127.0.0.1:5006/a:1", "localhost/a:1", "example.org:5005/a:1"] {
            assert_eq!(symbolic(other), other);
        }
        let public = PublicRegistry::new("registry.example.org", None);
        let image = public.to_symbolic("registry.example.org/a:1".parse().unwrap());
        assert!(image.is_platform());
        assert_eq!(public.show_image(&image), "registry.example.org/a:1");
        assert!(!public.to_symbolic("localhost/a:1".parse().unwrap()).is_platform());
        let public = PublicRegistry::new("127.0.0.1:5005", Some("registry.example.org/team/agents/".parse().unwrap()));
        let image = public.to_symbolic("127.0.0.1:5005/a:1".parse().unwrap());
        assert_eq!(public.show_image(&image), "registry.example.org/team/agents/a:1");
        assert!(!public.to_symbolic("registry.example.org/team/agents/a:1".parse().unwrap()).is_platform());
    }
}
