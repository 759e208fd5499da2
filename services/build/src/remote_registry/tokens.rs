//! The tokens of a registry's token server that `oci_client` does not ask for: those that an identity token is changed
//! for (the OAuth2 form of the distribution project's token specification), and those for two repositories, without
//! which a registry mounts no blob of one in the other.

use super::{ANSWER_LIMIT, failed};
use hoistway_kit::{registry_logins::Login, web::USER_AGENT};
use hoistway_model::Result;
use http::{
    HeaderValue, StatusCode,
    header::{CONTENT_TYPE, WWW_AUTHENTICATE},
};
use oci_client::{
    Client, Reference, RegistryOperation,
    errors::OciDistributionError as E,
    token_cache::{RegistryToken, RegistryTokenType},
};
use reqwest::{Response, Url, redirect::Policy};
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::Mutex;

/// The name by which token servers know this program.
const CLIENT_ID: &str = "hoistway";
/// The bytes of a token server's answer that are read.
const MAX_ANSWER: usize = 256 << 10;
/// The lifetime of a token whose server does not name it, and the longest that is relied on, because `oci_client` does
/// not keep an opaque token longer.
const LIFETIME: Duration = Duration::from_secs(60);

/// What is done in a repository.
#[derive(Debug, Clone, Copy)]
pub(super) enum Access<'a> {
    /// It is read.
    Pull,
    /// It is read and written to.
    Push {
        /// An image of the same registry whose blobs are mounted in it.
        mounting: Option<&'a Reference>,
    },
}

/// When a token is asked for again; none if it never was.
type Due = Arc<Mutex<Option<Instant>>>;

/// Asks one registry's token server.
#[derive(Clone)]
pub(super) struct Tokens {
    http: reqwest::Client,
    login: Option<Login>,
    /// Whether the registry is asked without TLS.
    is_plain: bool,
    /// When what was asked for is asked for again, by scope. An entry is locked while the server is asked, so that it is
    /// asked once.
    due: Arc<Mutex<HashMap<String, Due>>>,
}

