//! The public APIs of models: their clients use these addresses by default, and read a key from the environment.

use crate::agent::EnvVar;

/// The placeholder in agents' environments for clients of models that require a key; only egress understands it.
pub const PLACEHOLDER_KEY: &str = "hoistway-placeholder";

/// A public API of models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelApi {
    /// Its address, `https://HOST`.
    pub origin: &'static str,
    /// The variables from which its clients read a key.
    keys: &'static [&'static str],
    /// The variables from which they read another address.
    base_urls: &'static [&'static str],
}

/// The API of OpenAI.
pub const OPENAI: ModelApi = ModelApi {
    origin: "https://api.openai.com",
    keys: &["OPENAI_API_KEY"],
    base_urls: &["OPENAI_BASE_URL", "OPENAI_API_BASE"],
};

/// The API of Anthropic.
pub const ANTHROPIC: ModelApi = ModelApi {
    origin: "https://api.anthropic.com",
    keys: &["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"],
    base_urls: &["ANTHROPIC_BASE_URL", "ANTHROPIC_API_BASE"],
};

/// All APIs.
pub const MODEL_APIS: [ModelApi; 2] = [OPENAI, ANTHROPIC];

/// Whether clients of models read a key or an address from the variable of this name.
pub fn is_model_variable(name: &str) -> bool {
    MODEL_APIS.iter().any(|api| api.keys.contains(&name) || api.base_urls.contains(&name))
}

impl ModelApi {
    /// Whether an agent with these variables calls it with a key of its own: it has one and sets no other address.
    pub fn is_called_with_own_key(&self, env: &[EnvVar]) -> bool {
        self.has_own_key(env) && !has(env, self.base_urls)
    }

    /// Whether these variables have a key for it, for any address.
    pub fn has_own_key(&self, env: &[EnvVar]) -> bool {
        has(env, self.keys)
    }
}

fn has(env: &[EnvVar], names: &[&str]) -> bool {
    env.iter().any(|var| names.contains(&var.name.as_str()) && !var.value.expose().trim().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;

    #[test]
    fn an_agent_calls_an_api_itself_with_a_key_of_its_own_and_no_other_address() {
        let var = |(name, value): &(&str, &str)| EnvVar {
            name: (*name).to_owned(),
            value: Secret::new(*value),
            secret: None,
        };
        let own = |env: &[(&str, &str)]| {
            let env: Vec<EnvVar> = env.iter().map(var).collect();
            MODEL_APIS.map(|api| api.is_called_with_own_key(&env))
        };
        assert_eq!(own(&[]), [false, false]);
        assert_eq!(own(&[("OPENAI_API_KEY", "sk-own")]), [true, false]);
        assert_eq!(own(&[("ANTHROPIC_AUTH_TOKEN", "t"), ("OPENAI_API_KEY", " ")]), [false, true]);
        let elsewhere = [("OPENAI_API_KEY", "sk-own"), ("OPENAI_BASE_URL", "https://llm.example/v1")];
        assert_eq!(own(&elsewhere), [false, false]);
    }
}
