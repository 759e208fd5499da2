//! Reading a request for a chat completion.

use super::{ChatRequest, Invalid, messages, tools};
use serde_json::{Map, Value};

/// The members of a request.
type Members = Map<String, Value>;
type AsksForNothing = fn(&Value) -> bool;

/// Members without a counterpart, with what they may be all the same since it asks for nothing. Other members that are
/// not read, such as `seed` and `store`, change nothing that an answer must have and are left out.
const WITHOUT_COUNTERPART: [(&str, AsksForNothing); 11] = [
    ("n", |value| *value == 1),
    ("logprobs", |value| *value == false),
    ("top_logprobs", |value| *value == 0),
    ("logit_bias", is_empty),
    ("audio", |_| false),
    ("modalities", |value| value.as_array().is_some_and(|all| all.iter().all(|one| one == "text"))),
    ("presence_penalty", is_zero),
    ("frequency_penalty", is_zero),
    ("web_search_options", |_| false),
    ("functions", is_empty),
    ("function_call", |_| false),
];

/// Reads a request. What it asks for and no other provider than OpenAI could do is refused by its name.
pub(in crate::forward::models) fn parse(body: &[u8]) -> Result<ChatRequest, Invalid> {
    let mut members: Members = serde_json::from_slice(body).map_err(|e| Invalid {
        param: None,
        text: format!("the request's body cannot be read as a JSON object: {e}"),
    })?;
    members.retain(|_, value| !value.is_null());
    for (name, asks_for_nothing) in WITHOUT_COUNTERPART {
        if members.get(name).is_some_and(|value| !asks_for_nothing(value)) {
            return Err(Invalid::no_counterpart(name));
        }
    }
    let mut request = ChatRequest {
        max_tokens: max_tokens(&members)?,
        temperature: temperature(&members)?,
        top_p: number(&members, "top_p")?,
        stop: stop(&members)?,
        user: text(&members, "user")?.or(text(&members, "safety_identifier")?),
        schema: schema(members.remove("response_format"))?,
        is_streamed: flag(&members, "stream")?.unwrap_or(false),
        include_usage: include_usage(&members)?,
        one_tool: flag(&members, "parallel_tool_calls")? == Some(false),
        ..ChatRequest::default()
    };
    messages::read(members.remove("messages"), &mut request)?;
    let tool_choice = members.remove("tool_choice");
    tools::read(members.remove("tools"), tool_choice, &mut request)?;
    Ok(request)
}

fn is_zero(value: &Value) -> bool {
    value.as_f64() == Some(0.0)
}

fn is_empty(value: &Value) -> bool {
    value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty)
}

fn max_tokens(members: &Members) -> Result<Option<u64>, Invalid> {
    for name in ["max_completion_tokens", "max_tokens"] {
        if let Some(value) = members.get(name) {
            let number = value.as_u64().filter(|&number| number > 0);
            return number.map(Some).ok_or_else(|| Invalid::new(name, "must be a whole number above 0"));
        }
    }
    Ok(None)
}

fn number(members: &Members, name: &str) -> Result<Option<f64>, Invalid> {
    let Some(value) = members.get(name) else { return Ok(None) };
    value.as_f64().map(Some).ok_or_else(|| Invalid::new(name, "must be a number"))
}

/// A request that the OpenAI API refuses is not to become something else for other providers.
fn temperature(members: &Members) -> Result<Option<f64>, Invalid> {
    match number(members, "temperature")? {
        Some(given) if !(0.0..=2.0).contains(&given) => {
            Err(Invalid::new("temperature", "must be a number from 0 to 2"))
        }
        given => Ok(given),
    }
}

fn text(members: &Members, name: &str) -> Result<Option<String>, Invalid> {
    let Some(value) = members.get(name) else { return Ok(None) };
    value.as_str().map(|text| Some(text.to_owned())).ok_or_else(|| Invalid::new(name, "must be a string"))
}

fn flag(members: &Members, name: &str) -> Result<Option<bool>, Invalid> {
    let Some(value) = members.get(name) else { return Ok(None) };
    value.as_bool().map(Some).ok_or_else(|| Invalid::new(name, "must be true or false"))
}

fn include_usage(members: &Members) -> Result<bool, Invalid> {
    match members.get("stream_options") {
        None => Ok(false),
        Some(Value::Object(options)) => match options.get("include_usage") {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(include)) => Ok(*include),
            Some(_) => Err(Invalid::new("stream_options.include_usage", "must be true or false")),
        },
        Some(_) => Err(Invalid::new("stream_options", "must be an object")),
    }
}

fn stop(members: &Members) -> Result<Vec<String>, Invalid> {
    let wrong = || Invalid::new("stop", "must be a string or a list of strings");
    let one = |value: &Value| value.as_str().map(str::to_owned).ok_or_else(wrong);
    match members.get("stop") {
        None => Ok(Vec::new()),
        Some(Value::Array(all)) => all.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

/// The schema of `response_format`. A schema says what JSON is wanted; that it be any JSON nobody but OpenAI promises.
fn schema(format: Option<Value>) -> Result<Option<Value>, Invalid> {
    let Some(mut format) = format else { return Ok(None) };
    match format["type"].as_str() {
        Some("text") => Ok(None),
        Some("json_schema") => match format.pointer_mut("/json_schema/schema").map(Value::take) {
            Some(schema @ Value::Object(_)) => Ok(Some(schema)),
            _ => Err(Invalid::new("response_format.json_schema.schema", "must be an object")),
        },
        Some("json_object") => {
            let text = "cannot be json_object for this model, its provider needs a schema: use json_schema";
            Err(Invalid::new("response_format.type", text))
        }
        _ => Err(Invalid::new("response_format.type", "must be text or json_schema")),
    }
}
