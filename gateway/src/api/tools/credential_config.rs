//! The place or the source of a tool's credential, as far as a body specifies it: a request that creates a tool
//! specifies all of it, one that changes a tool may specify a part.

use crate::api::{
    json::Object,
    tool_connection::{http_url, one_of},
};
use hoistway_model::{
    Error, Result,
    error::excerpt,
    limits::{MAX_LABEL, MAX_MEMBERS},
    tool::{ApiKeyLocation, OAuth2},
};
use std::str::FromStr;

/// The place of an API key in requests.
#[derive(Debug)]
pub struct KeyPlace {
    /// The path of the key's name.
    name_path: String,
    location: Option<&'static str>,
    name: Option<String>,
    value_prefix: Option<String>,
}

impl KeyPlace {
    /// Reads an `apiKeyConfig`.
    pub fn read(mut config: Object, warnings: &mut Vec<String>) -> Result<Self> {
        let location = one_of::<Location>(&config.path_of("in"), config.string("in")?.as_deref())?;
        let name = config.text("name")?;
        if name.as_ref().is_some_and(|name| name.len() > MAX_LABEL || name.contains(char::is_control)) {
            return Err(Error::field(config.path_of("name"), "is too long or has control characters"));
        }
        let value_prefix = config.string("valuePrefix")?;
        let fits = |text: &String| text.len() <= MAX_LABEL && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        if !value_prefix.as_ref().is_none_or(fits) {
            return Err(Error::field(config.path_of("valuePrefix"), "must be short, visible ASCII"));
        }
        let name_path = config.path_of("name");
        config.finish(warnings);
        Ok(Self { name_path, location: location.map(|location| location.0), name, value_prefix })
    }

    /// Returns the place, with missing parts taken from `before`, or else the default.
    pub fn over(self, before: Option<ApiKeyLocation>) -> Result<ApiKeyLocation> {
        let (location, name, value_prefix) = match before {
            Some(before) => (before.location, Some(before.name), before.value_prefix),
            None => (Location::DEFAULT.to_owned(), None, String::new()),
        };
        let location = self.location.map_or(location, str::to_owned);
        let Some(name) = self.name.or(name) else { return Err(Error::field(self.name_path, "is required")) };
        if location == Location::DEFAULT && http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(Error::field(self.name_path, format!("\"{}\" is not a header's name", excerpt(&name))));
        }
        Ok(ApiKeyLocation { location, name, value_prefix: self.value_prefix.unwrap_or(value_prefix) })
    }
}

/// `Header` or `Query`.
struct Location(&'static str);

impl Location {
    const DEFAULT: &str = "Header";
}

impl FromStr for Location {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::DEFAULT, "Query"]
            .into_iter()
            .find(|known| known.eq_ignore_ascii_case(text))
            .map(Location)
            .ok_or_else(|| format!("\"{}\" is not one of Header, Query", excerpt(text)))
    }
}

/// The source of an OAuth 2.0 token.
#[derive(Debug)]
pub struct TokenSource {
    /// The path of the token endpoint.
    url_path: String,
    token_url: Option<String>,
    scopes: Option<Vec<String>>,
}

impl TokenSource {
    /// Reads an object's members about it, with the endpoint under `key`; `None` when there are none.
    pub fn read(object: &mut Object, key: &'static str) -> Result<Option<Self>> {
        let url_path = object.path_of(key);
        let token_url = object.text(key)?;
        if let Some(token_url) = &token_url {
            http_url(&url_path, token_url)?;
        }
        let scopes = object.strings("scopes", MAX_MEMBERS)?;
        // RFC 6749, section 3.3.
        let wrong = |scope: &String| {
            let fits = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
            scope.is_empty() || scope.len() > MAX_LABEL || !scope.bytes().all(fits)
        };
        if let Some(i) = scopes.as_ref().and_then(|scopes| scopes.iter().position(wrong)) {
            return Err(Error::field(format!("{}[{i}]", object.path_of("scopes")), "is not a scope"));
        }
        let says_something = token_url.is_some() || scopes.is_some();
        Ok(says_something.then_some(Self { url_path, token_url, scopes }))
    }

    /// Returns the source, with missing parts taken from `before`.
    pub fn over(self, before: Option<OAuth2>) -> Result<OAuth2> {
        let (token_url, scopes) = before.map_or((None, Vec::new()), |before| (Some(before.token_url), before.scopes));
        let Some(token_url) = self.token_url.or(token_url) else {
            return Err(Error::field(self.url_path, "is required"));
        };
        Ok(OAuth2 { token_url, scopes: self.scopes.unwrap_or(scopes) })
    }
}
