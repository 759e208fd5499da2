//! Requirements for sources that declare none: each import is the standard library's, the source's own, or known
//! here. Never a guess: a package of the module's name may be anybody's.

use super::{FileImports, alternatives, reach::roots};
use hoistway_model::{
    Code, Error, Result,
    source::{Requirements, SourceFiles},
};
use std::collections::BTreeSet;

/// Well-known modules and the distributions that provide them, sorted. The longest name that fits wins.
const KNOWN: &[(&str, &str)] = &[
    ("Crypto", "pycryptodome"),
    ("OpenSSL", "pyopenssl"),
    ("PIL", "pillow"),
    ("PyPDF2", "pypdf2"),
    ("accelerate", "accelerate"),
    ("agents", "openai-agents"),
    ("aiofiles", "aiofiles"),
    ("aiohttp", "aiohttp"),
    ("aiosqlite", "aiosqlite"),
    ("alembic", "alembic"),
    ("annotated_types", "annotated-types"),
    ("anthropic", "anthropic"),
    ("anyio", "anyio"),
    ("arxiv", "arxiv"),
    ("asyncpg", "asyncpg"),
    ("attr", "attrs"),
    ("attrs", "attrs"),
    ("autogen_agentchat", "autogen-agentchat"),
    ("autogen_core", "autogen-core"),
    ("autogen_ext", "autogen-ext"),
    ("backoff", "backoff"),
    ("boto3", "boto3"),
    ("botocore", "botocore"),
    ("bs4", "beautifulsoup4"),
    ("cachetools", "cachetools"),
    ("celery", "celery"),
    ("certifi", "certifi"),
    ("chardet", "chardet"),
    ("charset_normalizer", "charset-normalizer"),
    ("chromadb", "chromadb"),
    ("click", "click"),
    ("cohere", "cohere"),
    ("crewai", "crewai"),
    ("crewai_tools", "crewai-tools"),
    ("cryptography", "cryptography"),
    ("cv2", "opencv-python-headless"),
    ("datasets", "datasets"),
    ("dateutil", "python-dateutil"),
    ("ddgs", "ddgs"),
    ("diskcache", "diskcache"),
    ("django", "django"),
    ("dns", "dnspython"),
    ("docopt", "docopt-ng"),
    ("docx", "python-docx"),
    ("dotenv", "python-dotenv"),
    ("dspy", "dspy"),
    ("duckdb", "duckdb"),
    ("elasticsearch", "elasticsearch"),
    ("faiss", "faiss-cpu"),
    ("fastapi", "fastapi"),
    ("fastmcp", "fastmcp"),
    ("feedparser", "feedparser"),
    ("flask", "flask"),
    ("git", "gitpython"),
    ("github", "pygithub"),
    ("google.adk", "google-adk"),
    ("google.api_core", "google-api-core"),
    ("google.auth", "google-auth"),
    ("google.cloud.aiplatform", "google-cloud-aiplatform"),
    ("google.cloud.bigquery", "google-cloud-bigquery"),
    ("google.cloud.firestore", "google-cloud-firestore"),
    ("google.cloud.pubsub", "google-cloud-pubsub"),
    ("google.cloud.secretmanager", "google-cloud-secret-manager"),
    ("google.cloud.storage", "google-cloud-storage"),
    ("google.genai", "google-genai"),
    ("google.generativeai", "google-generativeai"),
    ("google.oauth2", "google-auth"),
    ("google.protobuf", "protobuf"),
    ("googleapiclient", "google-api-python-client"),
    ("gradio", "gradio"),
    ("groq", "groq"),
    ("grpc", "grpcio"),
    ("gunicorn", "gunicorn"),
    ("haystack", "haystack-ai"),
    ("html5lib", "html5lib"),
    ("httpx", "httpx"),
    ("httpx_sse", "httpx-sse"),
    ("huggingface_hub", "huggingface-hub"),
    ("hypercorn", "hypercorn"),
    ("instructor", "instructor"),
    ("jinja2", "jinja2"),
    ("joblib", "joblib"),
    ("jose", "python-jose"),
    ("jsonschema", "jsonschema"),
    ("jwt", "pyjwt"),
    ("langchain", "langchain"),
    ("langchain_anthropic", "langchain-anthropic"),
    ("langchain_aws", "langchain-aws"),
    ("langchain_chroma", "langchain-chroma"),
    ("langchain_classic", "langchain-classic"),
    ("langchain_cohere", "langchain-cohere"),
    ("langchain_community", "langchain-community"),
    ("langchain_core", "langchain-core"),
    ("langchain_experimental", "langchain-experimental"),
    ("langchain_google_genai", "langchain-google-genai"),
    ("langchain_google_vertexai", "langchain-google-vertexai"),
    ("langchain_groq", "langchain-groq"),
    ("langchain_huggingface", "langchain-huggingface"),
    ("langchain_mcp_adapters", "langchain-mcp-adapters"),
    ("langchain_mistralai", "langchain-mistralai"),
    ("langchain_ollama", "langchain-ollama"),
    ("langchain_openai", "langchain-openai"),
    ("langchain_postgres", "langchain-postgres"),
    ("langchain_tavily", "langchain-tavily"),
    ("langchain_text_splitters", "langchain-text-splitters"),
    ("langfuse", "langfuse"),
    ("langgraph", "langgraph"),
    ("langgraph.checkpoint.postgres", "langgraph-checkpoint-postgres"),
    ("langgraph.checkpoint.sqlite", "langgraph-checkpoint-sqlite"),
    ("langgraph_supervisor", "langgraph-supervisor"),
    ("langsmith", "langsmith"),
    ("litellm", "litellm"),
    ("llama_index", "llama-index"),
    ("llama_index.embeddings.huggingface", "llama-index-embeddings-huggingface"),
    ("llama_index.embeddings.ollama", "llama-index-embeddings-ollama"),
    ("llama_index.llms.anthropic", "llama-index-llms-anthropic"),
    ("llama_index.llms.bedrock_converse", "llama-index-llms-bedrock-converse"),
    ("llama_index.llms.ollama", "llama-index-llms-ollama"),
    ("loguru", "loguru"),
    ("lxml", "lxml"),
    ("markdown", "markdown"),
    ("markdownify", "markdownify"),
    ("matplotlib", "matplotlib"),
    ("mcp", "mcp"),
    ("mistralai", "mistralai"),
    ("motor", "motor"),
    ("msgpack", "msgpack"),
    ("mysql.connector", "mysql-connector-python"),
    ("neo4j", "neo4j"),
    ("networkx", "networkx"),
    ("nltk", "nltk"),
    ("notion_client", "notion-client"),
    ("numpy", "numpy"),
    ("ollama", "ollama"),
    ("openai", "openai"),
    ("openpyxl", "openpyxl"),
    ("opentelemetry", "opentelemetry-sdk"),
    ("orjson", "orjson"),
    ("packaging", "packaging"),
    ("pandas", "pandas"),
    ("paramiko", "paramiko"),
    ("pdfplumber", "pdfplumber"),
    ("pinecone", "pinecone"),
    ("playwright", "playwright"),
    ("plotly", "plotly"),
    ("polars", "polars"),
    ("prometheus_client", "prometheus-client"),
    ("psutil", "psutil"),
    ("psycopg", "psycopg[binary]"),
    ("psycopg2", "psycopg2-binary"),
    ("pyarrow", "pyarrow"),
    ("pydantic", "pydantic"),
    ("pydantic_ai", "pydantic-ai"),
    ("pydantic_core", "pydantic-core"),
    ("pydantic_settings", "pydantic-settings"),
    ("pymongo", "pymongo"),
    ("pymysql", "pymysql"),
    ("pypdf", "pypdf"),
    ("pytest", "pytest"),
    ("pytz", "pytz"),
    ("qdrant_client", "qdrant-client"),
    ("rank_bm25", "rank-bm25"),
    ("rapidfuzz", "rapidfuzz"),
    ("redis", "redis"),
    ("regex", "regex"),
    ("replicate", "replicate"),
    ("requests", "requests"),
    ("requests_oauthlib", "requests-oauthlib"),
    ("rich", "rich"),
    ("runagents", "runagents"),
    ("scipy", "scipy"),
    ("semantic_kernel", "semantic-kernel"),
    ("sendgrid", "sendgrid"),
    ("sentence_transformers", "sentence-transformers"),
    ("sentry_sdk", "sentry-sdk"),
    ("setuptools", "setuptools"),
    ("six", "six"),
    ("sklearn", "scikit-learn"),
    ("slack_bolt", "slack-bolt"),
    ("slack_sdk", "slack-sdk"),
    ("smolagents", "smolagents"),
    ("snowflake.connector", "snowflake-connector-python"),
    ("sqlalchemy", "sqlalchemy"),
    ("sqlmodel", "sqlmodel"),
    ("sse_starlette", "sse-starlette"),
    ("starlette", "starlette"),
    ("strands", "strands-agents"),
    ("streamlit", "streamlit"),
    ("stripe", "stripe"),
    ("structlog", "structlog"),
    ("supabase", "supabase"),
    ("sympy", "sympy"),
    ("tabulate", "tabulate"),
    ("tavily", "tavily-python"),
    ("telegram", "python-telegram-bot"),
    ("tenacity", "tenacity"),
    ("tiktoken", "tiktoken"),
    ("together", "together"),
    ("tokenizers", "tokenizers"),
    ("tomli", "tomli"),
    ("tomlkit", "tomlkit"),
    ("torch", "torch"),
    ("tqdm", "tqdm"),
    ("trafilatura", "trafilatura"),
    ("transformers", "transformers"),
    ("twilio", "twilio"),
    ("typer", "typer"),
    ("typing_extensions", "typing-extensions"),
    ("tzlocal", "tzlocal"),
    ("ujson", "ujson"),
    ("urllib3", "urllib3"),
    ("uvicorn", "uvicorn"),
    ("uvloop", "uvloop"),
    ("vertexai", "google-cloud-aiplatform"),
    ("voyageai", "voyageai"),
    ("watchdog", "watchdog"),
    ("weaviate", "weaviate-client"),
    ("websocket", "websocket-client"),
    ("websockets", "websockets"),
    ("werkzeug", "werkzeug"),
    ("xmltodict", "xmltodict"),
    ("yaml", "pyyaml"),
    ("yfinance", "yfinance"),
    ("youtube_transcript_api", "youtube-transcript-api"),
    ("zmq", "pyzmq"),
];

