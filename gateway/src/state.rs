//! What every handler can reach.

use crate::{api::body::BodyBudget, deploy::Deployer, routes::Routes};
use async_trait::async_trait;
use hoistway_kit::token::ApiKey;
use hoistway_model::{
    AgentService, BuildService, Result, ToolRegistry,
    build::BuiltImage,
    image::{ImageRef, PLATFORM_REGISTRY},
};
use std::{fmt, sync::Arc, time::Duration};
use tokio_util::task::TaskTracker;

/// The handlers' dependencies.
#[derive(Debug)]
pub struct AppState {
    /// The tool registry.
    pub tools: Arc<dyn ToolRegistry>,
    /// The build service.
    pub builds: Arc<dyn BuildService>,
    /// The agent service.
    pub agents: Arc<dyn AgentService>,
    /// The deploy saga.
    pub deployer: Arc<dyn Deployer>,
    /// Where agents' invokes go.
    pub routes: Routes,
    /// Who may call.
    pub keys: ApiKeys,
    /// What things are called outside.
    pub public: PublicAddresses,
    /// Bounds on what one caller can ask for.
    pub limits: Limits,
    /// The memory that request bodies may take together.
    pub bodies: BodyBudget,
    /// What `/readyz` asks.
    pub ready: Arc<dyn ReadyCheck>,
    /// Work that goes on after its answer; wait for it when shutting down.
    pub tasks: TaskTracker,
}

/// Whether a deploy would work now.
#[async_trait]
pub trait ReadyCheck: fmt::Debug + Send + Sync + 'static {
    /// `Ok`, or an error whose public text says what is missing.
    async fn check(&self) -> Result<()>;
}

/// The keys that open the API.
#[derive(Debug, Clone)]
pub struct ApiKeys(Vec<ApiKey>);

impl ApiKeys {
    /// These keys and no others.
    pub fn new(keys: Vec<ApiKey>) -> Self {
        Self(keys)
    }

    /// Whether `presented` is one of the keys. Every key is compared, so that the time does not tell which it is.
    pub fn verify(&self, presented: &str) -> bool {
        self.0.iter().fold(false, |known, key| known | key.verify(presented))
    }
}

/// What the API's users call the platform's parts.
#[derive(Debug, Clone)]
pub struct PublicAddresses {
    registry: String,
}

impl PublicAddresses {
    /// `registry` is the `host:port` at which the API's users reach the platform's registry.
    pub fn new(registry: impl Into<String>) -> Self {
        Self { registry: registry.into() }
    }

    /// The registry's `host:port`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// An image as it is stored: the platform's registry under its symbolic name, by whichever of its names the
    /// request called it.
    pub fn to_symbolic(&self, image: ImageRef) -> ImageRef {
        let port = |host: &str| host.rsplit_once(':').map(|(_, port)| port.to_owned());
        let loopback = ["localhost:", "127.0.0.1:", "[::1]:"].iter().any(|alias| image.host.starts_with(alias));
        let ours = image.host.eq_ignore_ascii_case(&self.registry)
            || loopback && port(&image.host).is_some() && port(&image.host) == port(&self.registry);
        if ours { image.with_host(PLATFORM_REGISTRY) } else { image }
    }

    /// An image as it is shown: `HOST/REPOSITORY:TAG` that the API's user can pull.
    pub fn show_image(&self, image: &ImageRef) -> String {
        if image.is_platform() { image.with_host(&self.registry).display_tagged() } else { image.display_tagged() }
    }

    /// `image_uri` of a built image.
    pub fn image_uri(&self, image: &BuiltImage) -> String {
        format!("{}/{}:{}", self.registry, image.repository, image.tag)
    }
}

/// Bounds on what one caller can ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The most bytes of one request body.
    pub max_body: usize,
    /// How long an answer to `POST /deploy` waits when the caller does not say; public clients give up at 30 s.
    pub deploy_wait: Duration,
    /// The longest that a caller may ask an answer to wait: the deployment's own deadline.
    pub deploy_deadline: Duration,
    /// How long an agent may take to answer an invoke, streams included.
    pub invoke_timeout: Duration,
    /// How many invokes of one agent run at a time.
    pub invoke_concurrency: usize,
    /// The most bytes of an agent's answer that is not streamed.
    pub max_answer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_body: 32 << 20,
            deploy_wait: Duration::from_secs(25),
            deploy_deadline: Duration::from_secs(15 * 60),
            invoke_timeout: Duration::from_secs(300),
            invoke_concurrency: 64,
            max_answer: 32 << 20,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_platforms_registry_has_several_names_outside_and_one_inside() {
        let public = PublicAddresses::new("127.0.0.1:5005");
        let symbolic = |text: &str| public.to_symbolic(text.parse().unwrap()).to_string();
        for ours in ["127.0.0.1:5005/a/b:1", "localhost:5005/a/b:1", "[::1]:5005/a/b:1"] {
            assert_eq!(symbolic(ours), "registry.hoistway.internal/a/b:1");
        }
        for other in ["127.0.0.1:5006/a:1", "localhost/a:1", "example.org:5005/a:1"] {
            assert_eq!(symbolic(other), other);
        }
        let public = PublicAddresses::new("registry.example.org");
        let image = public.to_symbolic("registry.example.org/a:1".parse().unwrap());
        assert!(image.is_platform());
        assert_eq!(public.show_image(&image), "registry.example.org/a:1");
        assert!(!public.to_symbolic("localhost/a:1".parse().unwrap()).is_platform());
    }

    #[test]
    fn only_known_keys_open() {
        let (a, b) = (ApiKey::generate().unwrap(), ApiKey::generate().unwrap());
        let keys = ApiKeys::new(vec![a.clone(), b.clone()]);
        assert!(keys.verify(a.secret().expose()) && keys.verify(b.secret().expose()));
        assert!(!keys.verify("") && !keys.verify("hw_wrong"));
    }
}
