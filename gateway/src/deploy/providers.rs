//! The choice of the registered provider for a model whose configuration names a protocol. Egress chooses; among
//! equally suitable providers the name decides, so that a deploy warns of such a choice.

use hoistway_kit::address_scope::{AddressScope, is_private_name, scope};
use hoistway_model::{
    Error, Name,
    agent::LlmConfig,
    error::excerpt,
    tool::{DEMO_LABEL, MODEL_PROVIDERS, ModelProvider, needs_credentials},
};
use url::{Host, Url};

/// The most providers that a warning lists.
const MAX_NAMED: usize = 10;

/// Whether the provider needs no registration.
pub fn is_known(provider: &str) -> bool {
    MODEL_PROVIDERS.contains(&provider)
}

/// Returns the error about an unknown provider.
pub fn unknown_provider(path: &str, provider: &str) -> Error {
    let known = MODEL_PROVIDERS.join(", ");
    Error::field(path, format!("\"{}\" is not one of {known} or a registered model provider", excerpt(provider)))
}

/// Whether egress calls it without a key: most servers in private networks require none, and the starter kit's provider
/// is a playground.
pub fn works_without_key(provider: &ModelProvider) -> bool {
    let is_private = |url: Url| match url.host() {
        Some(Host::Ipv4(ip)) => scope(ip.into()) == AddressScope::Private,
        Some(Host::Ipv6(ip)) => scope(ip.into()) == AddressScope::Private,
        Some(Host::Domain(name)) => is_private_name(name.trim_end_matches('.')),
        None => false,
    };
    !needs_credentials(&provider.provider)
        || provider.labels.contains_key(DEMO_LABEL)
        || Url::parse(&provider.endpoint).is_ok_and(is_private)
}

/// Returns warnings about the models, each with its path in the request, that several providers serve equally well.
pub fn chosen_by_name<'a>(
    models: impl IntoIterator<Item = (String, &'a LlmConfig)>,
    registered: &[ModelProvider],
) -> Vec<String> {
    models.into_iter().filter_map(|(path, model)| warning(&path, model, registered)).collect()
}

/// Whether an agent's model would have no equally good provider without the provider `name`.
pub fn depends_on(config: &LlmConfig, name: &Name, registered: &[ModelProvider]) -> bool {
    let Some(serving) = serving(config, registered).filter(|serving| serving.name == *name) else { return false };
    let others: Vec<ModelProvider> = registered.iter().filter(|other| other.name != *name).cloned().collect();
    match self::serving(config, &others) {
        // A provider without a key does not replace one with a key, and neither does the playground replace a model.
        Some(other) => rank(other).0 > rank(serving).0,
        // An unregistered ollama has the same address as a registered one without an endpoint.
        None => !(config.provider == "ollama" && serving.provider == "ollama" && serving.endpoint.is_empty()),
    }
}

/// Returns the provider of a model, as egress chooses it.
fn serving<'a>(config: &LlmConfig, registered: &'a [ModelProvider]) -> Option<&'a ModelProvider> {
    let LlmConfig { provider, model, .. } = config;
    let named = registered.iter().find(|candidate| candidate.name.as_str() == provider.as_str());
    let of_kind = registered.iter().filter(|candidate| serves(candidate, provider, model));
    named.or_else(|| of_kind.min_by_key(|candidate| (rank(candidate), &candidate.name)))
}

fn serves(candidate: &ModelProvider, provider: &str, model: &str) -> bool {
    candidate.provider == provider
        && (candidate.models.is_empty() || candidate.models.iter().any(|served| served == model))
}

fn warning(path: &str, config: &LlmConfig, registered: &[ModelProvider]) -> Option<String> {
    let LlmConfig { provider, model, .. } = config;
    let is_named = registered.iter().any(|candidate| candidate.name.as_str() == provider.as_str());
    if is_named || !is_known(provider) {
        return None;
    }
    let all: Vec<&ModelProvider> = registered.iter().filter(|candidate| serves(candidate, provider, model)).collect();
    let best = all.iter().map(|candidate| rank(candidate)).min()?;
    let mut equal: Vec<&str> =
        all.iter().filter(|candidate| rank(candidate) == best).map(|candidate| candidate.name.as_str()).collect();
    equal.sort_unstable();
    let (first, count) = (*equal.first()?, equal.len());
    if count < 2 {
        return None;
    }
    let mut names: Vec<String> = equal.iter().take(MAX_NAMED).map(|name| format!("\"{name}\"")).collect();
    if count > MAX_NAMED {
        names.push(format!("{} more", count - MAX_NAMED));
    }
    Some(format!(
        "{path}: {count} model providers of \"{provider}\" serve the model: {}. \"{first}\" is used, the first by name; \
         give the name of one as provider to choose",
        names.join(", ")
    ))
}

