//! The bodies of tools: the flat form of public clients and the nested one, which is recognised by its `spec`.

#[cfg(test)]
mod tests;

use super::credential_config::{KeyPlace, TokenSource};
use crate::api::{
    deploy_request::tools::description,
    json::{self, Object, complaint, has_value},
    tool_connection::ConnectionInput,
};
use hoistway_model::{
    Error, Name, Result, Secret,
    error::excerpt,
    limits::{MAX_LABEL, MAX_MEMBERS},
    tool::{AuthType, Connection, NewTool, Tool, tool_credentials},
};
use std::collections::BTreeMap;

/// The longest credential, in bytes.
const MAX_CREDENTIAL: usize = 64 << 10;

/// The members of a body about a tool, each optional.
#[derive(Debug)]
pub struct ToolBody {
    name: Option<String>,
    description: Option<String>,
    base_url: (String, Option<String>),
    port: (String, Option<i64>),
    scheme: (String, Option<String>),
    auth_type: (String, Option<String>),
    api_key: (String, Option<KeyPlace>),
    oauth2: (String, Option<TokenSource>),
    labels: Option<BTreeMap<String, String>>,
    credentials: Option<Object>,
    warnings: Vec<String>,
}

impl ToolBody {
    /// Reads a body of either form.
    pub fn read(body: &[u8]) -> Result<Self> {
        let mut root = Object::parse(body)?;
        let spec = root.object("spec")?;
        let mut read = match spec {
            Some(spec) => Self::nested(spec)?,
            None => Self::flat(&mut root)?,
        };
        read.name = root.text("name")?;
        read.description = match read.description.filter(|text| !text.is_empty()) {
            Some(inner) => Some(inner),
            None => root.string("description")?,
        };
        if let Some(text) = &read.description {
            description("description", text)?;
        }
        read.labels = labels_if_given(&mut root)?;
        read.credentials = root.object("credentials")?.filter(|given| !given.is_empty());
        pass_over_answered(&mut root);
        root.finish(&mut read.warnings);
        Ok(read)
    }

    fn flat(root: &mut Object) -> Result<Self> {
        open_to_all(root, "access_mode")?;
        let oauth2 = TokenSource::read(root, "token_url")?;
        Ok(Self {
            name: None,
            description: root.string("description")?,
            base_url: ("base_url".into(), root.text("base_url")?),
            port: ("port".into(), root.integer("port")?),
            scheme: ("scheme".into(), root.string("scheme")?),
            auth_type: ("auth_type".into(), root.string("auth_type")?),
            api_key: (String::new(), None),
            oauth2: ("token_url".into(), oauth2),
            labels: None,
            credentials: None,
            warnings: Vec::new(),
        })
    }

    fn nested(mut spec: Object) -> Result<Self> {
        let mut warnings = Vec::new();
        let description = spec.string("description")?;
        open_to_all(&mut spec, "accessMode")?;
        spec.take("topology");
        let Some(mut at) = spec.object("connection")? else {
            let path = spec.path_of("connection.baseUrl");
            spec.finish(&mut warnings);
            return Ok(Self { description, warnings, ..Self::empty(&path) });
        };
        let base_url = (at.path_of("baseUrl"), at.text("baseUrl")?);
        let mut auth_type = (at.path_of("authentication.type"), None);
        let mut api_key = (at.path_of("authentication.apiKeyConfig"), None);
        let mut tokens = (at.path_of("authentication.oauth2Config"), None);
        if let Some(mut authentication) = at.object("authentication")? {
            auth_type.1 = authentication.string("type")?;
            if let Some(config) = authentication.object("apiKeyConfig")? {
                api_key.1 = Some(KeyPlace::read(config, &mut warnings)?);
            }
            if let Some(mut config) = authentication.object("oauth2Config")? {
                tokens.1 = TokenSource::read(&mut config, "tokenUrl")?;
                config.finish(&mut warnings);
            }
            authentication.finish(&mut warnings);
        }
        let port = (at.path_of("port"), at.integer("port")?);
        let scheme = (at.path_of("scheme"), at.string("scheme")?);
        at.finish(&mut warnings);
        spec.finish(&mut warnings);
        let (name, labels, credentials) = (None, None, None);
        let oauth2 = tokens;
        Ok(Self {
            name,
            description,
            base_url,
            port,
            scheme,
            auth_type,
            api_key,
            oauth2,
            labels,
            credentials,
            warnings,
        })
    }

