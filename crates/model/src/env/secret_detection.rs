//! Detection of generated values: keys and tokens, recognised by their form.

/// The fewest characters of a mixture of letters and digits that counts as random.
const RANDOM: usize = 16;

/// Prefixes of tokens of well-known issuers, whose rest may have no part that looks random: OpenAI and others,
/// Anthropic, GitHub, GitLab, Slack, Google.
const ISSUERS: [&str; 17] = [
    "sk-proj-",
    "sk-svcacct-",
    "sk-admin-",
    "sk-ant-",
    "sk-or-",
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "xapp-",
    "AIza",
];
/// Prefixes of ids of Amazon's access keys, which continue with capitals and digits.
const AMAZON: [&str; 2] = ["AKIA", "ASIA"];
/// Prefixes that ordinary names have too.
const AMBIGUOUS: [&str; 2] = ["sk-", "hf_"];

/// Whether a value looks like a generated key or token. Addresses, paths, versions, names of images and of models, and
/// UUIDs do not.
pub(super) fn is_generated(value: &str) -> bool {
    let text = value.trim();
    is_random(text) || is_web_token(text) || is_token(text)
}

/// Whether a value is a mixture of letters and digits, and nothing else but the padding of Base64.
pub(super) fn is_random(value: &str) -> bool {
    let text = value.trim().trim_end_matches('=');
    let has = |kind: fn(&u8) -> bool| text.as_bytes().iter().any(kind);
    is_long(text) && has(u8::is_ascii_alphabetic) && has(u8::is_ascii_digit)
}

/// Whether a text has enough letters and digits, and nothing else.
fn is_long(text: &str) -> bool {
    text.len() >= RANDOM && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Whether a text is a token with separators: of a known issuer, or with a random part.
fn is_token(text: &str) -> bool {
    let parts = || text.split(['-', '_']);
    let is_of = |issuer: &str| text.strip_prefix(issuer).is_some_and(|rest| rest.len() >= RANDOM);
    let is_amazons =
        |prefix: &str| text.starts_with(prefix) && is_long(text) && !text.bytes().any(|b| b.is_ascii_lowercase());
    AMAZON.into_iter().any(is_amazons)
        || text.bytes().all(is_url_safe)
            && (ISSUERS.into_iter().any(is_of)
                || AMBIGUOUS.into_iter().any(|prefix| text.starts_with(prefix)) && parts().any(is_long)
                || parts().any(is_random))
}

/// Whether a text is a JSON Web Token, signed or encrypted: parts in Base64 between dots, of which the first is a JSON
/// object.
fn is_web_token(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, '.').collect();
    matches!(parts.len(), 3 | 5)
        && parts[0].starts_with("eyJ")
        && parts[0].len() >= RANDOM
        && parts.iter().all(|part| part.bytes().all(is_url_safe))
}

fn is_url_safe(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_well_known_forms_are_generated_whatever_separators_they_have() {
        // In two halves, so that secret scanners do not report them.
        for (begins, rest) in [
            ("sk-", "proj-Abc123Def456Ghi789Jkl"),
            ("sk-", "ant-api03-AbCd-EfGh-IjKl-MnOp"),
            ("sk-", "abcdefghijklmnopqrstuvwx"),
            ("sk-", "9f8e7d6c5b4a39281706f5e4d3c2b1a0"),
            ("ghp_", "16C7e42F292c6912E7710c838347Ae178B4a"),
            ("github_", "pat_11ABCDEFG0_abcdefghijkl"),
            ("glpat-", "aB3_dE6-gH9jK2mN5pQ8"),
            ("xoxb-", "123456789012-1234567890123-AbCdEfGhIjKlMnOpQrStUvWx"),
            ("xoxp-", "1234567890-1234567890-abcdef"),
            ("AKIA", "ABCDEFGHIJKLMNOP"),
            ("AIza", "SyD-9tSrk_72Pou-MnMXa7_eZSW0j-FMBWY"),
            ("hf_", "abcdefghijklmnopqrstuvwxyzABCDEFGH"),
            ("gsk_", "9f8E7d6C5b4A39281706"),
            ("9f8e7d6c5b4a39281706", "f5e4d3c2b1a0-us21"),
            ("eyJhbGciOiJIUzI1NiJ9", ".eyJzdWIiOiJ4In0.c2ln-bmF0_dXJl"),
            ("eyJhbGciOiJub25lIn0", ".eyJzdWIiOiJ4In0."),
            (" ghp_", "16C7e42F292c6912E7710c838347Ae178B4a\n"),
        ] {
            let token = format!("{begins}{rest}");
            assert!(is_generated(&token), "{token}");
        }
    }

    #[test]
    fn names_that_only_begin_like_tokens_are_not_generated() {
        for name in [
            "sk-learn-pipeline",
            "hf_transformers_cache_dir",
            "AIzawa",
            "xoxb-",
            "eyJhbGciOiJub25l.x",
            "ghp_x",
            "ASIA_PACIFIC_SOUTHEAST",
        ] {
            assert!(!is_generated(name), "{name}");
        }
    }
}
