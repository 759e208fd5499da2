//! The variables that the platform sets for every agent.

/// The agent's name.
pub const AGENT_NAME: &str = "AGENT_NAME";
/// The agent's description, if it has one. Users may set their own.
pub const AGENT_DESCRIPTION: &str = "AGENT_DESCRIPTION";
/// The system prompt.
pub const SYSTEM_PROMPT: &str = "SYSTEM_PROMPT";
/// The file that the runner starts, relative to the source.
pub const USER_ENTRY_POINT: &str = "USER_ENTRY_POINT";
/// The port on which the agent listens.
pub const PORT: &str = "PORT";
/// The names of the agent's tools, separated by commas.
pub const TOOL_NAMES: &str = "TOOL_NAMES";
/// The prefix of the variables with tools' base URLs; the tool's name follows.
pub const TOOL_URL_PREFIX: &str = "TOOL_URL_";
/// The model of a role, whose suffix follows.
pub const LLM_MODEL: &str = "LLM_MODEL";
/// The provider of a role's model; the role's suffix follows.
pub const LLM_PROVIDER: &str = "LLM_PROVIDER";
/// The base URL of the models.
pub const LLM_GATEWAY_URL: &str = "LLM_GATEWAY_URL";

/// Names that users may not set: the platform sets them, or they change what the interpreter loads.
const RESERVED: [&str; 7] = [PORT, AGENT_NAME, USER_ENTRY_POINT, SYSTEM_PROMPT, TOOL_NAMES, "PYTHONPATH", "PYTHONHOME"];
/// The beginnings of further ones.
const RESERVED_PREFIXES: [&str; 4] = ["LLM_", TOOL_URL_PREFIX, "HOISTWAY_", "LD_"];

/// Whether users may not set a variable of this name.
pub fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_may_not_set_the_platforms_variables_but_for_the_description() {
        for name in [LLM_MODEL, LLM_PROVIDER, LLM_GATEWAY_URL, "TOOL_URL_X", "LD_PRELOAD", PORT] {
            assert!(is_reserved(name), "{name}");
        }
        for name in [AGENT_DESCRIPTION, "OPENAI_API_KEY", "HTTP_PROXY", "MODE"] {
            assert!(!is_reserved(name), "{name}");
        }
    }
}