/// Returns the rank by which egress chooses: callable servers before the playground, and those that list the model
/// before those that list none.
fn rank(provider: &ModelProvider) -> (u8, bool) {
    let backend = match provider.credentials_set_at {
        Some(_) => 0,
        None if provider.labels.contains_key(DEMO_LABEL) => 1,
        None if works_without_key(provider) => 0,
        None => 2,
    };
    (backend, provider.models.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use hoistway_model::{ModelPrices, agent::LlmRole};

    fn provider(name: &str, models: &[&str], has_key: bool) -> ModelProvider {
        ModelProvider {
            name: Name::parse("name", name).unwrap(),
            provider: "openai".into(),
            endpoint: String::new(),
            models: models.iter().map(|&model| model.into()).collect(),
            prices: ModelPrices::new(),
            timeout_seconds: None,
            retries: 0,
            labels: Default::default(),
            credentials_set_at: has_key.then_some(0),
            created_at: 0,
            updated_at: 0,
        }
    }

    fn warned(provider: &str, registered: &[ModelProvider]) -> Vec<String> {
        let model = LlmConfig { role: LlmRole::Chat, provider: provider.into(), model: "m".into() };
        chosen_by_name([("llm_configs[0]".to_owned(), &model)], registered)
    }

    #[test]
    fn a_model_depends_on_its_provider_unless_another_one_would_serve_it_as_well() {
        let depends = |provider: &str, registered: &[ModelProvider]| {
            let config = LlmConfig { role: LlmRole::Chat, provider: provider.into(), model: "m".into() };
            depends_on(&config, &registered[0].name, registered)
        };
        let p = provider("p", &[], true);
        assert!(depends("p", std::slice::from_ref(&p)) && depends("openai", std::slice::from_ref(&p)));
        assert!(!depends("anthropic", std::slice::from_ref(&p)) && !depends("other", std::slice::from_ref(&p)));
        assert!(depends("p", &[p.clone(), provider("q", &["m"], true)]), "it is named");
        assert!(!depends("openai", &[p.clone(), provider("q", &["m"], true)]), "it does not even serve");
        assert!(!depends("openai", &[p.clone(), provider("q", &[], true)]));
        for other in [provider("q", &["n"], true), provider("q", &["m"], false)] {
            assert!(depends("openai", &[p.clone(), other]));
        }
        let playground = ModelProvider {
            labels: [(DEMO_LABEL.to_owned(), String::new())].into(),
            ..provider("playground-llm", &[], false)
        };
        assert!(depends("openai", &[p.clone(), playground.clone()]), "it would be no model any more");
        assert!(depends("openai", std::slice::from_ref(&playground)) && !depends("openai", &[playground, p]));
        assert!(depends("openai", &[provider("openai", &[], true)]), "a protocol is a name as well");
        let ollama = ModelProvider { provider: "ollama".into(), ..provider("o", &[], false) };
        assert!(!depends("ollama", std::slice::from_ref(&ollama)), "it is there without a registration");
        let elsewhere = ModelProvider { endpoint: "http://gpu:11434/v1".into(), ..ollama };
        assert!(depends("ollama", &[elsewhere]));
    }

    #[test]
    fn providers_that_would_do_equally_well_are_named_and_others_are_not() {
        let (a, b) = (provider("a", &["m"], true), provider("b", &["m"], true));
        let expected = "llm_configs[0]: 2 model providers of \"openai\" serve the model: \"a\", \"b\". \"a\" is used, \
                        the first by name; give the name of one as provider to choose";
        let others = [provider("0", &[], true), provider("1", &["m"], false), provider("2", &["other"], true)];
        assert_eq!(warned("openai", &[&[b.clone(), a.clone()], &others[..]].concat()), [expected]);
        assert!(
            warned("openai", &[std::slice::from_ref(&b), &others[..]].concat()).is_empty(),
            "one comes before the others"
        );
        assert!(warned("a", &[a.clone(), b.clone()]).is_empty(), "it was chosen");
        assert!(warned("anthropic", &[a.clone(), b.clone()]).is_empty());
        assert!(warned("openai", &[a, b, provider("openai", &[], false)]).is_empty(), "that name is a provider's");
    }
}
