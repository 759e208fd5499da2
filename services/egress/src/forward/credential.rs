//! Putting a tool's credential into a request, in the place of whatever the agent sent there.

use crate::{
    forward::headers::remove_all_spellings,
    forward::refusal::Refusal,
    policy::{Credential, KeyPlace, ToolPolicy},
};
use hoistway_model::Secret;
use http::{HeaderMap, HeaderValue, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use std::fmt::Write;

/// Characters that stay as they are in a query's value (RFC 3986, unreserved).
const VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Puts the credential into `headers` or into the query of `path_and_query`. `token` is what OAuth2 has given.
pub(crate) fn apply(
    tool: &ToolPolicy,
    token: Option<&Secret>,
    headers: &mut HeaderMap,
    path_and_query: &mut String,
) -> Result<(), Refusal> {
    match (&tool.credential, token) {
        (Credential::None, _) => Ok(()),
        (Credential::ApiKey { place: KeyPlace::Header(name), prefix, value }, _) => {
            let value = secret_value(tool, &[prefix, value.expose()])?;
            remove_all_spellings(headers, name);
            headers.insert(name, value);
            Ok(())
        }
        (Credential::ApiKey { place: KeyPlace::Query(name), prefix, value }, _) => {
            *path_and_query = with_parameter(path_and_query, name, &[prefix, value.expose()]);
            Ok(())
        }
        (Credential::OAuth2(_), Some(token)) => {
            let value = secret_value(tool, &["Bearer ", token.expose()])?;
            remove_all_spellings(headers, &header::AUTHORIZATION);
            headers.insert(header::AUTHORIZATION, value);
            Ok(())
        }
        (Credential::OAuth2(_), None) => Err(unusable(tool)),
        (Credential::Unavailable(why), _) => {
            let text = format!("the tool \"{}\" {why}", tool.name);
            Err(Refusal::bad_gateway("credential_missing", text))
        }
    }
}

fn secret_value(tool: &ToolPolicy, parts: &[&str]) -> Result<HeaderValue, Refusal> {
    let mut value = HeaderValue::try_from(parts.concat()).map_err(|_| unusable(tool))?;
    value.set_sensitive(true);
    Ok(value)
}

fn unusable(tool: &ToolPolicy) -> Refusal {
    let text = format!("the credential of the tool \"{}\" cannot be sent: set it again", tool.name);
    Refusal::bad_gateway("credential_unusable", text)
}

/// The same with the parameter `name` once, at the end.
fn with_parameter(path_and_query: &str, name: &str, value: &[&str]) -> String {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    let is_other = |pair: &&str| {
        let key = pair.split('=').next().unwrap_or_default().replace('+', " ");
        !pair.is_empty() && percent_decode_str(&key).decode_utf8_lossy() != name
    };
    // Some servers take a semicolon for an ampersand.
    let hides = |pair: &&str| pair.split(';').skip(1).any(|part| !is_other(&part));
    let mut out = format!("{path}?");
    for pair in query.split('&').filter(is_other).filter(|pair| !hides(pair)) {
        out.push_str(pair);
        out.push('&');
    }
    // Writing to a string does not fail.
    let _ = write!(out, "{}={}", utf8_percent_encode(name, VALUE), utf8_percent_encode(&value.concat(), VALUE));
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_parameter_stands_once_and_is_ours() {
        let with = |text: &str| with_parameter(text, "api key", &["", "s&e c"]);
        assert_eq!(with("/a"), "/a?api%20key=s%26e%20c");
        assert_eq!(with("/a?x=1&api+key=mine&y"), "/a?x=1&y&api%20key=s%26e%20c");
        assert_eq!(with("/a?api%20key&%61pi%20key=z&&x=1;api%20key=3"), "/a?api%20key=s%26e%20c");
        assert_eq!(with("/a?x=1;y=2"), "/a?x=1;y=2&api%20key=s%26e%20c");
    }

    #[test]
    fn a_header_that_the_agent_sent_is_replaced() {
        let mut tool = ToolPolicy::new(hoistway_model::Name::parse("n", "t").unwrap(), "https://a.example").unwrap();
        let place = KeyPlace::Header(http::HeaderName::from_static("x-api-key"));
        tool.credential = Credential::ApiKey { place, prefix: "Key ".into(), value: Secret::new("s3cret") };
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-api-key", "a"), ("x-api-key", "b"), ("x_api_key", "c"), ("accept", "d")] {
            headers.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
        }
        let mut path = "/x".to_owned();
        apply(&tool, None, &mut headers, &mut path).unwrap();
        assert_eq!(
            (headers.len(), &headers["x-api-key"], path.as_str()),
            (2, &HeaderValue::from_static("Key s3cret"), "/x")
        );
        assert!(!format!("{headers:?} {tool:?}").contains("s3cret"));
        let value = Secret::new("two\nlines");
        tool.credential = Credential::ApiKey { place: KeyPlace::Header(header::HOST), prefix: String::new(), value };
        let refusal = apply(&tool, None, &mut headers, &mut path).unwrap_err();
        assert!(refusal.word == "credential_unusable" && !format!("{refusal:?}").contains("lines"));
    }
}
