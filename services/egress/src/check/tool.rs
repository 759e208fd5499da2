//! Whether a tool works: one request to its base URL, with the tool's credential.

use super::{Sent, Subject};
use crate::{
    Egress,
    forward::credential,
    policy::{Credential, ToolPolicy},
};
use hoistway_model::{
    Secret,
    egress::{Check, CheckKind, CheckStep},
};
use http::{HeaderMap, StatusCode};
use tokio::time::{Instant, timeout_at};

/// The part of the request that the credential decides.
struct Prepared {
    headers: HeaderMap,
    path_and_query: String,
    /// The access token, if that is what the tool wants.
    token: Option<Secret>,
}

/// Checks a tool. The credential's text is in no result.
pub(crate) async fn check(egress: &Egress, tool: &ToolPolicy) -> Check {
    let subject = Subject::new(egress, &tool.origin, tool.allow_private);
    let deadline = subject.deadline();
    let send = async |prepared: &Prepared| subject.send(&prepared.headers, &prepared.path_and_query).await;
    let mut prepared = prepare(egress, tool, None, deadline).await;
    // Without its credential the tool's address is checked all the same.
    let mut sent = send(prepared.as_ref().unwrap_or(&Prepared::bare(tool))).await;
    if let (Sent::Answered(answer), Ok(Prepared { token: Some(rejected), .. })) = (&sent, &prepared)
        && answer.status() == StatusCode::UNAUTHORIZED
    {
        // The token may have been revoked before its time, as for an agent's call.
        let again = prepare(egress, tool, Some(rejected), deadline).await;
        if let Ok(again) = &again {
            sent = send(again).await;
        }
        prepared = again;
    }
    let mut steps = subject.reached(&sent);
    steps.extend(accepted(tool, &prepared, sent.status()));
    subject.found(sent.status(), steps)
}

impl Prepared {
    fn bare(tool: &ToolPolicy) -> Self {
        let path_and_query = if tool.prefix.is_empty() { "/".to_owned() } else { tool.prefix.clone() };
        Self { headers: HeaderMap::new(), path_and_query, token: None }
    }
}

/// Applies the credential; `rejected` is a token that the tool did not accept. The error is for people.
async fn prepare(
    egress: &Egress,
    tool: &ToolPolicy,
    rejected: Option<&Secret>,
    deadline: Instant,
) -> Result<Prepared, String> {
    let mut prepared = Prepared::bare(tool);
    if let Credential::OAuth2(client) = &tool.credential {
        let asked = timeout_at(deadline, egress.tokens.get(&egress.upstream, tool, client, rejected)).await;
        let late = |_| format!("no access token for the tool \"{}\" in time", tool.name);
        prepared.token = Some(asked.map_err(late)?.map_err(|refusal| refusal.message)?);
    }
    let Prepared { headers, path_and_query, token } = &mut prepared;
    let applied = credential::apply(tool, token.as_ref(), headers, path_and_query);
    applied.map_err(|refusal| refusal.message.replace("/NAME/", &format!("/{}/", tool.name)))?;
    Ok(prepared)
}

/// Whether the credential is there and was accepted, as far as that is known.
fn accepted(tool: &ToolPolicy, prepared: &Result<Prepared, String>, status: Option<StatusCode>) -> Option<CheckStep> {
    let step = |ok, message| Some(CheckStep { check: CheckKind::Credential, ok, message });
    let refuses = status.filter(|status| matches!(*status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN));
    let code = status.map_or(0, |status| status.as_u16());
    match (prepared, &tool.credential, refuses) {
        (Err(why), ..) => step(false, why.clone()),
        (Ok(_), Credential::None, Some(_)) => step(
            false,
            format!("the tool answered {code} and is registered without a credential: change its auth_type"),
        ),
        (Ok(_), Credential::None, None) => None,
        (Ok(_), _, Some(_)) => {
            let remedy = format!("PUT /api/tools/{}/credentials stores another one", tool.name);
            step(false, format!("the tool answered {code}: the credential was not accepted; {remedy}"))
        }
        (Ok(_), _, None) if status.is_some() => step(true, format!("it was sent, and the tool answered {code}")),
        (Ok(Prepared { token: Some(_), .. }), ..) => step(true, "the token endpoint gave an access token".to_owned()),
        (Ok(_), ..) => None,
    }
}
