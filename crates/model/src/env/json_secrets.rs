//! Secrets within a JSON value, such as the key of a service account: programs read and print the decoded member, not
//! its JSON form.

use super::{MAX_PASSWORDS, is_secret_name, secret_detection::is_generated};
use crate::redact::is_worth_hiding;
use serde_json::Value;

/// Returns the texts in a JSON value that are secret by their names or their form; `None` if it is not a JSON object or
/// list. Addresses under such names (`token_uri`) are not secret.
pub(super) fn secrets(value: &str) -> Option<Vec<String>> {
    if !value.trim_start().starts_with(['{', '[']) {
        return None;
    }
    let value = serde_json::from_str(value).ok()?;
    let mut found = Vec::new();
    collect("", &value, &mut found);
    Some(found)
}

/// Values nested deeper than serde_json's limit are not parsed.
fn collect(name: &str, value: &Value, found: &mut Vec<String>) {
    match value {
        _ if found.len() == MAX_PASSWORDS => {}
        Value::String(text) => {
            let is_secret = is_secret_member(&words(name), text) || text.contains("PRIVATE KEY-----");
            if (is_secret || is_generated(text)) && is_worth_hiding(text) {
                found.push(text.clone());
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect(name, item, found)),
        Value::Object(members) => members.iter().for_each(|(name, value)| collect(name, value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Whether a member is secret by its name. Many that are not have a `key` or an `auth` in their names, such as
/// `memory_key` and `auth_type`: there, plain words are not secret.
fn is_secret_member(name: &str, text: &str) -> bool {
    const ALWAYS: [&str; 5] = ["password", "passwd", "pwd", "passphrase", "secret"];
    let is_words = text.bytes().all(|byte| byte.is_ascii_lowercase() || b"_-. ".contains(&byte));
    let is_always = name
        .rsplit(['_', '-', '.'])
        .next()
        .is_some_and(|last| ALWAYS.iter().any(|word| last.eq_ignore_ascii_case(word)));
    !text.contains("://") && (is_always || is_secret_name(name) && !is_words)
}

/// Separates the words of a name: `clientSecret` becomes `client_Secret`.
fn words(name: &str) -> String {
    let mut words = String::with_capacity(name.len() + 4);
    for c in name.chars() {
        if c.is_ascii_uppercase() && words.ends_with(|before: char| before.is_ascii_lowercase()) {
            words.push('_');
        }
        words.push(c);
    }
    words
}
