//! Whether a model provider works: what models it says it has, asked with its key. No model is run, so that a check
//! costs nothing.

use super::{Sent, Subject, unusable};
use crate::{
    Egress,
    forward::models,
    policy::{AwsKey, ModelBackend, ModelKey, ModelServer, ModelUnavailableReason, Protocol, RegisteredModels},
};
use bytes::Bytes;
use hoistway_model::egress::{Check, CheckKind, CheckStep};
use http::{HeaderMap, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use std::collections::BTreeSet;
use tokio::time::timeout_at;

/// The longest list of models that is read, in bytes.
const MAX_LIST: usize = 4 << 20;
/// Models that are requested by name, since a list may leave some out.
const MAX_ASKED: usize = 16;

/// Checks a model provider. The key's text is in no result.
pub(crate) async fn check(egress: &Egress, provider: &RegisteredModels) -> Check {
    match &provider.backend {
        ModelBackend::Server(server) => check_server(egress, server, &provider.models).await,
        ModelBackend::Playground(_) => {
            let message = "egress answers itself, with no key and no network".to_owned();
            let steps = vec![CheckStep { check: CheckKind::Address, ok: true, message }];
            Check { status: None, latency_ms: None, steps }
        }
        ModelBackend::Unavailable(why) => {
            let kind = match why.reason {
                ModelUnavailableReason::NoKey => CheckKind::Credential,
                ModelUnavailableReason::NoProvider | ModelUnavailableReason::BadEndpoint => CheckKind::Address,
            };
            let mut check = unusable(kind, why.text.clone());
            if let Some(origin) = &why.origin {
                let subject = Subject::new(egress, origin, false);
                let sent = subject.send(&HeaderMap::new(), "/").await;
                let steps = [subject.reached(&sent), check.steps].concat();
                check = subject.found(sent.status(), steps);
            }
            check
        }
    }
}

async fn check_server(egress: &Egress, server: &ModelServer, wanted: &[String]) -> Check {
    let subject = Subject::new(egress, &server.origin, server.allow_private);
    if server.protocol == Protocol::Bedrock {
        // Its list of models is at another host, and with other permissions than those to call a model.
        let sent = subject.send(&HeaderMap::new(), &format!("{}/", server.prefix)).await;
        let mut steps = subject.reached(&sent);
        steps.push(bedrock_credential(server));
        return subject.found(sent.status(), steps);
    }
    let request = models::own_request(server);
    let headers = request.as_ref().cloned().unwrap_or_default();
    let list = format!("{}/models", server.prefix);
    let sent = subject.send(&headers, &list).await;
    let mut steps = subject.reached(&sent);
    let status = sent.status();
    match (request, status) {
        (Err(refusal), _) => {
            steps.push(CheckStep { check: CheckKind::Credential, ok: false, message: refusal.message });
        }
        (Ok(_), Some(status)) => steps.extend(accepted(server, status)),
        (Ok(_), None) => {}
    }
    if let Sent::Answered(answer) = sent
        && steps.iter().all(|step| step.ok)
    {
        let status = answer.status();
        let listed = match status.is_success() {
            true => timeout_at(subject.deadline(), read_list(answer.into_body())).await.ok().flatten(),
            false => None,
        };
        match listed {
            Some(listed) => steps.extend(has_models(&subject, &headers, &list, &listed, wanted).await),
            None => steps.push(no_list(&list, status)),
        }
    }
    subject.found(status, steps)
}

/// Whether the credentials are such that calls can be made with them. More is known only to whoever runs a model.
fn bedrock_credential(server: &ModelServer) -> CheckStep {
    const UNCHECKED: &str =
        "not checked: whether Bedrock accepts it and lets it use the models, which only a call of a model shows";
    let found = match &server.key {
        None => Ok("there is none, and calls are sent without".to_owned()),
        Some(ModelKey::ApiKey(_)) => match models::own_request(server) {
            Ok(_) => Ok("there is an API key".to_owned()),
            Err(refusal) => Err(refusal.message),
        },
        Some(ModelKey::Aws(key)) => match malformed(key) {
            None => Ok(format!("there is an access key, which signs for the region {}", key.region)),
            Some(why) => Err(format!("{why}: PUT /api/model-providers/{}/credentials stores others", server.name)),
        },
    };
    let (ok, message) = match found {
        Ok(found) => (true, format!("{found}; {UNCHECKED}")),
        Err(why) => (false, why),
    };
    CheckStep { check: CheckKind::Credential, ok, message }
}

/// The fault of an access key that its form alone shows.
fn malformed(key: &AwsKey) -> Option<&'static str> {
    let (id, secret) = (key.access_key_id.expose(), key.secret_access_key.expose());
    if !(16..=128).contains(&id.len()) || !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Some("access_key_id is not the identifier of an access key, which has 16 to 128 letters and digits");
    }
    if id.starts_with("ASIA") && key.session_token.is_none() {
        return Some("access_key_id is that of temporary credentials, and their session_token is missing");
    }
    let is_plain = !secret.is_empty() && secret.chars().all(|c| c.is_ascii_graphic());
    (!is_plain).then_some("secret_access_key has spaces or other characters that no access key has")
}

