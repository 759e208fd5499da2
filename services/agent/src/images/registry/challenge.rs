//! The header with which a registry states where its tokens are:
//! `WWW-Authenticate: Bearer realm="…",service="…",scope="…"`.

use super::http::is_this_machine;
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, HeaderValue, header::WWW_AUTHENTICATE};
use reqwest::Url;
use serde::Deserialize;

/// Where a token is, if a registry gives any to whoever asks: its realm, with what it is for.
pub(super) fn token_url(headers: &HeaderMap, registry: &Url, repository: &str) -> Option<Url> {
    let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    let parameters = challenges.filter_map(|challenge| {
        let (scheme, rest) = challenge.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| parameters(rest))
    });
    let parameters = parameters.into_iter().next()?;
    let get = |name: &str| parameters.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
    let mut url: Url = get("realm")?.parse().ok()?;
    // Whoever could change a token on its way could have the image changed too.
    let both_are_here = is_this_machine(&url) && is_this_machine(registry);
    let is_as_plain = both_are_here || url.host_str() == registry.host_str();
    let plain = url.scheme() == "http" && registry.scheme() == "http" && is_as_plain;
    if url.scheme() != "https" && !plain {
        return None;
    }
    let pull = format!("repository:{repository}:pull");
    let scope = get("scope").unwrap_or(&pull);
    url.query_pairs_mut().extend_pairs(get("service").map(|service| ("service", service))).append_pair("scope", scope);
    Some(url)
}

/// Whether a registry takes a user and a password itself.
pub(super) fn wants_password(headers: &HeaderMap) -> bool {
    let mut challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    challenges.any(|challenge| challenge.split(' ').next().is_some_and(|scheme| scheme.eq_ignore_ascii_case("basic")))
}

/// A user and a password, as they are shown.
pub(super) fn basic(user: &str, password: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads `name=value, name="value"`.
fn parameters(mut text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    while let Some((name, rest)) = text.split_once('=') {
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => {
                let (mut value, mut left, mut escaped) = (String::new(), "", false);
                for (at, c) in quoted.char_indices() {
                    match c {
                        '"' if !escaped => {
                            left = &quoted[at + 1..];
                            break;
                        }
                        '\\' if !escaped => escaped = true,
                        c => {
                            value.push(c);
                            escaped = false;
                        }
                    }
                }
                (value, left)
            }
            None => {
                let (value, left) = rest.split_once(',').unwrap_or((rest, ""));
                (value.trim().to_owned(), left)
            }
        };
        found.push((name.trim_matches([',', ' ', '\t']).to_owned(), value));
        text = rest;
    }
    found
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The token in a token server's answer, as it is shown.
pub(super) fn shown(answer: &[u8]) -> Option<HeaderValue> {
    let Token { token, access_token } = serde_json::from_slice(answer).ok()?;
    let token = token.or(access_token).filter(|token| !token.is_empty())?;
    bearer(&token)
}

/// A token, as it is shown.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_challenge_names_the_token_server() {
        let (tls, plain) = ("https://r.example/v2/", "http://127.0.0.1:5000/v2/");
        for (challenge, registry, expected) in [
            (
                r#"Bearer realm="https://a.example/token",service="r.example",scope="repository:x/y:pull,push""#,
                tls,
                Some("https://a.example/token?service=r.example&scope=repository%3Ax%2Fy%3Apull%2Cpush"),
            ),
            (
                r#"bearer Realm="https://a.example/t?a=b", service="say \"hi\"""#,
                tls,
                Some("https://a.example/t?a=b&service=say+%22hi%22&scope=repository%3Ateam%2Fagent%3Apull"),
            ),
            (
                "Bearer service=s, realm=http://127.0.0.1:9/t",
                plain,
                Some("http://127.0.0.1:9/t?service=s&scope=repository%3Ateam%2Fagent%3Apull"),
            ),
            // A registry of others has no token server on this machine, and nobody has one without TLS.
            (r#"Bearer realm="http://127.0.0.1:9/t""#, tls, None),
            (r#"Bearer realm="http://a.example/t""#, plain, None),
            // One that is asked without TLS has its token server beside it, and none on this machine.
            (
                r#"Bearer realm="http://10.0.0.5:9/t""#,
                "http://10.0.0.5:5000/v2/",
                Some("http://10.0.0.5:9/t?scope=repository%3Ateam%2Fagent%3Apull"),
            ),
            (r#"Bearer realm="http://127.0.0.1:9/t""#, "http://10.0.0.5:5000/v2/", None),
            (r#"Bearer realm="file:///etc/passwd""#, plain, None),
            (r#"Basic realm="https://a.example/t""#, tls, None),
            ("Bearer", tls, None),
            (r#"Bearer realm="#, tls, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
            let url = token_url(&headers, &registry.parse().unwrap(), "team/agent");
            assert_eq!(url.as_ref().map(Url::as_str), expected, "{challenge}");
        }
    }

    #[test]
    fn tokens_are_read_by_both_names() {
        for (answer, expected) in [
            (r#"{"token": "a", "expires_in": 60}"#, Some("Bearer a")),
            (r#"{"access_token": "b"}"#, Some("Bearer b")),
            (r#"{"token": "a\nb"}"#, None),
            (r#"{"token": ""}"#, None),
            ("[]", None),
        ] {
            assert_eq!(shown(answer.as_bytes()).as_ref().map(|v| v.to_str().unwrap()), expected, "{answer}");
        }
    }
}
