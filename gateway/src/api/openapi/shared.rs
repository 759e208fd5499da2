//! The parts of the document that are common to all operations.

use hoistway_model::Code;
use serde_json::{Value, json};

/// The address of the API in the samples; the page replaces it with its own.
pub const ENDPOINT: &str = "http://localhost:8092";

/// Tags, in the order in which the page shows them, with their descriptions.
const TAGS: [(&str, &str); 14] = [
    ("deploy", "From source code or an image to a running agent, in one call."),
    ("agents", "Running agents: look at them, call them, change and delete them."),
    ("revisions", "What an agent was, is and can be again."),
    ("deployments", "Deploys, with their steps and how long each took."),
    ("builds", "Images made from source, with their logs."),
    ("events", "What happens, as it happens."),
    ("tools", "HTTP services that agents use, and the credentials for them."),
    ("model providers", "Where the models are that agents use."),
    ("usage", "What agents use of models, and how much they may."),
    ("identity providers", "Who authenticates the callers of an agent."),
    ("starter kit", "A tool and a model provider to begin with."),
    ("keys", "API keys and their scopes."),
    ("audit", "Who changed what, and when."),
    ("platform", "The installation itself: its state, probes, metrics and this document."),
];

/// Returns the members of the document that belong to no handler.
pub fn members() -> Value {
    json!({
        "info": {
            "title": "Hoistway",
            "summary": "Turns one HTTP call into a running AI agent.",
            "description": INTRODUCTION,
            "version": env!("CARGO_PKG_VERSION"),
            "license": {"name": "Apache License 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "/",
                "description": "The installation that this document comes from. Every path under `/api` is also there \
                    under `/api/v1`, the base that the `runagents` SDK uses"
            },
            {"url": ENDPOINT, "description": "Where `hoistway up` answers by default"},
        ],
        "security": [{"bearer": []}, {"key": []}],
        "tags": TAGS.map(|(name, description)| json!({"name": name, "description": description})),
    })
}

const INTRODUCTION: &str = "\
Hoistway is a self-hosted control plane for AI agents. `POST /api/deploy` registers an agent's tools, builds an image \
from its source and starts it; `POST /api/agents/{name}/invoke` calls it.

**Key.** Every path under `/api` needs an API key, as `Authorization: Bearer KEY` or as `X-RunAgents-API-Key: KEY`. \
`hoistway up` prints where the first one is kept. The samples expect it in the variable `RUNAGENTS_API_KEY`. A key has \
scopes, and each operation says which one it needs: `read` to look, `invoke` to call agents, `deploy` to change things \
and to look, `admin` for keys, the audit log and all else.

**Requests** are JSON in UTF-8, whatever their content type. `null` is the same as absent, nothing may be given twice, \
and a member that is not known is ignored and told in the answer's `warnings`. Values of an enumeration may be written \
in any letter case.

**Answers** are JSON but for logs, streams and metrics. Times are RFC 3339 in UTC. Members may be added with time: \
clients pass over what they do not know.

**Rates.** Answers to a key with a rate have the headers `RateLimit-Policy` and `RateLimit`, which says how many requests \
are left; beyond it the answer is 429 with `Retry-After`.

**Lists** are plain JSON arrays. Those that grow without end come newest first, at most `limit` entries at a time; \
where there is more, the header `Link` has the address of the next page.

**Errors** have one shape: `error` for people, `code` for programs, `request_id` for the log, and `details` where there \
is proof to show. A path or method that does not exist is answered so as well, with 404 or 405.

**Request ids.** Every answer has the header `X-Request-Id`. A request may bring its own: up to 128 printable ASCII \
characters without spaces.";

/// Returns the components that operations refer to.
pub fn components() -> Value {
    json!({
        "securitySchemes": {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "description": "An API key in the header `Authorization`"
            },
            "key": {
                "type": "apiKey",
                "in": "header",
                "name": "X-RunAgents-API-Key",
                "description": "An API key in a header of its own, for clients that cannot set `Authorization`"
            },
        },
        "headers": {
            "RequestId": {
                "description": "The id of the request in logs and errors: the caller's own, else a new one",
                "required": true,
                "schema": {"type": "string", "minLength": 1, "maxLength": 128},
            },
            "RetryAfter": {
                "description": "After how many seconds it is worth trying again",
                "required": true,
                "schema": {"type": "string", "pattern": "^[0-9]+$"},
            },
            "Authenticate": {
                "description": "How to present a key",
                "required": true,
                "schema": {"type": "string", "const": "Bearer"},
            },
            "NextPage": {
                "description": "Where the next page is, as `<ADDRESS>; rel=\"next\"`; absent on the last one",
                "schema": {"type": "string"},
            },
        },
    })
}