/// Whether the key was accepted, as far as that is known.
fn accepted(server: &ModelServer, status: StatusCode) -> Option<CheckStep> {
    let refuses = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
    let code = status.as_u16();
    let message = match (refuses, server.key.is_some()) {
        (true, true) => format!(
            "the model provider answered {code}: the key was not accepted; PUT /api/model-providers/{}/credentials stores \
             another one",
            server.name
        ),
        (true, false) => format!(
            "the model provider answered {code} and has no key: PUT /api/model-providers/{}/credentials stores one",
            server.name
        ),
        (false, true) => format!("it was sent, and the model provider answered {code}"),
        (false, false) => return None,
    };
    Some(CheckStep { check: CheckKind::Credential, ok: !refuses, message })
}

#[derive(Deserialize)]
struct List {
    data: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: String,
}

/// The identifiers in a list of models; `None` when it is none that can be read.
async fn read_list(body: Incoming) -> Option<BTreeSet<String>> {
    let body: Bytes = Limited::new(body, MAX_LIST).collect().await.ok()?.to_bytes();
    let List { data } = serde_json::from_slice(&body).ok()?;
    Some(data.into_iter().map(|model| model.id).collect())
}

/// A server at a wrong path, or behind a login page, is no model provider.
fn no_list(path: &str, status: StatusCode) -> CheckStep {
    let message = match status.is_success() {
        true => {
            format!("GET {path} was answered with {status} and no list of models: compare the endpoint's host and path")
        }
        false => format!(
            "GET {path} was answered with {status} and not with a list of models: compare the endpoint's host and path; a \
             provider without such a list cannot be checked"
        ),
    };
    CheckStep { check: CheckKind::Model, ok: false, message }
}

/// Whether it has the models that it is registered with. Those that are not listed are requested by name: some servers
/// list a page, and no other names of their models.
async fn has_models(
    subject: &Subject<'_>,
    headers: &HeaderMap,
    list: &str,
    listed: &BTreeSet<String>,
    wanted: &[String],
) -> Vec<CheckStep> {
    let step = |ok, message| CheckStep { check: CheckKind::Model, ok, message };
    let mut steps = Vec::new();
    let mut asked = 0;
    for model in wanted {
        // Servers of local models add the tag `latest` to a name without one.
        if listed.contains(model) || listed.contains(&format!("{model}:latest")) {
            steps.push(step(true, format!("it has \"{model}\"")));
            continue;
        }
        asked += 1;
        if asked > MAX_ASKED {
            steps.push(step(true, "further models were not checked".to_owned()));
            break;
        }
        let path = format!("{list}/{}", utf8_percent_encode(model, NON_ALPHANUMERIC));
        steps.push(match subject.send(headers, &path).await.status() {
            Some(status) if status.is_success() => step(true, format!("it has \"{model}\"")),
            _ => step(
                false,
                format!(
                    "the model provider does not list \"{model}\": compare its identifier with the provider's own, or the \
                     models that the key may use"
                ),
            ),
        });
    }
    steps
}
