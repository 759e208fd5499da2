//! A client of the public HTTP API.

use super::{
    Failure, Outcome,
    connection::{Target, is_loopback},
    installation,
};
use bytes::{Buf, Bytes};
use futures_util::{StreamExt, stream::BoxStream};
use hoistway_kit::web::USER_AGENT;
use hoistway_model::Secret;
use reqwest::{Client, Method, RequestBuilder, Response, header, redirect};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};
use url::Url;

/// The timeout of a connection attempt.
const CONNECT: Duration = Duration::from_secs(10);
/// The maximum length of a line of a streamed answer, in bytes; longer lines are split.
const MAX_LINE: usize = 1 << 20;

/// Follows redirects on the same host only: keys and tokens are not sent to another one.
fn same_host(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let host = |url: &Url| url.host().map(|host| host.to_owned());
    match attempt.previous().len() < 5 && attempt.previous().iter().all(|url| host(url) == host(attempt.url())) {
        true => attempt.follow(),
        false => attempt.stop(),
    }
}

/// Returns a client for `base`, connecting to the address `at` if that is known.
fn client_of(base: &Url, at: Option<SocketAddr>) -> Outcome<Client> {
    let mut http =
        Client::builder().user_agent(USER_AGENT).connect_timeout(CONNECT).redirect(redirect::Policy::custom(same_host));
    if is_loopback(base) {
        http = http.no_proxy();
    }
    if let (Some(at), Some(host)) = (at, base.host_str()) {
        http = http.resolve(host, at);
    }
    http.build().map_err(|e| Failure::new(format!("the HTTP client cannot be made: {e}")))
}

/// A client of one Hoistway installation.
#[derive(Debug, Clone)]
pub struct Api {
    http: Client,
    /// The client that connects to the address at which the installation with this key was verified.
    own: Arc<OnceLock<Client>>,
    target: Target,
    user: Option<Secret>,
}

impl Api {
    /// Returns a client; it connects with its first call.
    pub fn new(target: Target) -> Outcome<Self> {
        // The TLS library needs a process-wide cryptography provider; the first one installed is used.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Ok(Self { http: client_of(&target.base, None)?, own: Arc::default(), target, user: None })
    }

    /// Returns the client to send with. The key of this user's installation is sent to no other server: the server is
    /// verified before each call, since the previous one may have ended and its port may be another program's by now.
    async fn client(&self) -> Outcome<&Client> {
        let Some(key) = self.target.key.as_ref().filter(|_| self.target.is_own_key) else { return Ok(&self.http) };
        let client = self.own.get().unwrap_or(&self.http);
        let at = installation::verify(client, &self.target.base, key, |e| self.unreachable(e)).await?;
        match self.own.get() {
            Some(client) => Ok(client),
            // `localhost` has two addresses, and only this one has been verified.
            None => {
                let client = client_of(&self.target.base, Some(at))?;
                Ok(self.own.get_or_init(|| client))
            }
        }
    }

    /// Returns a client that also sends a user's token.
    pub fn for_user(self, token: Option<Secret>) -> Self {
        Self { user: token, ..self }
    }

    /// The URL of a path below the API's base; segments are escaped.
    pub fn url(&self, path: &[&str]) -> Url {
        let mut url = self.target.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    /// `GET`.
    pub async fn get(&self, path: &[&str], query: &[(&str, &str)]) -> Outcome<Value> {
        self.call(Method::GET, path, query, None).await
    }

    /// Reads a whole list that is ordered by name, page by page.
    pub async fn list(&self, path: &[&str]) -> Outcome<Value> {
        let (mut whole, mut after) = (Vec::new(), String::new());
        loop {
            let query: &[(&str, &str)] = if after.is_empty() { &[] } else { &[("after", &after)] };
            let answer = self.send(Method::GET, path, query, None).await?;
            let more = answer.headers().contains_key(header::LINK);
            let Value::Array(part) = self.read(answer).await? else { return Err(self.foreign()) };
            whole.extend(part);
            match whole.last().and_then(|last| last["name"].as_str()) {
                Some(last) if more && last > after.as_str() => after = last.to_owned(),
                _ => return Ok(Value::Array(whole)),
            }
        }
    }

    /// Sends a request and parses the JSON answer; an error answer is a failure.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Outcome<Value> {
        let answer = self.send(method, path, query, body).await?;
        self.read(answer).await
    }

