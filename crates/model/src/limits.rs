//! Limits of requests and lists. The API's document states them, its parsers refuse what exceeds them, and the services
//! check them again.

/// The longest `tools_to_create` and `required_tools` of a deploy.
pub const MAX_TOOLS: usize = 256;
/// The longest list of a record: models, labels, scopes, audiences, domains or credentials.
pub const MAX_MEMBERS: usize = 256;
/// The most variables of an agent.
pub const MAX_VARIABLES: usize = 1_000;
/// The longest description of a tool, in bytes.
pub const MAX_DESCRIPTION: usize = 16 << 10;
/// The longest other text of a record, in bytes. Credentials are the longest.
pub const MAX_TEXT: usize = 64 << 10;
/// The longest URL, in bytes.
pub const MAX_URL: usize = 2_048;
/// The longest identifier of a model, in bytes; names of cloud resources are the longest that are in use.
pub const MAX_MODEL: usize = 2_048;
/// The longest key or value of a label, in bytes.
pub const MAX_LABEL: usize = 256;
/// The longest page of a list.
pub const MAX_PAGE: u32 = 1_000;
/// The most records that a service returns at a time: one more than a page has, which shows that another page follows.
pub const MAX_LOOK_UP: u32 = MAX_PAGE + 1;
