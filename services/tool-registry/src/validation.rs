//! The checks of every call before the store sees it. Errors name the fields of the public API, where these
//! records come from; the meaning of URLs and names was checked there.

use hoistway_model::{
    Error, Name, Result, Secret,
    limits::{MAX_DESCRIPTION, MAX_MEMBERS, MAX_TEXT, MAX_TOOLS},
    tool::{
        AuthType, Connection, IdentityProvider, MODEL_PROVIDERS, NewModelProvider, NewTool, ToolPlan, bedrock_region,
        is_aws_region, provider_credentials, tool_credentials,
    },
};
use std::collections::{BTreeMap, BTreeSet};

/// A deploy's tools.
pub(crate) fn check_plan(plan: &ToolPlan) -> Result<()> {
    at_most("tools_to_create", plan.create.len(), MAX_TOOLS)?;
    at_most("required_tools", plan.bind.len(), MAX_TOOLS)?;
    let mut names: BTreeSet<&Name> = BTreeSet::new();
    for (i, tool) in plan.create.iter().enumerate() {
        check_tool(&format!("tools_to_create[{i}]."), tool)?;
        check_description(&format!("tools_to_create[{i}].description"), &tool.description)?;
        if !names.insert(&tool.name) {
            return Err(Error::field(format!("tools_to_create[{i}].name"), "is named before in the same call"));
        }
    }
    Ok(())
}

/// A description that a tool does not have yet. Those that were stored while longer ones were allowed stay.
pub(crate) fn check_description(field: &str, text: &str) -> Result<()> {
    if text.len() > MAX_DESCRIPTION {
        return Err(Error::field(field, format!("is longer than {MAX_DESCRIPTION} bytes")));
    }
    if text.contains('\0') {
        return Err(Error::field(field, "contains a NUL character"));
    }
    Ok(())
}

/// A tool, whose members stand behind `prefix`.
pub(crate) fn check_tool(prefix: &str, tool: &NewTool) -> Result<()> {
    let field = |member: &str| format!("{prefix}{member}");
    if tool.connection.base_url.trim().is_empty() {
        return Err(Error::field(field("base_url"), "is required"));
    }
    if tool.connection.port == 0 {
        return Err(Error::field(field("port"), "must be 1 to 65535"));
    }
    bounded(&field("base_url"), &tool.connection.base_url)?;
    bounded(&field("description"), &tool.description)?;
    for text in tool.connection.api_key.iter().flat_map(|k| [&k.location, &k.name, &k.value_prefix]) {
        bounded(&field("authentication"), text)?;
    }
    if let Some(oauth2) = &tool.connection.oauth2 {
        at_most(&field("scopes"), oauth2.scopes.len(), MAX_MEMBERS)?;
        bounded(&field("token_url"), &oauth2.token_url)?;
        oauth2.scopes.iter().try_for_each(|scope| bounded(&field("scopes"), scope))?;
    }
    check_labels(&field("labels"), &tool.labels)?;
    shapes(&field("credentials"), &tool.credentials)?;
    if tool.credentials.is_empty() {
        return Ok(());
    }
    tool_fits(&field("credentials"), &tool.connection, &tool.credentials)
}

/// Credentials of any kind: not too many, not too long.
pub(crate) fn shapes(field: &str, credentials: &BTreeMap<String, Secret>) -> Result<()> {
    at_most(field, credentials.len(), MAX_MEMBERS)?;
    for (key, secret) in credentials {
        bounded(field, key)?;
        bounded(field, secret.expose())?;
    }
    Ok(())
}

/// Credentials that are those of the tool's kind of authentication.
pub(crate) fn tool_fits(field: &str, at: &Connection, credentials: &BTreeMap<String, Secret>) -> Result<()> {
    let wanted = tool_credentials(at.auth_type);
    if credentials.keys().map(String::as_str).eq(wanted.iter().copied()) {
        return Ok(());
    }
    Err(Error::field(
        field,
        match at.auth_type {
            AuthType::None => "a tool whose authentication is None takes none".to_owned(),
            kind => format!("{} takes {}", kind.as_str(), wanted.join(" and ")),
        },
    ))
}