/// The properties of a request that determine its possible errors.
pub struct Kind {
    /// It needs a key.
    pub keyed: bool,
    /// Its path identifies a resource.
    pub names: bool,
    /// It has parameters in its path or query.
    pub parameters: bool,
    /// It has a body.
    pub body: bool,
}

/// An error that does not depend on what an operation does.
pub struct Standard {
    /// Its code, which determines its HTTP status.
    pub code: Code,
    /// Its name among the document's responses.
    pub name: &'static str,
    /// Its meaning.
    pub description: &'static str,
    /// An example's `error`.
    pub example: &'static str,
    /// The header that it has beside the request's id, and that header's name among the document's headers.
    pub header: Option<(&'static str, &'static str)>,
    /// Returns whether a kind of request can have it.
    pub meets: fn(&Kind) -> bool,
}

/// All standard errors.
pub const STANDARD: [Standard; 9] = [
    Standard {
        code: Code::InvalidArgument,
        name: "BadRequest",
        description: "The request is wrong; `error` names the field or parameter. Nothing was changed",
        example: "name: is required",
        header: None,
        meets: |kind| kind.parameters || kind.body,
    },
    Standard {
        code: Code::Unauthenticated,
        name: "Unauthenticated",
        description: "No API key, or one that is wrong, expired or revoked",
        example: "the API key is not valid",
        header: Some(("WWW-Authenticate", "Authenticate")),
        meets: |kind| kind.keyed,
    },
    Standard {
        code: Code::PermissionDenied,
        name: "Forbidden",
        description: "The API key is valid and does not allow this",
        example: "the API key \"ci\" does not have the scope \"deploy\", which this needs",
        header: None,
        meets: |kind| kind.keyed,
    },
    Standard {
        code: Code::NotFound,
        name: "NotFound",
        description: "What the path names does not exist",
        example: "agent \"hello\" not found",
        header: None,
        meets: |kind| kind.names,
    },
    Standard {
        code: Code::PayloadTooLarge,
        name: "PayloadTooLarge",
        description: "The body is larger than the limit, 32 MiB unless the operator set another",
        example: "the request body is larger than 33554432 bytes (setting max_body_bytes)",
        header: None,
        meets: |kind| kind.body,
    },
    Standard {
        code: Code::ResourceExhausted,
        name: "TooManyRequests",
        description: "A limit of rate, queue or concurrency is reached",
        example: "this API key sends too many requests (setting requests_per_second)",
        header: Some(("Retry-After", "RetryAfter")),
        meets: |kind| kind.keyed,
    },
    Standard {
        code: Code::Internal,
        name: "Internal",
        description: "A defect, or the machine's fault; the cause is in the log under the request id",
        example: "internal error while answering the request",
        header: None,
        meets: |kind| kind.keyed,
    },
    Standard {
        code: Code::Unavailable,
        name: "Unavailable",
        description: "A part of the platform does not answer now, or is shutting down",
        example: "the service is not reachable now",
        header: Some(("Retry-After", "RetryAfter")),
        meets: |kind| kind.keyed,
    },
    Standard {
        code: Code::DeadlineExceeded,
        name: "DeadlineExceeded",
        description: "A part of the platform did not answer in time",
        example: "the time limit passed",
        header: None,
        meets: |kind| kind.keyed,
    },
];

/// Returns the JSON content of an error.
pub fn error_content() -> Value {
    json!({"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}})
}

/// Returns the standard errors as components of the document.
pub fn responses() -> Value {
    let each = STANDARD.iter().map(|standard| {
        let mut content = error_content();
        content["application/json"]["example"] =
            json!({"error": standard.example, "code": standard.code.as_str(), "request_id": "01a2092d-b570-76eb-887a-3ce8dec8c3e1"});
        let mut headers = json!({"X-Request-Id": {"$ref": "#/components/headers/RequestId"}});
        if let Some((name, part)) = standard.header {
            headers[name] = json!({"$ref": format!("#/components/headers/{part}")});
        }
        let response = json!({"description": standard.description, "headers": headers, "content": content});
        (standard.name.to_owned(), response)
    });
    Value::Object(each.collect())
}
