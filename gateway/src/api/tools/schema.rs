//! The requests about tools for the OpenAPI document. They are read member by member, with better errors than those of
//! a derived reader.

use std::collections::BTreeMap;
use utoipa::ToSchema;

/// A tool, flat or with a `spec` as it is answered.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
pub struct ToolIn {
    /// Unique name: at most 63 lower-case letters, digits and `-`. The path may say it instead.
    #[schema(examples("stripe-api"))]
    name: Option<String>,
    /// For people and models.
    #[schema(max_length = 16_384)]
    description: Option<String>,
    /// Where the tool is, beginning with `http://` or `https://`; needed for a new tool, here or in `spec`.
    #[schema(max_length = 2_048, examples("https://api.stripe.com"))]
    base_url: Option<String>,
    /// TCP port; absent: the one of `base_url`.
    #[schema(minimum = 1, maximum = 65_535)]
    port: Option<u16>,
    /// `HTTP` or `HTTPS`; absent: the one of `base_url`.
    scheme: Option<String>,
    /// `None`, `APIKey` or `OAuth2`; absent: `None`.
    auth_type: Option<String>,
    /// For `OAuth2`: where tokens come from.
    #[schema(max_length = 2_048)]
    token_url: Option<String>,
    /// For `OAuth2`, beside `token_url`: what is asked for.
    #[schema(max_items = 256)]
    scopes: Option<Vec<String>>,
    /// In the place of the flat members: `{"description", "connection": {"baseUrl", "port", "scheme",
    /// "authentication": {"type", "apiKeyConfig": {"in", "name", "valuePrefix"}, "oauth2Config": {"tokenUrl",
    /// "scopes"}}}}`.
    #[schema(value_type = Option<Object>)]
    spec: Option<()>,
    /// Labels, at most 256 bytes each.
    labels: Option<BTreeMap<String, String>>,
    /// Kept encrypted, and shown in no answer.
    credentials: Option<ToolCredentials>,
}

/// A tool's credentials: `api_key` for `APIKey`, the other two for `OAuth2`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the members are read one by one; this describes them")]
pub struct ToolCredentials {
    /// The API key.
    #[schema(max_length = 65_536)]
    api_key: Option<String>,
    /// The client's id.
    #[schema(max_length = 65_536)]
    client_id: Option<String>,
    /// The client's secret.
    #[schema(max_length = 65_536)]
    client_secret: Option<String>,
}
