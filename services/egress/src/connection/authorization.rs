//! Requests of one connection: who asks, for what, and whether that is allowed.

use crate::{
    call_span,
    calls::call_entry::CallEntry,
    connection::agent_connection::{AgentConnection, Identity},
    connection::intercept,
    connection::tunnel,
    forward::body::{BoxError, Limited, Out, full},
    forward::models,
    forward::recorded_body::{Download, Upload},
    forward::refusal::{Refusal, Shape},
    forward::target::{self, Mode, Wanted},
    forward::{self, Answer, Connections, Destination, Host},
    policy::{AgentPolicy, PolicyError, Route},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use std::{convert::Infallible, sync::Arc};
use tracing::Instrument;

enum Outcome {
    Called(Answer),
    Tunnel,
}

impl AgentConnection {
    /// Answers a request. It never fails: what goes wrong is an answer as well.
    pub(crate) async fn answer(self, request: Request<Incoming>) -> Result<Response<Out>, Infallible> {
        if let Mode::Proxy { .. } = self.mode
            && request.uri().authority().is_none()
            && let Some(answer) = self.probe(request.uri().path())
        {
            return Ok(answer);
        }
        let to_connect = *request.method() == Method::CONNECT;
        let path = if to_connect { "" } else { request.uri().path() };
        let mut entry = CallEntry::new(&self.egress.recorder, request.method(), path);
        let shape = self.error_shape(&request);
        Ok(match self.handle(request, &mut entry).await {
            Ok(Outcome::Tunnel) => {
                entry.discard();
                Response::new(full(Bytes::new()))
            }
            Ok(Outcome::Called(Answer::Switched { response, agent, tool })) => {
                entry.answered(response.status().as_u16());
                tunnel::switch(self.clone(), agent, tool, entry);
                response.map(|()| full(Bytes::new()))
            }
            Ok(Outcome::Called(Answer::Response(response))) => {
                let limits = &self.egress.config.limits;
                download(response.map(|body| Limited::new(body, limits)), entry)
            }
            Ok(Outcome::Called(Answer::Own(response))) => download(response, entry),
            Err(refusal) => {
                let refusal = refusal.shaped(shape);
                let answer = refusal.answer(to_connect);
                entry.refused(&refusal);
                answer
            }
        })
    }

    /// Answers whether the process is there, and whether it knows what agents may do.
    fn probe(&self, path: &str) -> Option<Response<Out>> {
        let is_ready = || self.egress.policies.status().is_complete();
        let (status, text) = match path {
            "/healthz" => (StatusCode::OK, "ok\n"),
            "/readyz" if is_ready() => (StatusCode::OK, "ok\n"),
            "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "it is not known yet what agents may call\n"),
            _ => return None,
        };
        let mut answer = Response::new(full(Bytes::from_static(text.as_bytes())));
        *answer.status_mut() = status;
        Some(answer)
    }

    async fn handle(&self, request: Request<Incoming>, entry: &mut CallEntry) -> Result<Outcome, Refusal> {
        let policy = self.policy(&request).await?;
        entry.by(&policy.agent, policy.revision);
        self.held.by(&self.egress.agents, &policy.agent)?;
        self.egress.agents.request(&policy.agent)?;
        if *request.method() == Method::CONNECT {
            intercept::connect(self, &policy, request, entry).await?;
            return Ok(Outcome::Tunnel);
        }
        let invoke = forward::invoke(&self.egress, &policy, request.headers()).unwrap_or_default();
        let span = call_span::for_lines(&policy.agent, request.headers(), &invoke);
        entry.within(invoke, request.headers());
        self.pass_on(&policy, request, entry).instrument(span).await
    }

    /// Makes the call of an agent that may call.
    async fn pass_on(
        &self,
        policy: &AgentPolicy,
        request: Request<Incoming>,
        entry: &mut CallEntry,
    ) -> Result<Outcome, Refusal> {
        let method = request.method().clone();
        let origin;
        let destination = match target::wanted(&self.mode, &request, self.local, &self.egress.names)? {
            Wanted::Remote { origin: wanted, path_and_query } => {
                origin = wanted;
                entry.to(origin.to_string());
                match policy.route(&origin) {
                    Route::Models if !policy.open_network || models::has_placeholder_key(request.headers()) => {
                        let called = models::call(&self.egress, policy, request, &path_and_query, entry).await;
                        return called.map(Outcome::Called);
                    }
                    Route::OwnKey => Destination { host: Host::OwnKey(&origin), path_and_query },
                    Route::Models | Route::Open => Destination { host: Host::Other(&origin), path_and_query },
                    Route::Tool | Route::Closed => {
                        target::by_origin(&self.egress, policy, &origin, &method, path_and_query).await?
                    }
                }
            }
            Wanted::Own { path_and_query } if models::is_model_path(&path_and_query) => {
                entry.path(path_and_query.split('?').next().unwrap_or_default());
                let called = models::call(&self.egress, policy, request, &path_and_query, entry).await;
                return called.map(Outcome::Called);
            }
            Wanted::Own { path_and_query } => match target::by_name(policy, &method, &path_and_query) {
                Some(allowed) => allowed?,
                None => {
                    let text =
                        "egress has base URLs of tools, /tools/NAME/, and of models, /v1/, and is a proxy otherwise";
                    return Err(Refusal::not_found(text));
                }
            },
        };
        if let Host::Tool(tool) = destination.host {
            entry.tool(&tool.name);
        }
        entry.to(destination.host.origin().to_string());
        entry.path(destination.path_and_query.split('?').next().unwrap_or_default());
        entry.hold(self.egress.agents.call(&policy.agent)?);
        let (progress, limit) = (entry.progress(), self.egress.config.limits.request_size);
        let request = request.map(|body| Upload::new(body, progress, limit));
        forward::call(&self.egress, destination, Connections::Any, request, entry).await.map(Outcome::Called)
    }

    /// Whose errors the client reads that waits for the answer.
    fn error_shape(&self, request: &Request<Incoming>) -> Shape {
        let Some(shape) = models::error_shape(request.uri().path(), request.headers()) else { return Shape::Egress };
        match target::wanted(&self.mode, request, self.local, &self.egress.names) {
            Ok(Wanted::Own { .. }) => shape,
            Ok(Wanted::Remote { origin, .. }) if origin.is_public_model_api() => shape,
            Ok(Wanted::Remote { .. }) | Err(_) => Shape::Egress,
        }
    }

    /// The policy of whoever asks.
    async fn policy(&self, request: &Request<Incoming>) -> Result<Arc<AgentPolicy>, Refusal> {
        let as_proxy = *request.method() == Method::CONNECT || request.uri().authority().is_some();
        let revision = match self.identity {
            Identity::Known(revision) => revision,
            Identity::Rejected => return Err(Refusal::unidentified(false, "identity_unknown")),
            Identity::PerRequest => match token(request.headers()) {
                None => return Err(Refusal::unidentified(as_proxy, "identity_missing")),
                Some(token) => {
                    let known = self.egress.key.verify(&token);
                    known.ok_or_else(|| Refusal::unidentified(as_proxy, "identity_unknown"))?
                }
            },
        };
        self.egress.policies.policy(revision).await.map_err(|e| match e {
            PolicyError::Unknown => Refusal::unidentified(as_proxy, "identity_unknown"),
            PolicyError::Unavailable => Refusal::no_policy(),
        })
    }
}

/// An answer whose body ends the call.
fn download<B>(response: Response<B>, mut entry: CallEntry) -> Response<Out>
where
    B: Body<Data = Bytes, Error = BoxError> + Send + Unpin + 'static,
{
    entry.answered(response.status().as_u16());
    response.map(|body| Download::new(body, entry).boxed_unsync())
}

/// The password of `Proxy-Authorization: Basic`, which must be there once.
fn token(headers: &HeaderMap) -> Option<String> {
    let mut all = headers.get_all(header::PROXY_AUTHORIZATION).iter();
    let value = all.next()?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    if all.next().is_some() || !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    pair.split_once(':').map(|(_, password)| password.to_owned())
}
