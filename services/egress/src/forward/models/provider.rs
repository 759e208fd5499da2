//! From registered model providers and an agent's `llm_configs` to who answers the calls of a model.

use super::bedrock::{self, Endpoint};
use crate::{
    origin::{Origin, without_query},
    policy::tool_access::PrivateHosts,
    policy::{
        ModelBackend, ModelKey, ModelPolicy, ModelServer, ModelUnavailable, ModelUnavailableReason, Protocol,
        RegisteredModels,
    },
};
use hoistway_model::{
    ModelPrices, Name, Result,
    agent::LlmConfig,
    egress::ModelProviderAccess,
    public_model_apis::{ANTHROPIC, OPENAI},
    tool::needs_credentials,
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const OLLAMA: &str = "http://localhost:11434/v1";
/// The path of an endpoint that names none.
const DEFAULT_PATH: &str = "/v1";

/// A registered model provider, as far as routing needs it.
#[derive(Debug, Clone)]
pub(crate) struct ModelProviderPolicy {
    /// The protocol that it speaks: openai, anthropic, bedrock or ollama.
    kind: String,
    /// The models that it serves; none: any.
    models: Vec<String>,
    name: Name,
    backend: ModelBackend,
    prices: ModelPrices,
}

impl ModelProviderPolicy {
    pub(crate) fn new(access: &ModelProviderAccess, private: &PrivateHosts) -> Self {
        let ModelProviderAccess { name, provider, models, prices, .. } = access;
        let (backend, prices) = (backend(access, private), prices.clone());
        Self { kind: provider.clone(), models: models.clone(), name: name.clone(), backend, prices }
    }

    pub(crate) fn into_registered(self) -> RegisteredModels {
        RegisteredModels { models: self.models, backend: self.backend }
    }

    fn serves(&self, model: &str) -> bool {
        self.models.is_empty() || self.models.iter().any(|served| served == model)
    }

    /// Puts real servers before the playground, and those that name the model before those that serve any.
    fn rank(&self) -> (u8, bool) {
        let backend = match self.backend {
            ModelBackend::Server(_) => 0,
            ModelBackend::Playground(_) => 1,
            ModelBackend::Unavailable(_) => 2,
        };
        (backend, self.models.is_empty())
    }
}

/// Resolves an agent's models. A configuration names a registered provider, or a protocol: then any registered provider
/// of that protocol which serves the model.
pub(crate) fn model_policies(
    llm: &[LlmConfig],
    providers: &BTreeMap<Name, Arc<ModelProviderPolicy>>,
) -> Vec<ModelPolicy> {
    let policy = |LlmConfig { role, provider, model }: &LlmConfig| {
        let (backend, price) = match resolve(provider, model, providers) {
            Ok(found) => (found.backend.clone(), found.prices.get(model).copied()),
            Err(backend) => (backend, None),
        };
        ModelPolicy { role: *role, model: model.clone(), provider: provider.clone(), backend, price }
    };
    llm.iter().map(policy).collect()
}

/// The provider that serves a model, or what answers where none does.
fn resolve<'a>(
    provider: &str,
    model: &str,
    providers: &'a BTreeMap<Name, Arc<ModelProviderPolicy>>,
) -> Result<&'a ModelProviderPolicy, ModelBackend> {
    let named = Name::parse("provider", provider).ok().and_then(|name| providers.get(&name));
    if let Some(named) = named {
        if named.serves(model) {
            return Ok(named);
        }
        let text = format!(
            "the model provider \"{}\" does not serve the model \"{model}\": add it to its models with PUT \
             /api/model-providers/{}",
            named.name, named.name
        );
        return Err(unavailable(Some(&named.name), ModelUnavailableReason::NoProvider, text));
    }
    let of_kind = providers.values().filter(|candidate| candidate.kind == provider && candidate.serves(model));
    match of_kind.min_by_key(|candidate| candidate.rank()) {
        Some(found) => Ok(found),
        None => Err(unregistered(provider, model)),
    }
}

/// Who answers for a protocol of which nobody is registered: ollama on this machine, and nobody for the others.
fn unregistered(provider: &str, model: &str) -> ModelBackend {
    if let (true, Ok(name)) = (provider == "ollama", Name::parse("provider", provider))
        && let Ok((origin, prefix)) = Origin::of_url(OLLAMA)
    {
        let (protocol, key) = (Protocol::OpenAi, None);
        return ModelBackend::Server(Arc::new(ModelServer {
            name,
            protocol,
            origin,
            prefix,
            key,
            allow_private: true,
            timeout: None,
            retries: 0,
        }));
    }
    let text = format!(
        "no model provider \"{provider}\" is registered that serves the model \"{model}\": POST /api/model-providers \
         registers one with its key, or POST /api/starter-kit one to try things with"
    );
    unavailable(None, ModelUnavailableReason::NoProvider, text)
}

