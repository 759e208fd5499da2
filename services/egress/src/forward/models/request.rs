//! The body of a model call: read up to a bound, and looked into for the model that it names.

use super::buffering::{self, Unread};
use crate::{Egress, forward::refusal::Refusal};
use bytes::{Bytes, BytesMut};
use hoistway_kit::quota::QuotaGrant;
use hoistway_model::{Name, limits::MAX_MODEL};
use http::{HeaderMap, header};
use hyper::body::Incoming;
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, Visitor},
};
use std::{borrow::Cow, fmt};

/// The largest request.
const MAX_BODY: u64 = 32 << 20;

/// A request that names a model, or none.
#[derive(Debug)]
pub(super) struct ModelRequest {
    pub(super) body: Bytes,
    pub(super) model: Option<String>,
    /// The memory that the body counts against [`buffering::BODIES`], for as long as it is there.
    pub(super) memory: Option<QuotaGrant>,
}

impl ModelRequest {
    /// Reads the body and what model it names.
    pub(super) async fn read(
        egress: &Egress,
        agent: &Name,
        headers: &HeaderMap,
        body: Incoming,
    ) -> Result<Self, Refusal> {
        let encoding = headers.get(header::CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.as_bytes().eq_ignore_ascii_case(b"identity")) {
            return Err(Refusal::bad_request("requests for models must come without Content-Encoding"));
        }
        let limit = MAX_BODY.min(egress.config.limits.request_size);
        let expects_continue = headers.contains_key(header::EXPECT);
        let (body, memory) =
            buffering::collect(egress, agent, body, limit, expects_continue).await.map_err(|e| match e {
                Unread::TooLarge => Refusal::too_large(limit),
                Unread::NoMemory => Refusal::overloaded("too many large requests for models are in progress"),
                Unread::Late => Refusal::bad_request("the request's body did not come in time"),
                Unread::Broken(e) => Refusal::bad_request(format!("the request's body broke off: {e}")),
            })?;
        let parsing = body.clone();
        let model = buffering::read_off_runtime(body.len(), move || model_of(&parsing)).await?;
        let model = model.map_err(|why| {
            let refusal = Refusal::bad_request(why.text);
            match why.param {
                Some(param) => refusal.param(param),
                None => refusal,
            }
        })?;
        Ok(Self { body, model, memory: Some(memory) })
    }

    /// Adds the model to a request that names none.
    pub(super) fn set_model(&mut self, model: &str) {
        let Some(start) = self.body.iter().position(|&byte| byte == b'{') else { return };
        let rest = &self.body[start + 1..];
        let is_empty = rest.trim_ascii_start().starts_with(b"}");
        let mut changed = BytesMut::with_capacity(self.body.len() + model.len() + 16);
        changed.extend_from_slice(b"{\"model\":");
        changed.extend_from_slice(serde_json::Value::from(model).to_string().as_bytes());
        if !is_empty {
            changed.extend_from_slice(b",");
        }
        changed.extend_from_slice(rest);
        self.body = changed.freeze();
        self.model = Some(model.to_owned());
    }
}

/// Why a body cannot be routed.
#[derive(Debug, PartialEq, Eq)]
struct Unroutable {
    text: String,
    param: Option<&'static str>,
}

/// Finds the model in a JSON object. Servers differ in which of two members of the same name they take, and some read
/// names without regard to case, so only one member may mean the model.
fn model_of(body: &[u8]) -> Result<Option<String>, Unroutable> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let found = deserializer.deserialize_map(ModelVisitor).and_then(|found| deserializer.end().map(|()| found));
    let found =
        found.map_err(|e| Unroutable { text: format!("the request's body is not a JSON object: {e}"), param: None })?;
    match found {
        Found::None => Ok(None),
        Found::Model(model) if model.is_empty() || model.len() > MAX_MODEL => {
            let text = format!("\"model\" must have 1 to {MAX_MODEL} bytes");
            Err(Unroutable { text, param: Some("model") })
        }
        Found::Model(model) => Ok(Some(model)),
        Found::Wrong(text, param) => Err(Unroutable { text: text.to_owned(), param: Some(param) }),
    }
}

