//! Frameworks of agents.

/// A framework that the runner knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framework {
    /// LangChain.
    LangChain,
    /// LangGraph.
    LangGraph,
    /// CrewAI.
    CrewAi,
    /// The OpenAI Agents SDK, or OpenAI's own client.
    OpenAi,
    /// Pydantic AI.
    PydanticAi,
    /// smolagents.
    SmolAgents,
    /// LlamaIndex.
    LlamaIndex,
    /// AutoGen.
    AutoGen,
    /// Google's Agent Development Kit.
    GoogleAdk,
    /// Strands Agents.
    Strands,
    /// The Model Context Protocol.
    Mcp,
    /// FastAPI.
    FastApi,
    /// Starlette.
    Starlette,
    /// Flask.
    Flask,
    /// Django.
    Django,
    /// None of them: the user's own functions.
    Custom,
}

impl Framework {
    /// Every framework.
    pub const ALL: [Framework; 16] = [
        Framework::LangChain,
        Framework::LangGraph,
        Framework::CrewAi,
        Framework::OpenAi,
        Framework::PydanticAi,
        Framework::SmolAgents,
        Framework::LlamaIndex,
        Framework::AutoGen,
        Framework::GoogleAdk,
        Framework::Strands,
        Framework::Mcp,
        Framework::FastApi,
        Framework::Starlette,
        Framework::Flask,
        Framework::Django,
        Framework::Custom,
    ];

    /// Returns the public spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Framework::LangChain => "langchain",
            Framework::LangGraph => "langgraph",
            Framework::CrewAi => "crewai",
            Framework::OpenAi => "openai",
            Framework::PydanticAi => "pydantic-ai",
            Framework::SmolAgents => "smolagents",
            Framework::LlamaIndex => "llamaindex",
            Framework::AutoGen => "autogen",
            Framework::GoogleAdk => "google-adk",
            Framework::Strands => "strands",
            Framework::Mcp => "mcp",
            Framework::FastApi => "fastapi",
            Framework::Starlette => "starlette",
            Framework::Flask => "flask",
            Framework::Django => "django",
            Framework::Custom => "custom",
        }
    }

    /// Parses a name in any letter case and with any separators, of the framework or of its package.
    pub fn parse(text: &str) -> Option<Self> {
        let plain = |text: &str| -> String {
            text.chars().filter(|c| !" -_.".contains(*c)).map(|c| c.to_ascii_lowercase()).collect()
        };
        let given = plain(text);
        let known = match given.as_str() {
            "openaiagents" | "openaiagentssdk" => Framework::OpenAi,
            "llamaindexcore" => Framework::LlamaIndex,
            "autogenagentchat" | "pyautogen" => Framework::AutoGen,
            "adk" => Framework::GoogleAdk,
            "strandsagents" => Framework::Strands,
            "fastmcp" => Framework::Mcp,
            "none" | "python" => Framework::Custom,
            _ => Framework::ALL.into_iter().find(|known| plain(known.as_str()) == given)?,
        };
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_people_write_them() {
        for known in Framework::ALL {
            assert_eq!(Framework::parse(known.as_str()), Some(known));
            assert_eq!(Framework::parse(&known.as_str().to_uppercase()), Some(known));
        }
        for (text, known) in [
            ("LangChain", Framework::LangChain),
            ("Pydantic AI", Framework::PydanticAi),
            ("pydantic_ai", Framework::PydanticAi),
            ("llama-index", Framework::LlamaIndex),
            ("openai-agents", Framework::OpenAi),
            ("Google ADK", Framework::GoogleAdk),
            ("none", Framework::Custom),
        ] {
            assert_eq!(Framework::parse(text), Some(known), "{text}");
        }
        for text in ["", "-", "langchian", "rails"] {
            assert_eq!(Framework::parse(text), None, "{text}");
        }
    }
}
