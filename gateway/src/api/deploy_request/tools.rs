//! `tools_to_create` and `required_tools`.

use crate::api::{
    json::{self, Object, complaint},
    tool_connection::ConnectionInput,
};
use hoistway_model::{
    Error, Name, Result,
    error::excerpt,
    limits::{MAX_DESCRIPTION, MAX_TOOLS},
    tool::NewTool,
};
use std::collections::BTreeMap;

/// No limit but the size of the body: what counts is checked later, as repetitions are merged and as names and URLs come
/// before all else.
const UNBOUNDED: usize = usize::MAX;

/// A tool of which only the name and the base URL are read yet.
pub struct PartialTool {
    name: String,
    base_url: String,
    rest: Object,
}

/// Reads name and base URL of every tool before any other member.
pub fn begin(root: &mut Object) -> Result<Vec<PartialTool>> {
    let each = |mut rest: Object| {
        let (name, base_url) = (rest.text("name")?, rest.text("base_url")?);
        match (name, base_url) {
            (Some(name), Some(base_url)) => Ok(PartialTool { name, base_url, rest }),
            (name, _) => Err(missing(&rest, if name.is_none() { "name" } else { "base_url" })),
        }
    };
    root.objects("tools_to_create", UNBOUNDED)?.unwrap_or_default().into_iter().map(each).collect()
}

/// Returns the reference's error, with the path in the details.
fn missing(tool: &Object, key: &str) -> Error {
    let path = tool.path_of(key);
    let details = [format!("{path} is missing")];
    complaint(&path, "tool name and base_url are required").with_details(details)
}

/// Checks the other members of every tool.
pub fn finish(begun: Vec<PartialTool>, warnings: &mut Vec<String>) -> Result<Vec<NewTool>> {
    if begun.len() > MAX_TOOLS {
        return Err(json::too_many("tools_to_create", begun.len(), MAX_TOOLS));
    }
    let mut tools: Vec<NewTool> = Vec::with_capacity(begun.len());
    for PartialTool { name, base_url, mut rest } in begun {
        let path = rest.path_of("name");
        let name = json::name(&path, &name)?;
        if tools.iter().any(|other| other.name == name) {
            return Err(Error::field(path, format!("\"{name}\" is given twice")));
        }
        let text = rest.string("description")?.unwrap_or_default();
        description(&rest.path_of("description"), &text)?;
        let given = ConnectionInput {
            base_url: (rest.path_of("base_url"), base_url),
            auth_type: (rest.path_of("auth_type"), rest.string("auth_type")?),
            port: (rest.path_of("port"), rest.integer("port")?),
            scheme: (rest.path_of("scheme"), rest.string("scheme")?),
        };
        let connection = given.check()?;
        rest.finish(warnings);
        let (labels, credentials) = (BTreeMap::new(), BTreeMap::new());
        tools.push(NewTool { name, description: text, connection, labels, credentials });
    }
    Ok(tools)
}

/// Checks a tool's description.
pub fn description(path: &str, text: &str) -> Result<()> {
    if text.len() > MAX_DESCRIPTION {
        let message = format!("{} bytes are too many, {MAX_DESCRIPTION} is the limit", text.len());
        return Err(Error::field(path, message));
    }
    if text.contains('\0') {
        return Err(Error::field(path, "contains a NUL character"));
    }
    Ok(())
}

/// Returns the required tools without repetitions, each with the path of its first occurrence.
pub fn required(root: &mut Object) -> Result<Vec<(String, Name)>> {
    let mut merged: Vec<(String, Name)> = Vec::new();
    for (i, text) in root.strings("required_tools", UNBOUNDED)?.unwrap_or_default().into_iter().enumerate() {
        let path = format!("required_tools[{i}]");
        let name = json::name(&path, &text)?;
        if merged.iter().any(|(_, other)| *other == name) {
            continue;
        }
        if merged.len() == MAX_TOOLS {
            return Err(Error::field("required_tools", format!("more than {MAX_TOOLS} tools are too many")));
        }
        merged.push((path, name));
    }
    Ok(merged)
}

/// Returns warnings about tools that are registered and not bound.
pub fn unbound(create: &[NewTool], required: &[Name]) -> impl Iterator<Item = String> {
    let unused = create.iter().filter(|tool| !required.contains(&tool.name));
    unused.map(|tool| {
        format!(
            "the tool \"{}\" is registered, but the agent cannot use it: required_tools does not name it",
            excerpt(tool.name.as_str())
        )
    })
}
