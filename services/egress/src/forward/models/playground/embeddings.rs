//! Embeddings made of hashes: the same text has the same one, and different texts have different ones. They say nothing
//! about what a text means.

use super::{Envelope, FINGERPRINT, MAX_DIMENSIONS, MAX_INPUTS, words};
use crate::forward::refusal::Refusal;
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

/// Answers a request for embeddings.
pub(super) fn embed(envelope: &Envelope, request: &Value) -> Result<Value, Refusal> {
    let wrong = |text: &str| Refusal::bad_request(text).param("input");
    let inputs: Vec<&Value> = match &request["input"] {
        Value::Array(inputs) if inputs.is_empty() => return Err(wrong("\"input\" must not be empty")),
        // One text as tokens, or several inputs.
        input @ Value::Array(inputs) => match inputs.iter().all(Value::is_u64) {
            true => vec![input],
            false => inputs.iter().collect(),
        },
        input @ Value::String(_) => vec![input],
        _ => return Err(wrong("\"input\" must be a string or a list")),
    };
    if inputs.len() > MAX_INPUTS {
        return Err(wrong(&format!("the playground embeds at most {MAX_INPUTS} inputs at once")));
    }
    let dimensions = dimensions(envelope, request)?;
    let as_base64 = request["encoding_format"] == "base64";
    let mut tokens = 0;
    let data: Vec<Value> = inputs
        .into_iter()
        .enumerate()
        .map(|(index, input)| {
            let text = input.as_str().map_or_else(|| input.to_string(), str::to_owned);
            tokens += input.as_array().map_or_else(|| words(&text), Vec::len);
            let vector = vector(&text, dimensions);
            let embedding = match as_base64 {
                true => {
                    STANDARD.encode(vector.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>()).into()
                }
                false => json!(vector),
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    Ok(json!({
        "object": "list",
        "data": data,
        "model": envelope.model,
        "system_fingerprint": FINGERPRINT,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }))
}

/// As many as the request wants, or as OpenAI's model of that name has.
fn dimensions(envelope: &Envelope, request: &Value) -> Result<usize, Refusal> {
    let wanted = match &request["dimensions"] {
        Value::Null => return Ok(if envelope.model.ends_with("3-large") { 3072 } else { 1536 }),
        wanted => wanted.as_u64().and_then(|wanted| usize::try_from(wanted).ok()),
    };
    wanted.filter(|wanted| (1..=MAX_DIMENSIONS).contains(wanted)).ok_or_else(|| {
        Refusal::bad_request(format!("\"dimensions\" must be 1 to {MAX_DIMENSIONS}")).param("dimensions")
    })
}

/// A vector of length 1, the same for the same text.
fn vector(text: &str, dimensions: usize) -> Vec<f32> {
    let digest = digest(&SHA256, text.as_bytes());
    let mut state = digest.as_ref().iter().take(8).fold(0_u64, |state, byte| state << 8 | u64::from(*byte));
    // SplitMix64, a small generator whose every seed is good.
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = u32::try_from((mixed ^ (mixed >> 31)) >> 40).unwrap_or(0);
        bits as f32 / (1 << 23) as f32 - 1.0
    };
    let mut vector: Vec<f32> = (0..dimensions).map(|_| next()).collect();
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|value| *value /= length);
    vector
}
