//! Parses the body. The request that comes out is right in itself; only the names in it remain to be looked up.

use super::tools;
use crate::{
    api::{
        config_fields,
        json::{self, Object, complaint, has_value},
    },
    deploy::request::{DeployRequest, Paths, Source},
    image_host::PublicRegistry,
};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use hoistway_model::{
    Code, Error, Result,
    build::BuildSource,
    error::excerpt,
    image::ImageRef,
    source::{self, encoding},
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Members of a newer public API that would change what the deploy means.
pub(super) const NOT_SUPPORTED: [(&str, &str); 4] = [
    ("policies", "name the tools that the agent may call in required_tools"),
    ("tool_url_mappings", "give tools their addresses as base_url, in tools_to_create or with PUT /api/tools/NAME"),
    ("draft_id", "send the files as source_files"),
    ("artifact_id", "send the files as source_files, or push an image and name it as image"),
];
/// The longest image reference.
const MAX_IMAGE: usize = 1_024;

/// Parses a request's body and returns it with the warnings for its sender.
///
/// Missing members are reported first, in the reference's order: the name, the source, the tools' names and URLs. Types
/// and meanings follow.
pub fn parse(body: &[u8], public: &PublicRegistry) -> Result<(DeployRequest, Vec<String>)> {
    let mut warnings = Vec::new();
    let mut root = Object::parse(body)?;

    let agent = root.text("agent_name")?.ok_or_else(|| complaint("agent_name", "agent_name is required"))?;
    let image = root.text("image")?;
    let files = root.object("source_files")?.filter(|files| !files.is_empty());
    if image.is_none() && files.is_none() {
        return Err(no_source(&mut root));
    }
    let begun = tools::begin(&mut root)?;

    let agent = json::name("agent_name", &agent)?;
    for (key, instead) in NOT_SUPPORTED {
        if root.take(key).is_some_and(|value| has_value(&value)) {
            return Err(complaint(key, format!("{key} is not supported")).with_details([instead.to_owned()]));
        }
    }
    let tools_to_create = tools::finish(begun, &mut warnings)?;
    let required = tools::required(&mut root)?;
    // It is about the source, which an image has left behind.
    let framework_ignored = image.is_some() && root.text("framework")?.is_some();
    let (config, llm_paths) = config_fields::of_deploy(&mut root, &mut warnings)?;
    let build = Build { files, entry_point: root.text("entry_point")?, requirements: root.text("requirements")? };
    let source = match image {
        Some(image) => {
            build.warn_ignored(framework_ignored, &mut warnings);
            Source::Image(public.to_symbolic(image_ref(&image)?))
        }
        None => build.parse(&mut warnings)?,
    };
    root.finish(&mut warnings);

    let (tool_paths, required_tools): (Vec<_>, Vec<_>) = required.into_iter().unzip();
    warnings.extend(tools::unbound(&tools_to_create, &required_tools));
    let request = DeployRequest {
        agent,
        source,
        config,
        required_tools,
        tools_to_create,
        refresh: false,
        paths: Paths::new(tool_paths, llm_paths),
    };
    Ok((request, warnings))
}

/// The members that only a build needs.
struct Build {
    files: Option<Object>,
    entry_point: Option<String>,
    requirements: Option<String>,
}

impl Build {
    fn parse(self, warnings: &mut Vec<String>) -> Result<Source> {
        let mut files = BTreeMap::new();
        for (name, value) in self.files.map(Object::into_values).unwrap_or_default() {
            if name.len() > source::MAX_PATH {
                let path = format!("source_files[\"{}\"]", excerpt(&name));
                let message = format!("the name has {} bytes, {} is the limit", name.len(), source::MAX_PATH);
                return Err(Error::field(path, message));
            }
            let content = content(&name, value)
                .map_err(|fault| Error::field(format!("source_files[\"{}\"]", excerpt(&name)), fault))?;
            files.insert(name, content);
        }
        if self.entry_point.as_ref().is_some_and(|name| name.len() > source::MAX_PATH) {
            return Err(Error::field("entry_point", "is too long for a file's name"));
        }
        let (entry_point, requirements) = (self.entry_point.as_deref(), self.requirements.as_deref());
        Ok(Source::Files(BuildSource::parse_with_warnings(files, entry_point, requirements, warnings)?))
    }

    fn warn_ignored(&self, framework: bool, warnings: &mut Vec<String>) {
        let ignored = [
            ("source_files", self.files.is_some()),
            ("entry_point", self.entry_point.is_some()),
            ("requirements", self.requirements.is_some()),
            ("framework", framework),
        ];
        for (key, _) in ignored.into_iter().filter(|(_, given)| *given) {
            warnings.push(format!("{key} is ignored, because an image is given and nothing is built"));
        }
    }
}

/// One member of `source_files`: text, or `{"base64": "…"}`.
fn content(name: &str, value: Value) -> Result<Vec<u8>, String> {
    const FORMS: &str = "must be a string, or {\"base64\": \"…\"} for a binary file";
    let Value::Object(mut members) = value else {
        return match value {
            Value::String(text) if name.ends_with(".py") => Ok(encoding::python_from_text(text)),
            Value::String(text) => Ok(text.into_bytes()),
            other => Err(format!("{FORMS}, not {}", json::kind(&other))),
        };
    };
    match (members.remove("base64"), members.keys().next()) {
        (Some(Value::String(mut text)), None) => {
            // Programs wrap long lines.
            text.retain(|c| !c.is_ascii_whitespace());
            BASE64.decode(&text).map_err(|e| format!("is not base64: {}", e.to_string().to_lowercase()))
        }
        (Some(Value::String(_)), Some(other)) => Err(format!("has an unknown member \"{}\"", excerpt(other))),
        _ => Err(FORMS.to_owned()),
    }
}

fn image_ref(text: &str) -> Result<ImageRef> {
    if text.len() > MAX_IMAGE {
        return Err(Error::field("image", format!("is longer than {MAX_IMAGE} bytes")));
    }
    text.parse()
}

/// Neither source is given. Those of a newer public API, which may have been meant, are told in the details.
fn no_source(root: &mut Object) -> Error {
    let others = ["draft_id", "artifact_id"].into_iter();
    let given: Vec<_> = others.filter(|key| root.take(key).is_some_and(|value| has_value(&value))).collect();
    Error::new(Code::InvalidArgument, "either image or source_files is required")
        .with_details(given.into_iter().map(|key| format!("{key} is not supported")))
}