/// Credentials that are those of the protocol of a provider at `endpoint`.
pub(crate) fn provider_fits(
    field: &str,
    (provider, endpoint): (&str, &str),
    credentials: &BTreeMap<String, Secret>,
) -> Result<()> {
    let sets = provider_credentials(provider);
    let fits = |set: &&[&str]| {
        let known = |key: &String| set.iter().any(|k| k.trim_end_matches('?') == key);
        let complete = set.iter().all(|k| k.ends_with('?') || credentials.contains_key(*k));
        complete && credentials.keys().all(known)
    };
    if sets.iter().any(fits) {
        return if provider == "bedrock" { has_region(field, endpoint, credentials) } else { Ok(()) };
    }
    let sets: Vec<String> = sets.iter().map(|set| set.join(", ")).collect();
    Err(Error::field(field, format!("{provider} takes {}", sets.join("; or "))))
}

/// Bedrock is in a region, and access keys sign for one: without it no call could be made.
fn has_region(field: &str, endpoint: &str, credentials: &BTreeMap<String, Secret>) -> Result<()> {
    let wrong = |why: &str| Err(Error::field(format!("{field}.region"), why));
    match credentials.get("region") {
        Some(region) if is_aws_region(region.expose().trim()) => Ok(()),
        Some(_) => wrong("is not the name of an AWS region, such as us-east-1"),
        None if bedrock_region(endpoint).is_some() => Ok(()),
        None if !endpoint.is_empty() && credentials.contains_key("api_key") => Ok(()),
        None => wrong("is required, such as us-east-1, because the endpoint names no AWS region"),
    }
}

/// A model provider.
pub(crate) fn check_provider(provider: &NewModelProvider) -> Result<()> {
    if !MODEL_PROVIDERS.contains(&provider.provider.as_str()) {
        let shown: String = provider.provider.chars().take(64).collect();
        let text = format!("\"{}\" is not one of {}", shown.escape_debug(), MODEL_PROVIDERS.join(", "));
        return Err(Error::field("provider", text));
    }
    bounded("endpoint", &provider.endpoint)?;
    at_most("models", provider.models.len(), MAX_MEMBERS)?;
    for model in &provider.models {
        bounded("models", model)?;
    }
    check_labels("labels", &provider.labels)?;
    shapes("credentials", &provider.credentials)?;
    if provider.credentials.is_empty() {
        return Ok(());
    }
    provider_fits("credentials", (&provider.provider, &provider.endpoint), &provider.credentials)
}

/// An identity provider.
pub(crate) fn check_identity(provider: &IdentityProvider) -> Result<()> {
    for (field, text) in [
        ("spec.host", &provider.host),
        ("spec.identityProvider.issuer", &provider.issuer),
        ("spec.userIDClaim", &provider.user_id_claim),
    ] {
        if text.trim().is_empty() {
            return Err(Error::field(field, "is required"));
        }
        bounded(field, text)?;
    }
    bounded("spec.identityProvider.jwksUri", &provider.jwks_uri)?;
    for (field, texts) in
        [("spec.identityProvider.audiences", &provider.audiences), ("spec.allowedDomains", &provider.allowed_domains)]
    {
        at_most(field, texts.len(), MAX_MEMBERS)?;
        texts.iter().try_for_each(|text| bounded(field, text))?;
    }
    check_labels("labels", &provider.labels)
}

fn check_labels(field: &str, labels: &BTreeMap<String, String>) -> Result<()> {
    at_most(field, labels.len(), MAX_MEMBERS)?;
    labels.iter().flat_map(|(key, value)| [key, value]).try_for_each(|text| bounded(field, text))
}

fn bounded(field: &str, text: &str) -> Result<()> {
    if text.len() > MAX_TEXT {
        return Err(Error::field(field, format!("is longer than {MAX_TEXT} bytes")));
    }
    Ok(())
}

/// Not more than `maximum` members.
pub(crate) fn at_most(field: &str, count: usize, maximum: usize) -> Result<()> {
    if count > maximum {
        return Err(Error::field(field, format!("has {count} members; at most {maximum} are allowed")));
    }
    Ok(())
}