enum Found {
    None,
    Model(String),
    Wrong(&'static str, &'static str),
}

struct ModelVisitor;

impl<'de> Visitor<'de> for ModelVisitor {
    type Value = Found;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found, A::Error> {
        let mut found = Found::None;
        let (mut streams, mut stream_options) = (0, 0);
        while let Some(Key(key)) = map.next_key()? {
            // The count depends on these, so they too are read in one way only.
            if matches!(&*key, "stream" | "stream_options") {
                let is_stream = key == "stream";
                let value: serde_json::Value = map.next_value()?;
                let count = if is_stream { &mut streams } else { &mut stream_options };
                *count += 1;
                if *count > 1 {
                    found = match is_stream {
                        true => Found::Wrong("\"stream\" is there twice", "stream"),
                        false => Found::Wrong("\"stream_options\" is there twice", "stream_options"),
                    };
                } else if is_stream && !(value.is_boolean() || value.is_null()) {
                    found = Found::Wrong("\"stream\" must be true or false", "stream");
                }
                continue;
            }
            if !key.eq_ignore_ascii_case("model") {
                map.next_value::<IgnoredAny>()?;
                if key.eq_ignore_ascii_case("models") || key.eq_ignore_ascii_case("fallbacks") {
                    // Gateways read them as further models to try.
                    found = Found::Wrong("only one model can be named, with \"model\"", "models");
                }
                continue;
            }
            let value: serde_json::Value = map.next_value()?;
            found = match (found, value) {
                (Found::Wrong(text, param), _) => Found::Wrong(text, param),
                (Found::Model(_), _) => Found::Wrong("\"model\" is there twice", "model"),
                (Found::None, _) if key != "model" => Found::Wrong("\"model\" is spelt in lower case", "model"),
                (Found::None, serde_json::Value::String(model)) => Found::Model(model),
                (Found::None, _) => Found::Wrong("\"model\" must be a string", "model"),
            };
        }
        Ok(found)
    }
}

/// A member's name, with its escapes read.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_request_names_one_model_or_none() {
        assert_eq!(model_of(br#"{"messages": [{"model": "x"}], "model": "gpt-4o"}"#), Ok(Some("gpt-4o".into())));
        assert_eq!(model_of(br#"{"mod\u0065l": "gpt-4o"}"#), Ok(Some("gpt-4o".into())));
        assert_eq!(model_of(b" {} "), Ok(None));
    }

    #[test]
    fn requests_that_servers_could_read_in_two_ways_are_refused() {
        for (body, param) in [
            (r#"{"model": "a", "model": "b"}"#, Some("model")),
            (r#"{"model": "a", "mod\u0065l": "b"}"#, Some("model")),
            (r#"{"model": "a", "Model": "b"}"#, Some("model")),
            (r#"{"MODEL": "b"}"#, Some("model")),
            (r#"{"model": "a", "models": ["b"]}"#, Some("models")),
            (r#"{"models": ["b"], "model": "a"}"#, Some("models")),
            (r#"{"model": ["a"]}"#, Some("model")),
            (r#"{"model": ""}"#, Some("model")),
            (r#"{"model": null}"#, Some("model")),
            (r#"{"model": "a", "stream": 1}"#, Some("stream")),
            (r#"{"stream": "true", "model": "a"}"#, Some("stream")),
            (r#"{"model": "a", "stream": true, "stream": false}"#, Some("stream")),
            (r#"{"model": "a", "stream_options": {}, "stream_options": null}"#, Some("stream_options")),
            (r#"{"model": "a"} {"model": "b"}"#, None),
            (r#"["model"]"#, None),
            ("model=a", None),
            ("", None),
        ] {
            assert_eq!(model_of(body.as_bytes()).unwrap_err().param, param, "{body}");
        }
    }

    #[test]
    fn a_model_is_added_to_a_request_without_one() {
        for (body, expected) in
            [(r#" {"input": "x"}"#, r#"{"model":"a\"b","input": "x"}"#), ("{ }", r#"{"model":"a\"b" }"#)]
        {
            let mut request = ModelRequest { body: Bytes::from(body), model: None, memory: None };
            request.set_model("a\"b");
            assert_eq!(request.body, expected);
        }
    }
}