fn backend(access: &ModelProviderAccess, private: &PrivateHosts) -> ModelBackend {
    let ModelProviderAccess { name, provider, endpoint, credentials, demo, .. } = access;
    let unusable = |why: &str| {
        let text = format!("the model provider \"{name}\" {why}: see /api/model-providers/{name}");
        unavailable(Some(name), ModelUnavailableReason::BadEndpoint, text)
    };
    let key = credentials.get("api_key").cloned().map(ModelKey::ApiKey);
    if *demo && provider == "openai" && endpoint.is_empty() && key.is_none() {
        return ModelBackend::Playground(name.clone());
    }
    let or = |default: &str| if endpoint.is_empty() { default.to_owned() } else { endpoint.clone() };
    let (protocol, url, key) = match provider.as_str() {
        "anthropic" => (Protocol::Anthropic, or(ANTHROPIC.origin), key),
        "bedrock" => match bedrock::endpoint(access) {
            Ok(Endpoint { url, key }) => (Protocol::Bedrock, url, key),
            Err(why) => return unusable(why),
        },
        "ollama" => (Protocol::OpenAi, or(OLLAMA), key),
        _ => (Protocol::OpenAi, or(OPENAI.origin), key),
    };
    let Ok((origin, prefix)) = base_url(&url, protocol) else {
        return unusable("has an endpoint that is not a URL of http:// or https://: set another one");
    };
    let allow_private = private.covers(&origin.place.host);
    // Servers of one's own, such as vLLM and llama.cpp, mostly want no key.
    if key.is_none() && needs_credentials(provider) && !allow_private {
        return no_key(name, origin);
    }
    ModelBackend::Server(Arc::new(ModelServer {
        name: name.clone(),
        protocol,
        origin,
        prefix,
        key,
        allow_private,
        timeout: access.timeout_seconds.map(|seconds| Duration::from_secs(seconds.into())),
        retries: access.retries,
    }))
}

fn no_key(name: &Name, origin: Origin) -> ModelBackend {
    let text =
        format!("the model provider \"{name}\" has no key yet: PUT /api/model-providers/{name}/credentials stores one");
    ModelBackend::Unavailable(Arc::new(ModelUnavailable {
        provider: Some(name.clone()),
        reason: ModelUnavailableReason::NoKey,
        origin: Some(origin),
        text,
    }))
}

fn base_url(text: &str, protocol: Protocol) -> Result<(Origin, String)> {
    let (origin, mut prefix) = Origin::of_url(&without_query(text)?)?;
    // Base URLs of the OpenAI API have the version in them, those of the other APIs' clients have not.
    let lacks_version = match protocol {
        Protocol::OpenAi => prefix.is_empty(),
        Protocol::Anthropic => !prefix.ends_with(DEFAULT_PATH),
        Protocol::Bedrock => false,
    };
    if lacks_version {
        prefix.push_str(DEFAULT_PATH);
    }
    Ok((origin, prefix))
}