    fn empty(base_url: &str) -> Self {
        Self {
            name: None,
            description: None,
            base_url: (base_url.to_owned(), None),
            port: Default::default(),
            scheme: Default::default(),
            auth_type: Default::default(),
            api_key: Default::default(),
            oauth2: Default::default(),
            labels: None,
            credentials: None,
            warnings: Vec::new(),
        }
    }

    /// Returns a complete tool with the name in the body.
    pub fn named(self) -> Result<(NewTool, Vec<String>)> {
        let name = self.name.clone().ok_or_else(|| missing("name"))?;
        // Missing members are reported before wrong ones.
        if self.base_url.1.is_none() {
            return Err(missing(&self.base_url.0));
        }
        self.whole(json::name("name", &name)?)
    }

    /// Returns the complete tool `name`, which is in the path.
    pub fn replacing(self, name: &Name) -> Result<(NewTool, Vec<String>)> {
        self.is_named(name)?;
        self.whole(name.clone())
    }

    fn whole(self, name: Name) -> Result<(NewTool, Vec<String>)> {
        let Some(base_url) = self.base_url.1 else { return Err(missing(&self.base_url.0)) };
        let given = ConnectionInput {
            base_url: (self.base_url.0, base_url),
            port: self.port,
            scheme: self.scheme,
            auth_type: self.auth_type,
        };
        let connection = authenticated(given.check()?, self.api_key, self.oauth2, None)?;
        let mut warnings = self.warnings;
        let credentials = tool_secrets(self.credentials, connection.auth_type, &mut warnings)?;
        let (description, labels) = (self.description.unwrap_or_default(), self.labels.unwrap_or_default());
        Ok((NewTool { name, description, connection, labels, credentials }, warnings))
    }

    /// Returns `tool` with the members of the body replaced.
    pub fn merged(self, tool: &Tool) -> Result<(NewTool, Vec<String>)> {
        self.is_named(&tool.name)?;
        let at = &tool.connection;
        let moved = self.base_url.1.is_some();
        let port = self.port.1.or_else(|| (!moved).then_some(at.port.into()));
        let auth_type = self.auth_type.1.or_else(|| Some(at.auth_type.as_str().to_owned()));
        let given = ConnectionInput {
            base_url: (self.base_url.0, self.base_url.1.unwrap_or_else(|| at.base_url.clone())),
            port: (self.port.0, port),
            scheme: self.scheme,
            auth_type: (self.auth_type.0, auth_type),
        };
        let checked = given.check()?;
        let before = (checked.auth_type == at.auth_type).then_some(at);
        let connection = authenticated(checked, self.api_key, self.oauth2, before)?;
        let mut warnings = self.warnings;
        let credentials = tool_secrets(self.credentials, connection.auth_type, &mut warnings)?;
        let new = NewTool {
            name: tool.name.clone(),
            description: self.description.unwrap_or_else(|| tool.description.clone()),
            connection,
            labels: self.labels.unwrap_or_else(|| tool.labels.clone()),
            credentials,
        };
        Ok((new, warnings))
    }

    fn is_named(&self, name: &Name) -> Result<()> {
        named_as_in_path(self.name.as_deref(), name)
    }
}

/// Checks that a name in the body equals that in the path.
fn named_as_in_path(given: Option<&str>, name: &Name) -> Result<()> {
    match given {
        Some(given) if given != name.as_str() => {
            let text =
                format!("\"{}\" is not \"{name}\", which the path names; names cannot be changed", excerpt(given));
            Err(Error::field("name", text))
        }
        _ => Ok(()),
    }
}

/// Returns the resource's name: the path's, else the body's own.
pub fn named(root: &mut Object, path: Option<Name>) -> Result<Name> {
    let Some(name) = path else { return json::name("name", &root.required("name")?) };
    named_as_in_path(root.text("name")?.as_deref(), &name)?;
    Ok(name)
}

/// Drops the read-only members of an answer, so that an answer can be sent back with changes.
pub fn pass_over_answered(object: &mut Object) {
    for key in ["namespace", "status", "created_at", "updated_at", "warnings"] {
        object.take(key);
    }
}

/// Returns the reference's error, with the path in the details.
fn missing(path: &str) -> Error {
    complaint(path, "tool name and base_url are required").with_details([format!("{path} is missing")])
}