/// Where a registry's tokens are.
struct TokenServer {
    realm: Url,
    service: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl Tokens {
    /// For a registry with a login.
    pub fn new(login: Option<Login>, is_plain: bool) -> reqwest::Result<Self> {
        // A login is sent to no server that its registry does not name.
        let http = reqwest::Client::builder().user_agent(USER_AGENT).timeout(ANSWER_LIMIT).redirect(Policy::none());
        let http = if is_plain { http.no_proxy() } else { http };
        Ok(Self { http: http.build()?, login, is_plain, due: Arc::default() })
    }

    /// Gives `client` the token for what is done next with an image, unless `client` gets it itself.
    pub async fn authorize(&self, client: &Client, image: &Reference, access: Access<'_>) -> Result<()> {
        let is_needed = matches!(self.login, Some(Login::IdentityToken(_)));
        let scopes = match access {
            Access::Pull if is_needed => vec![scope(image, "pull")],
            Access::Push { mounting: Some(source) } => vec![scope(image, "pull,push"), scope(source, "pull")],
            Access::Push { mounting: None } if is_needed => vec![scope(image, "pull,push")],
            _ => return Ok(()),
        };
        let entry = self.entry(scopes.join(" ")).await;
        let mut due = entry.lock().await;
        let now = Instant::now();
        if due.is_some_and(|at| at > now) {
            return Ok(());
        }
        let mut asked = self.ask(image, &scopes).await;
        if is_needed && scopes.len() > 1 && matches!(asked, Err(E::AuthenticationFailure(_))) {
            asked = self.ask(image, &scopes[..1]).await;
        }
        let lifetime = match asked {
            Ok(Some((token, lifetime))) => {
                let token = RegistryTokenType::Bearer(RegistryToken::Token { token });
                client.tokens.insert(image, RegistryOperation::Pull, token.clone()).await;
                if let Access::Push { .. } = access {
                    client.tokens.insert(image, RegistryOperation::Push, token).await;
                }
                lifetime
            }
            // Without the token it was no use to come, so it is asked again.
            Ok(None) if is_needed => return Ok(()),
            Ok(None) => LIFETIME,
            Err(e) if is_needed => return Err(failed(image, &format!("a token for {image}"), e)),
            // Blobs are sent where they cannot be mounted.
            Err(e) => {
                tracing::debug!("no token for mounting in {image}: {e}");
                LIFETIME
            }
        };
        *due = Some(now + lifetime.min(LIFETIME) / 2);
        Ok(())
    }

    /// The entry of a scope, or of one for the same and more whose token there is: a token for less would take its place.
    async fn entry(&self, scope: String) -> Due {
        let (mut due, now) = (self.due.lock().await, Instant::now());
        let is_due = |entry: &Mutex<Option<Instant>>| entry.try_lock().is_ok_and(|at| at.is_none_or(|at| at <= now));
        due.retain(|_, entry| Arc::strong_count(entry) > 1 || !is_due(entry));
        let wider = format!("{scope} ");
        let found = due.iter().find(|(known, entry)| known.starts_with(&wider) && !is_due(entry));
        let found = found.map(|(_, entry)| entry.clone());
        found.unwrap_or_else(|| due.entry(scope).or_default().clone())
    }

    /// A token for scopes, and its lifetime; none where the registry has no token server.
    async fn ask(&self, image: &Reference, scopes: &[String]) -> Result<Option<(String, Duration)>, E> {
        let Some(TokenServer { realm, service }) = self.server(image).await? else { return Ok(None) };
        let service = service.as_deref().map(|service| ("service", service));
        let request = match &self.login {
            Some(Login::IdentityToken(token)) => {
                let (scope, token) = (scopes.join(" "), token.expose());
                let fields = [("grant_type", "refresh_token"), ("client_id", CLIENT_ID), ("refresh_token", token)];
                let mut form = url::form_urlencoded::Serializer::new(String::new());
                let form = form.extend_pairs(fields).extend_pairs(service).append_pair("scope", &scope).finish();
                self.http.post(realm).header(CONTENT_TYPE, "application/x-www-form-urlencoded").body(form)
            }
            login => {
                let mut realm = realm;
                let scopes = scopes.iter().map(|scope| ("scope", scope.as_str()));
                realm.query_pairs_mut().extend_pairs(service).extend_pairs(scopes);
                match login {
                    Some(Login::Password { user, password }) => {
                        self.http.get(realm).basic_auth(user, Some(password.expose()))
                    }
                    _ => self.http.get(realm),
                }
            }
        };
        let answer = request.send().await?;
        match answer.status() {
            status if status.is_success() => {}
            // Its words may repeat what it was sent.
            status @ (StatusCode::BAD_REQUEST | StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                return Err(E::AuthenticationFailure(status.to_string()));
            }
            _ => return Err(server_error(&answer)),
        }
        let bytes = read(answer).await?;
        let unreadable = || E::RegistryTokenDecodeError("it has no token".to_owned());
        let Answer { token, access_token, expires_in } = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
        let token = token.or(access_token).filter(|token| !token.is_empty()).ok_or_else(unreadable)?;
        HeaderValue::from_str(&token).map_err(|_| unreadable())?;
        Ok(Some((token, expires_in.map_or(LIFETIME, Duration::from_secs))))
    }

    /// The token server that a registry names.
    async fn server(&self, image: &Reference) -> Result<Option<TokenServer>, E> {
        let scheme = if self.is_plain { "http" } else { "https" };
        let answer = self.http.get(format!("{scheme}://{}/v2/", image.resolve_registry())).send().await?;
        if answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS {
            return Err(server_error(&answer));
        }
        let challenges = answer.headers().get_all(WWW_AUTHENTICATE).iter();
        let found = challenges.filter_map(|challenge| token_server(challenge.to_str().ok()?)).next();
        match found {
            Some(server) if server.realm.scheme() != "https" && !self.is_plain => {
                Err(E::AuthenticationFailure("its token server has no TLS".to_owned()))
            }
            found => Ok(found),
        }
    }
}

fn server_error(answer: &Response) -> E {
    E::ServerError { code: answer.status().as_u16(), url: answer.url().to_string(), message: String::new() }
}

fn scope(image: &Reference, actions: &str) -> String {
    format!("repository:{}:{actions}", image.repository())
}

fn token_server(challenges: &str) -> Option<TokenServer> {
    let challenges = http_auth::parse_challenges(challenges).ok()?;
    let bearer = challenges.into_iter().find(|challenge| challenge.scheme.eq_ignore_ascii_case("bearer"))?;
    let parameter = |name: &str| {
        let found = bearer.params.iter().find(|(parameter, _)| parameter.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_unescaped())
    };
    let realm: Url = parameter("realm")?.parse().ok()?;
    matches!(realm.scheme(), "http" | "https").then(|| TokenServer { realm, service: parameter("service") })
}

async fn read(mut answer: Response) -> Result<Vec<u8>, E> {
    let mut bytes = Vec::new();
    while let Some(chunk) = answer.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_ANSWER {
            return Err(E::RegistryTokenDecodeError("it is too long".to_owned()));
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_challenge_names_the_token_server() {
        let server = token_server(r#"Basic realm="x", bearer Realm="https://a.example/t?b=c",service="say \"hi\"""#);
        let TokenServer { realm, service } = server.unwrap();
        assert_eq!((realm.as_str(), service.as_deref()), ("https://a.example/t?b=c", Some(r#"say "hi""#)));
        for none in
            [r#"Basic realm="x""#, r#"Bearer service="x""#, r#"Bearer realm="file:///etc/passwd""#, "Bearer", ""]
        {
            assert!(token_server(none).is_none(), "{none}");
        }
    }
}
