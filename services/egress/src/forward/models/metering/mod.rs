//! Counting what calls of models use: the provider's own numbers, read from answers as they pass. Where they do not
//! come, because the agent or the provider broke off, an estimate takes their place, so that no call is free.

mod body;
mod decoder;
mod format;
mod request;
mod scanner;
mod stream_filter;
mod usage_reader;

use super::{Api, ModelCall};
use crate::{
    Egress,
    calls::call_entry::{CallEntry, Progress},
    config::Limits,
    forward::Answer,
    forward::body::Limited,
    forward::refusal::Refusal,
    policy::AgentPolicy,
    usage::{Budgets, Commit, Ledger, UsageKey},
};
use body::Metered;
use bytes::Bytes;
use hoistway_model::{ModelPrice, RevisionId, usage::UsageSums};
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use request::Prepared;
use std::sync::Arc;
use stream_filter::AnswerReader;

/// Makes a call ready for being counted, if the agent's budget allows it; nothing where nobody answers it, or what is
/// asked uses no model.
pub(super) async fn begin(
    egress: &Egress,
    policy: &AgentPolicy,
    call: &mut ModelCall<'_>,
    entry: &CallEntry,
) -> Result<Option<Meter>, Refusal> {
    let uses_model = call.api != Api::CountTokens;
    let Some(provider) = call.model.backend.provider().filter(|_| uses_model).cloned() else { return Ok(None) };
    egress.budgets.check(&policy.agent)?;
    let headers = &mut call.parts.headers;
    let user = entry.user().map(str::to_owned);
    // Compressed answers are hard to count.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let (agent, model) = (policy.agent.clone(), call.model.model.clone());
    let key = UsageKey { agent, provider, model, user: user.unwrap_or_default() };
    let prepared = Prepared::new(call.request.body.clone(), call.api.has_stream_options()).await;
    let Prepared { body, streams, leave_out_usage, input } = prepared;
    call.request.body = body;
    let (ledger, budgets) = (egress.usage.clone(), Arc::clone(&egress.budgets));
    let progress = entry.progress();
    let (revision, price, key) = (policy.revision, call.model.price, Some(key));
    Ok(Some(Meter {
        ledger,
        budgets,
        progress,
        revision,
        price,
        key,
        streams,
        leave_out_usage,
        input,
        limits: egress.config.limits.clone(),
        status: None,
    }))
}

/// The count of one call, which is made once: at the latest when this is dropped, since then the agent has gone away.
#[derive(Debug)]
pub(super) struct Meter {
    ledger: Ledger,
    budgets: Arc<Budgets>,
    progress: Arc<Progress>,
    revision: RevisionId,
    price: Option<ModelPrice>,
    /// Whose call it is; none once it is counted.
    key: Option<UsageKey>,
    streams: bool,
    leave_out_usage: bool,
    /// The estimate of the request's tokens.
    input: u64,
    limits: Limits,
    /// The provider's answer.
    status: Option<StatusCode>,
}

impl Meter {
    /// Counts what came of the call, and hands out what the agent gets.
    pub(super) async fn measure(mut self, outcome: Result<Answer, Refusal>) -> Result<Answer, Refusal> {
        match outcome {
            Ok(Answer::Response(response)) => Ok(Answer::Own(self.wrap(response).await)),
            Ok(Answer::Own(response)) => Ok(Answer::Own(self.wrap(response).await)),
            // Models do not switch protocols.
            Ok(switched @ Answer::Switched { .. }) => Ok(switched),
            // Nobody was asked.
            Err(refusal) if refusal.status.is_client_error() => {
                self.key = None;
                Err(refusal)
            }
            Err(refusal) => {
                if let Some(commit) = self.count(UsageSums { requests: 1, failed_requests: 1, ..UsageSums::default() })
                {
                    commit.await;
                }
                Err(refusal)
            }
        }
    }

    async fn wrap<B>(mut self, response: Response<B>) -> Response<crate::forward::body::Out>
    where
        B: Body<Data = Bytes, Error: Into<crate::forward::body::BoxError>> + Send + Unpin + 'static,
    {
        let (mut parts, body) = response.into_parts();
        self.status = Some(parts.status);
        let leaves_out = self.leave_out_usage && parts.status.is_success();
        let reader = AnswerReader::of(&parts.headers, self.streams, leaves_out);
        if reader.changes() {
            parts.headers.remove(header::CONTENT_LENGTH);
        }
        // Nobody asks a body for pieces that says it has none.
        if body.is_end_stream()
            && let Some(commit) = self.answered(&reader, true)
        {
            commit.await;
        }
        let body = Limited::new(body, &self.limits);
        Response::from_parts(parts, Metered::new(body, self, reader).boxed_unsync())
    }

    /// Counts an answer as far as it was read, unless it is counted already.
    fn answered(&mut self, reader: &AnswerReader, is_complete: bool) -> Option<Commit> {
        match self.status {
            Some(status) if status.is_success() && self.has_error(reader) => {
                self.count(UsageSums { failed_requests: 1, ..reader.sums(self.input, is_complete) })
            }
            Some(StatusCode::OK) if is_complete && reader.is_invalid() => {
                self.progress.answer_is_invalid();
                // The text of an answer is estimated. Where there is none, no model has said anything.
                let sums = if reader.is_empty() { UsageSums::default() } else { reader.sums(self.input, false) };
                self.count(UsageSums { requests: 1, failed_requests: 1, ..sums })
            }
            Some(status) if status.is_success() => self.count(reader.sums(self.input, is_complete)),
            // A provider does not count requests that it refuses.
            _ => self.count(UsageSums { requests: 1, failed_requests: 1, ..UsageSums::default() }),
        }
    }

    /// Notes in the record whether the provider's answer has an error.
    fn has_error(&self, reader: &AnswerReader) -> bool {
        reader.error().inspect(|kind| self.progress.provider_failed(kind)).is_some()
    }

    fn count(&mut self, mut sums: UsageSums) -> Option<Commit> {
        let key = self.key.take()?;
        if let Some(price) = self.price {
            sums.priced_requests = sums.requests;
            sums.cost = price.of(sums.input_tokens, sums.cached_input_tokens, sums.output_tokens);
        }
        self.budgets.count(&key.agent, self.revision, &sums);
        self.progress.used(sums);
        Some(self.ledger.count(key, sums))
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        // The agent went away while the provider worked on the request.
        let input_tokens = self.input;
        self.count(UsageSums {
            requests: 1,
            failed_requests: 1,
            estimated_requests: 1,
            input_tokens,
            ..UsageSums::default()
        });
    }
}