/// Refuses access restrictions: accepting them without enforcement would be worse.
fn open_to_all(object: &mut Object, mode: &'static str) -> Result<()> {
    if let Some(text) = object.text(mode)?
        && !text.trim().eq_ignore_ascii_case("open")
    {
        let text =
            format!("\"{}\" is not supported: every agent that requires a tool may use it (Open)", excerpt(&text));
        return Err(Error::field(object.path_of(mode), text));
    }
    if object.take("capabilities").is_some_and(|value| has_value(&value)) {
        let text = "is not supported: an agent that requires a tool may use all of it";
        return Err(Error::field(object.path_of("capabilities"), text));
    }
    Ok(())
}

/// Returns a connection with the place or the source of its credential: from the body, else from `before`.
fn authenticated(
    mut connection: Connection,
    (key_path, api_key): (String, Option<KeyPlace>),
    (token_path, oauth2): (String, Option<TokenSource>),
    before: Option<&Connection>,
) -> Result<Connection> {
    let only_for = |path: String, kind: AuthType| {
        Err(Error::field(path, format!("is only for the authentication {}", kind.as_str())))
    };
    if api_key.is_some() && connection.auth_type != AuthType::ApiKey {
        return only_for(key_path, AuthType::ApiKey);
    }
    if oauth2.is_some() && connection.auth_type != AuthType::OAuth2 {
        return only_for(token_path, AuthType::OAuth2);
    }
    let (key_before, oauth2_before) = before.map(|at| (at.api_key.clone(), at.oauth2.clone())).unwrap_or_default();
    connection.api_key = match api_key {
        Some(given) => Some(given.over(key_before)?),
        None => key_before,
    };
    connection.oauth2 = match oauth2 {
        Some(given) => Some(given.over(oauth2_before)?),
        None => oauth2_before,
    };
    Ok(connection)
}

/// Returns the labels of a request, which may be absent.
pub fn labels(root: &mut Object) -> Result<BTreeMap<String, String>> {
    Ok(labels_if_given(root)?.unwrap_or_default())
}

fn labels_if_given(root: &mut Object) -> Result<Option<BTreeMap<String, String>>> {
    let Some(labels) = root.object("labels")?.map(Object::into_strings).transpose()? else { return Ok(None) };
    if labels.len() > MAX_MEMBERS {
        let message = format!("{} members are too many, {MAX_MEMBERS} is the limit", labels.len());
        return Err(Error::field("labels", message));
    }
    match labels.iter().find(|(key, value)| key.len() > MAX_LABEL || value.len() > MAX_LABEL) {
        Some((key, _)) => {
            let message = format!("the label \"{}\" has more than {MAX_LABEL} bytes", excerpt(key));
            Err(Error::field("labels", message))
        }
        None => Ok(Some(labels.into_iter().collect())),
    }
}

/// Returns the credential fields for a tool's kind of credential; empty when none are given.
fn tool_secrets(given: Option<Object>, kind: AuthType, warnings: &mut Vec<String>) -> Result<BTreeMap<String, Secret>> {
    match given {
        None => Ok(BTreeMap::new()),
        Some(_) if kind == AuthType::None => {
            Err(Error::field("credentials", "a tool whose authentication is None takes none"))
        }
        Some(given) => secrets(given, tool_credentials(kind), warnings),
    }
}

/// Returns the members of `given` listed in `keys`; those that end in `?` may be absent. No error contains any of their
/// values.
pub fn secrets(
    mut given: Object,
    keys: &[&'static str],
    warnings: &mut Vec<String>,
) -> Result<BTreeMap<String, Secret>> {
    let mut credentials = BTreeMap::new();
    for key in keys {
        let value = match key.strip_suffix('?') {
            Some(key) => given.text(key)?.map(|value| (key, value)),
            None => Some((*key, given.required(key)?)),
        };
        let Some((key, value)) = value else { continue };
        if value.len() > MAX_CREDENTIAL || value.contains(char::is_control) {
            return Err(Error::field(given.path_of(key), "is too long or has control characters"));
        }
        credentials.insert(key.to_owned(), Secret::new(value));
    }
    given.finish(warnings);
    Ok(credentials)
}

/// Reads the body of `PUT …/credentials` for a tool of this kind.
pub fn only_credentials(body: &[u8], kind: AuthType) -> Result<(BTreeMap<String, Secret>, Vec<String>)> {
    let mut warnings = Vec::new();
    let given = credentials_object(body)?;
    let credentials = tool_secrets(Some(given), kind, &mut warnings)?;
    Ok((credentials, warnings))
}

/// Returns the credentials in a body, either the body itself or its member `credentials`.
pub fn credentials_object(body: &[u8]) -> Result<Object> {
    let mut root = Object::parse(body)?;
    Ok(root.object("credentials")?.unwrap_or(root))
}