/// How many undeclared imports an error lists.
const MAX_LISTED: usize = 20;

/// The names under which the source's own files can be imported.
pub fn own_modules(files: &SourceFiles, entry_point: &str) -> BTreeSet<String> {
    let roots = roots(entry_point);
    files
        .python()
        .flat_map(|name| roots.iter().filter_map(move |root| name.strip_prefix(root)))
        .map(|name| name.split('/').next().unwrap_or(name))
        .map(|first| first.strip_suffix(".py").unwrap_or(first).to_owned())
        .collect()
}

/// The requirements that the imports ask for. An import that cannot be placed is [`Code::UndeclaredImport`] with file
/// and line, unless the program goes on without it.
pub fn requirements_from_imports(
    files: &[FileImports],
    own: &BTreeSet<String>,
    stdlib: &BTreeSet<String>,
) -> Result<Requirements> {
    let mut needed = BTreeSet::new();
    let mut undeclared = Vec::new();
    for FileImports { file, imports, reached } in files {
        for import in imports.iter().filter(|import| !import.module.starts_with('.')) {
            let top = import.module.split('.').next().unwrap_or_default();
            if own.contains(top) || stdlib.contains(top) || top == "__main__" {
                continue;
            }
            match distribution(&import.module) {
                Some(distribution) => {
                    needed.insert(distribution);
                }
                None if import.optional || !reached => {}
                None => undeclared.push((top, file, import.line)),
            }
        }
    }
    match undeclared.first() {
        None => Requirements::parse("requirements", &needed.into_iter().collect::<Vec<_>>().join("\n")),
        Some((module, file, line)) => {
            let message = match alternatives::distribution_of(module) {
                Some(package) => format!("{file}, line {line}: {}", alternatives::without_wheel(package)),
                None => format!(
                    "{file}, line {line}: no package is known that provides the module \"{module}\"; \
                     name the packages that the source needs in `requirements`"
                ),
            };
            let lines = undeclared.iter().take(MAX_LISTED).map(|(m, f, l)| format!("{f}, line {l}: import {m}"));
            Err(Error::new(Code::UndeclaredImport, message).with_details(lines))
        }
    }
}