    async fn read(&self, answer: Response) -> Outcome<Value> {
        let bytes = answer.bytes().await.map_err(|e| self.lost(&e))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|_| self.foreign())
    }

    fn foreign(&self) -> Failure {
        Failure::new(format!("{} does not answer as Hoistway does", self.target.base)).remedy("check the endpoint")
    }

    /// Sends a request and passes each line of the answer to `each` as it arrives.
    pub async fn lines(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
        mut each: impl FnMut(&str) -> Outcome<()>,
    ) -> Outcome<()> {
        let mut lines = self.stream(method, path, query, body).await?;
        while let Some(line) = lines.next().await? {
            each(&line)?;
        }
        Ok(())
    }

    /// Sends a request and returns the lines of the answer as they arrive.
    pub async fn stream(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Outcome<Lines> {
        let answer = self.send(method, path, query, body).await?;
        Ok(Lines { api: self.clone(), chunks: answer.bytes_stream().boxed(), chunk: Bytes::new(), line: Vec::new() })
    }

    async fn send(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Outcome<Response> {
        let mut url = self.url(path);
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        let mut request = self.authorised(self.client().await?.request(method, url));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.map_err(|e| match e.is_connect() {
            true => self.unreachable(&e),
            false => self.lost(&e),
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let bytes = answer.bytes().await.map_err(|e| self.lost(&e))?;
        Err(Failure::answered(status.as_u16(), &bytes))
    }

    fn authorised(&self, request: RequestBuilder) -> RequestBuilder {
        let request = match &self.target.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        };
        match &self.user {
            Some(token) => request.header("X-End-User-Token", token.expose()),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let at = &self.target.base;
        let failure = Failure::transient(format!("{at} cannot be reached: {}", root_cause(error)));
        match is_loopback(at) {
            true => failure.remedy("start it with `hoistway up`, or name another one with --endpoint"),
            false => failure.remedy("check the endpoint and the network between"),
        }
    }

    /// Returns the base URL of the API.
    pub const fn base(&self) -> &Url {
        &self.target.base
    }

    fn lost(&self, error: &reqwest::Error) -> Failure {
        Failure::lost(format!("the connection to {} was lost: {}", self.target.base, root_cause(error)))
            .remedy("what the server has begun goes on; ask again to see how it ended")
    }
}

/// The lines of a streamed answer.
pub struct Lines {
    api: Api,
    chunks: BoxStream<'static, reqwest::Result<Bytes>>,
    chunk: Bytes,
    line: Vec<u8>,
}

impl Lines {
    /// Returns the next line, without its end; `None` at the end of the answer.
    pub async fn next(&mut self) -> Outcome<Option<String>> {
        loop {
            while let Some(byte) = self.chunk.first().copied() {
                if byte == b'\n' || self.line.len() >= MAX_LINE {
                    let line = String::from_utf8_lossy(&self.line).trim_end_matches('\r').to_owned();
                    self.line.clear();
                    if byte == b'\n' {
                        self.chunk.advance(1);
                    }
                    return Ok(Some(line));
                }
                self.line.push(byte);
                self.chunk.advance(1);
            }
            match self.chunks.next().await {
                Some(chunk) => self.chunk = chunk.map_err(|e| self.api.lost(&e))?,
                None if self.line.is_empty() => return Ok(None),
                None => {
                    let line = std::mem::take(&mut self.line);
                    return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
                }
            }
        }
    }
}

/// Returns the last error of the chain: the system's message.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}