fn unavailable(provider: Option<&Name>, reason: ModelUnavailableReason, text: String) -> ModelBackend {
    ModelBackend::Unavailable(Arc::new(ModelUnavailable { provider: provider.cloned(), reason, origin: None, text }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::{Secret, agent::LlmRole};

    fn access(name: &str, provider: &str, endpoint: &str, models: &[&str], key: Option<&str>) -> ModelProviderAccess {
        ModelProviderAccess {
            name: Name::parse("name", name).unwrap(),
            provider: provider.into(),
            endpoint: endpoint.into(),
            models: models.iter().map(|&model| model.into()).collect(),
            prices: ModelPrices::new(),
            timeout_seconds: None,
            retries: 0,
            credentials: key.map(|key| ("api_key".to_owned(), Secret::new(key))).into_iter().collect(),
            demo: name == "playground-llm",
        }
    }

    /// Who answers for a model, in one word or as the URL with the key.
    fn answers(provider: &str, model: &str, registered: &[ModelProviderAccess]) -> String {
        let private = PrivateHosts::default();
        let policy = |access: &ModelProviderAccess| Arc::new(ModelProviderPolicy::new(access, &private));
        let providers = registered.iter().map(|access| (access.name.clone(), policy(access))).collect();
        let config = LlmConfig { role: LlmRole::Chat, provider: provider.into(), model: model.into() };
        match &model_policies(&[config], &providers)[0].backend {
            ModelBackend::Playground(_) => "playground".into(),
            ModelBackend::Unavailable(why) => format!("{:?}", why.reason),
            ModelBackend::Server(server) => {
                let key = match &server.key {
                    Some(ModelKey::ApiKey(key)) => key.expose(),
                    Some(ModelKey::Aws(key)) => &key.region,
                    None => "-",
                };
                format!("{}{} {key} {}", server.origin, server.prefix, server.allow_private)
            }
        }
    }

    #[test]
    fn the_starter_kits_provider_is_the_playground_until_it_has_a_key_of_its_own() {
        let kit = |key| access("playground-llm", "openai", "", &["gpt-4o-mini"], key);
        assert_eq!(answers("openai", "gpt-4o-mini", &[kit(None)]), "playground");
        assert_eq!(answers("playground-llm", "gpt-4o-mini", &[kit(None)]), "playground");
        let real = "https://api.openai.com/v1 sk false";
        assert_eq!(answers("openai", "gpt-4o-mini", &[kit(Some("sk"))]), real);
        let own = access("my-openai", "openai", "", &[], Some("sk"));
        assert_eq!(answers("openai", "gpt-4o-mini", &[kit(None), own.clone()]), real, "a real provider comes first");
        assert_eq!(answers("playground-llm", "gpt-4o-mini", &[kit(None), own]), "playground");
        assert_eq!(answers("openai", "gpt-4o", &[kit(None)]), "NoProvider");
        assert_eq!(answers("playground-llm", "gpt-4o", &[kit(None)]), "NoProvider");
    }

    #[test]
    fn a_protocol_means_the_registered_provider_that_serves_the_model() {
        let providers = [
            access("a", "openai", "", &[], None),
            access("any", "openai", "https://any.example/v1", &[], Some("1")),
            access("own", "openai", "https://own.example/base/v2/", &["m"], Some("2")),
        ];
        assert_eq!(answers("openai", "m", &providers), "https://own.example/base/v2 2 false");
        assert_eq!(answers("openai", "other", &providers), "https://any.example/v1 1 false");
        assert_eq!(answers("any", "m", &providers), "https://any.example/v1 1 false");
        assert_eq!(answers("openai", "m", &providers[..1]), "NoKey");
        assert_eq!(answers("openai", "m", &[]), "NoProvider");
        assert_eq!(answers("nobody", "m", &[]), "NoProvider");
    }

    #[test]
    fn servers_in_private_networks_and_ollama_need_no_key() {
        let vllm = access("vllm", "openai", "http://10.0.0.7:8000", &[], None);
        assert_eq!(answers("vllm", "m", &[vllm]), "http://10.0.0.7:8000/v1 - true");
        assert_eq!(answers("ollama", "llama3", &[]), "http://localhost:11434/v1 - true");
        let ollama = access("farm", "ollama", "https://ollama.example", &[], None);
        assert_eq!(answers("ollama", "llama3", &[ollama]), "https://ollama.example/v1 - false");
    }

    #[test]
    fn anthropic_is_called_below_v1_whether_the_endpoint_says_so_or_not() {
        let at = |endpoint| answers("x", "claude", &[access("x", "anthropic", endpoint, &[], Some("k"))]);
        assert_eq!(at(""), "https://api.anthropic.com/v1 k false");
        assert_eq!(at("https://api.anthropic.com"), "https://api.anthropic.com/v1 k false");
        assert_eq!(at("https://own.example/anthropic/"), "https://own.example/anthropic/v1 k false");
        assert_eq!(at("https://own.example/anthropic/v1"), "https://own.example/anthropic/v1 k false");
        assert_eq!(answers("anthropic", "claude", &[access("x", "anthropic", "", &[], None)]), "NoKey");
        assert_eq!(answers("anthropic", "claude", &[]), "NoProvider");
    }

    #[test]
    fn bedrock_is_in_a_region_that_the_credentials_or_the_endpoint_name() {
        let at = |endpoint: &str, credentials: &[(&str, &str)]| {
            let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), Secret::new(*value));
            let credentials = credentials.iter().map(pair).collect();
            answers("x", "m", &[ModelProviderAccess { credentials, ..access("x", "bedrock", endpoint, &[], None) }])
        };
        let (id, secret, region) = (("access_key_id", "AKIA"), ("secret_access_key", "s"), ("region", "eu-west-1"));
        let own = "https://bedrock-runtime.eu-west-1.amazonaws.com";
        assert_eq!(at("", &[id, secret, region]), format!("{own} eu-west-1 false"));
        assert_eq!(at(own, &[id, secret]), format!("{own} eu-west-1 false"));
        assert_eq!(at("", &[("api_key", "bedrock-key"), region]), format!("{own} bedrock-key false"));
        assert_eq!(at("https://proxy.example/aws", &[id, secret, region]), "https://proxy.example/aws eu-west-1 false");
        assert_eq!(at("https://proxy.example", &[("api_key", "k")]), "https://proxy.example k false");
        assert_eq!(at(own, &[]), "NoKey");
        for (endpoint, credentials) in [
            ("", vec![id, secret]),
            ("", vec![("api_key", "k")]),
            ("", vec![]),
            ("https://proxy.example", vec![id, secret]),
            ("", vec![id, secret, ("region", "evil.example/")]),
        ] {
            assert_eq!(at(endpoint, &credentials), "BadEndpoint", "{endpoint} {credentials:?}");
        }
    }

    #[test]
    fn endpoints_that_are_none_are_unavailable() {
        assert_eq!(answers("x", "m", &[access("x", "openai", "ftp://a.example", &[], Some("k"))]), "BadEndpoint");
        assert_eq!(answers("bedrock", "claude", &[]), "NoProvider");
    }
}