fn distribution(module: &str) -> Option<&'static str> {
    let mut name = module;
    loop {
        if let Ok(at) = KNOWN.binary_search_by_key(&name, |(known, _)| known) {
            return Some(KNOWN[at].1);
        }
        name = &name[..name.rfind('.')?];
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::python::Import;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    fn ask(modules: &[(&str, bool)]) -> Result<String> {
        let line = |(i, (module, optional)): (usize, &(&str, bool))| Import {
            module: module.to_string(),
            line: i as u32 + 1,
            optional: *optional,
        };
        let imports = modules.iter().enumerate().map(line).collect();
        let files = [FileImports { file: "agent.py".into(), imports, reached: true }];
        requirements_from_imports(&files, &set(&["words"]), &set(&["os", "json"])).map(|r| r.text().to_owned())
    }

    #[test]
    fn the_table_is_sorted_and_sound() {
        assert!(KNOWN.is_sorted_by(|a, b| a.0 < b.0), "{:?}", KNOWN.windows(2).find(|w| w[0].0 >= w[1].0));
        for (module, distribution) in KNOWN {
            let parsed = Requirements::parse("requirements", distribution).unwrap();
            assert_eq!(parsed.text().trim_end(), *distribution, "{module}");
        }
    }

    #[test]
    fn imports_are_the_standard_librarys_own_or_known() {
        let known = [
            ("os.path", false),
            ("words.hi", false),
            ("__main__.x", false),
            ("yaml.safe_load", false),
            ("google.genai.types", false),
            ("google.cloud.storage", false),
            ("langchain_openai.ChatOpenAI", false),
            ("openai", true),
            ("openai.types", false),
            ("langgraph.checkpoint.sqlite.SqliteSaver", false),
            ("langgraph.graph", false),
            ("nobody_has_this", true),
        ];
        let want = "google-cloud-storage\ngoogle-genai\nlangchain-openai\nlanggraph\nlanggraph-checkpoint-sqlite\nopenai\npyyaml\n";
        assert_eq!(ask(&known).unwrap(), want);
        assert_eq!(ask(&[]).unwrap(), "");
    }

    #[test]
    fn an_undeclared_import_is_named_with_file_and_line() {
        for module in ["zzz_nobody_has_this", "google", "google.unheard_of", "Os"] {
            let e = ask(&[("os", false), (module, false)]).unwrap_err();
            assert_eq!(e.code, Code::UndeclaredImport);
            let top = module.split('.').next().unwrap();
            assert!(
                e.message
                    .contains(&format!("agent.py, line 2: no package is known that provides the module \"{top}\"")),
                "{e}"
            );
            assert!(e.message.contains("`requirements`"), "{e}");
            assert_eq!(e.details, [format!("agent.py, line 2: import {top}")]);
        }
    }

    #[test]
    fn own_modules_are_those_of_the_root_and_beside_the_entry_point() {
        let names = ["src/bot/main.py", "src/bot/tools/web.py", "src/bot/words.py", "lib.py", "data/x.json"];
        let files = SourceFiles::parse(names.iter().map(|n| (n.to_string(), String::new())).collect()).unwrap();
        assert_eq!(own_modules(&files, "src/bot/main.py"), set(&["bot", "lib", "main", "src", "tools", "words"]));
        assert_eq!(own_modules(&files, "lib.py"), set(&["bot", "lib", "src"]));
        let names = ["services/bot/src/bot/main.py", "services/bot/src/__init__.py"];
        let files = SourceFiles::parse(names.iter().map(|n| (n.to_string(), String::new())).collect()).unwrap();
        let own = own_modules(&files, names[0]);
        assert!(own.is_superset(&set(&["bot", "main", "services"])), "{own:?}");
    }
}
