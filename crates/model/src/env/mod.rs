//! The user's environment variables, and which of their values are secrets.

mod json_secrets;
pub mod platform;
mod secret_detection;
pub(crate) mod stored;

use crate::redact::{Secret, is_worth_hiding};
use percent_encoding::percent_decode_str;
use secret_detection::{is_generated, is_random};

/// A variable whose name contains one of these words holds a secret.
const SECRET_WORDS: [&str; 12] = [
    "KEY",
    "TOKEN",
    "SECRET",
    "PASS",
    "PASSWORD",
    "PWD",
    "CREDENTIAL",
    "CREDENTIALS",
    "AUTH",
    "PRIVATE",
    "COOKIE",
    "DSN",
];
/// The most URLs of one value whose passwords are hidden separately.
const MAX_PASSWORDS: usize = 100;

/// An environment variable of the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvVar {
    /// Variable name.
    pub name: String,
    /// Its value. The API shows it only where `secret` is false.
    pub value: Secret,
    /// Whether the value is secret according to the user; if `None`, its name and the value itself decide.
    pub secret: Option<bool>,
}

impl EnvVar {
    /// Returns the parts to hide in logs, errors, events and traces: the value, the password of a URL in it, or
    /// nothing.
    pub fn hidden(&self) -> Vec<Secret> {
        if self.is_shown() {
            return Vec::new();
        }
        let value = self.value.expose();
        let mut passwords = passwords(value);
        let members = json_secrets::secrets(value);
        let is_key_file = || members.is_none() && value.contains("PRIVATE KEY-----");
        let looks_secret =
            || is_secret_name(&self.name) || is_generated(value) || is_key_file() || passwords.len() > MAX_PASSWORDS;
        let whole = self.secret == Some(true) || (looks_secret() && is_worth_hiding(value));
        passwords.truncate(MAX_PASSWORDS);
        let passwords = passwords.into_iter().flat_map(|password| hidden_password(password, value));
        let members = members.unwrap_or_default().into_iter().map(Secret::new);
        whole.then(|| self.value.clone()).into_iter().chain(passwords).chain(members).collect()
    }

    /// Whether the API shows the value.
    pub fn is_shown(&self) -> bool {
        self.secret == Some(false)
    }
}

fn is_secret_name(name: &str) -> bool {
    name.split(['_', '-', '.']).any(|word| SECRET_WORDS.iter().any(|secret| word.eq_ignore_ascii_case(secret)))
}

/// A password as written, and the characters around it that identify it there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Password<'a> {
    written: &'a str,
    before: &'static str,
    after: &'static str,
}

/// Finds the passwords of all URLs and connection strings in a text, in linear time.
fn passwords(text: &str) -> Vec<Password<'_>> {
    let mut found = Vec::new();
    for word in text.split_whitespace() {
        let mut parts = word.split("://");
        let mut scheme = parts.next().unwrap_or_default();
        for url in parts {
            found.extend(of_user_info(scheme, url));
            scheme = url;
        }
        if word.contains("://") || word.contains(';') {
            found.extend(of_parameters(word));
        }
        if found.len() > MAX_PASSWORDS {
            break;
        }
    }
    found
}

/// Finds the passwords before the host of a URL. They may contain characters that should have been encoded; the end is
/// ambiguous then, so both readings are returned.
fn of_user_info<'a>(scheme: &str, url: &'a str) -> Vec<Password<'a>> {
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    let Some((user, _)) = authority.split_once(':').filter(|(user, _)| !user.contains('@')) else {
        // A token in the place of the user.
        let user = authority.split_once('@').map(|(user, _)| user).filter(|user| is_token(user));
        return user.map(|written| Password { written, before: "//", after: "@" }).into_iter().collect();
    };
    let after = &url[user.len() + 1..];
    let within = authority.rfind('@').map(|end| &authority[user.len() + 1..end]);
    let is_port = authority[user.len() + 1..].bytes().all(|byte| byte.is_ascii_digit());
    let is_web = scheme.ends_with("http") || scheme.ends_with("https");
    let whole = after.rfind('@').map(|end| &after[..end]).filter(|_| within.is_some() || !(is_port && is_web));
    let mut found: Vec<&str> = within.into_iter().chain(whole).filter(|password| !password.is_empty()).collect();
    found.dedup();
    found.into_iter().map(|written| Password { written, before: ":", after: "@" }).collect()
}

/// Finds the values of parameters with secret names: `?user=app&password=…`, `AccountName=x;AccountKey=…`.
fn of_parameters(word: &str) -> impl Iterator<Item = Password<'_>> {
    const NAMES: [&str; 10] =
        ["password", "passwd", "pwd", "secret", "token", "apikey", "api_key", "accountkey", "sharedaccesskey", "sig"];
    let pairs = word.split(['?', '&', ';', '#']).filter_map(|pair| pair.split_once('='));
    let named = pairs.filter(|(name, _)| NAMES.iter().any(|secret| name.to_ascii_lowercase().ends_with(secret)));
    let values = named.map(|(_, value)| value).filter(|value| !value.is_empty());
    values.map(|written| Password { written, before: "=", after: "" })
}

/// Whether a user name looks like a generated token, which may have separators.
fn is_token(user: &str) -> bool {
    is_random(&user.replace(['_', '-', '.'], ""))
}

/// Returns a password as written in its URL, and decoded as programs use it. One that is also an ordinary word of the
/// URL, or too short to be distinguished from other text, is hidden only inside a URL, so that the rest stays readable.
fn hidden_password(password: Password<'_>, url: &str) -> Vec<Secret> {
    let Password { written, before, after } = password;
    let in_place = |text: &str| format!("{before}{text}{after}");
    let others = url.replace(&in_place(written), "").to_lowercase();
    let is_distinct = |text: &str| is_worth_hiding(text) && !others.contains(&text.to_lowercase());
    let mut forms = vec![written.to_owned()];
    let decoded = percent_decode_str(written).decode_utf8_lossy();
    if decoded != written {
        forms.push(decoded.into_owned());
    }
    let form = |text: String| Secret::new(if is_distinct(&text) { text } else { in_place(&text) });
    forms.into_iter().map(form).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hidden(name: &str, value: &str, secret: Option<bool>) -> Vec<String> {
        let var = EnvVar { name: name.into(), value: Secret::new(value), secret };
        var.hidden().iter().map(|secret| secret.expose().to_owned()).collect()
    }

    #[test]
    fn whole_words_of_names_tell_secrets() {
        for name in ["API_KEY", "api_key", "KEY", "DB_PASS", "X-Auth", "app.token", "SENTRY_DSN", "AWS_CREDENTIALS"] {
            assert_eq!(hidden(name, "orchid-morning", None), ["orchid-morning"], "{name}");
        }
        for name in ["MAX_TOKENS", "AUTHOR", "KEYBOARD", "PASSPORT", "MODEL", "MONKEY", "COOKIES_ON", "APIKEY"] {
            assert!(hidden(name, "orchid-morning", None).is_empty(), "{name}");
        }
    }

    #[test]
    fn values_that_look_random_are_secrets_and_words_are_not() {
        for value in
            ["9f8e7d6c5b4a39281706f5e4d3c2b1a0", "AKIAIOSFODNN7EXAMPLE", "dGhpc2lzYXNlY3JldDE=", "a234567890123456"]
        {
            assert_eq!(hidden("REF", value, None), [value]);
        }
        for value in [
            "text-embedding-3-small",
            "1234567890123456",
            "productionenvironment",
            "abc123def",
            "a23456789012345",
            "01a2092d-b570-76eb-887a-3ce8dec8c3e1",
            "/srv/9f8e7d6c5b4a39281706f5e4d3c2b1a0",
            "https://example.org/v1/9f8e7d6c5b4a39281706f5e4d3c2b1a0",
            "search-9f8e7d6c5b4a39281706.eu-west-1.es.example.org",
            "ghcr.io/team/agent:main-9f8e7d6c5b4a39281706",
            "registry.example.org/agent@sha256:9f8e7d6c5b4a39281706f5e4d3c2b1a0",
            "gpt-4o",
            "gpt-4o-mini-2024-07-18",
            "anthropic.claude-3-5-sonnet-20240620-v1:0",
            "meta-llama/Meta-Llama-3.1-8B-Instruct",
            "1.2.3-20240115084132.abcdef123456",
            "sk-learn-pipeline-config",
            "hf_model",
            "sk-",
            "eyJ.a.b",
            "AKIA",
            "",
        ] {
            assert!(hidden("REF", value, None).is_empty(), "{value}");
        }
    }

    #[test]
    fn of_a_url_the_password_is_hidden_raw_and_decoded() {
        for (value, want) in [
            ("postgres://app:correcthorse@db.internal/main", &["correcthorse"] as &[_]),
            ("redis://:hunter22@host:6379/0", &["hunter22"]),
            ("mysql://a:p%40ss%2Fword@h", &["p%40ss%2Fword", "p@ss/word"]),
            ("amqp://a:be@hind@h/x", &["be@hind"]),
            ("postgres://a:open/slash@h/x", &["open/slash"]),
            ("a=http://u:first-one@h b=ftp://u:second-one@h", &["first-one", "second-one"]),
            ("postgresql://app:P@ssw0rd#Winter24@db/main", &[":P@", "P@ssw0rd#Winter24"]),
            ("postgres://app:2024/hunter-secret@db/x", &["2024/hunter-secret"]),
            ("jdbc:postgresql://db/x?user=app&password=open-sesame", &["open-sesame"]),
            ("Endpoint=sb://x;AccountKey=Zm9vYmFyYmF6;Y=1", &["Zm9vYmFyYmF6"]),
            ("https://ghp_A1b2C3d4E5f6G7h8@github.com/o/r", &["ghp_A1b2C3d4E5f6G7h8"]),
            ("http://localhost:8080/a@b", &[]),
            ("https://user@host/x:y@z", &[]),
            ("https://host/x", &[]),
            ("user:password@host", &[]),
        ] {
            assert_eq!(hidden("DATABASE", value, None), want, "{value}");
        }
    }

    #[test]
    fn a_password_that_is_an_ordinary_word_is_hidden_in_urls_only() {
        assert_eq!(hidden("DB", "postgres://postgres:postgres@localhost", None), [":postgres@"]);
        assert_eq!(hidden("DB", "redis://:pw@host", None), [":pw@"]);
        assert_eq!(hidden("DB", "redis://guest:guest@host", None), [":guest@"]);
    }

    #[test]
    fn what_is_hidden_of_a_long_value_is_found_in_proportion_to_its_length() {
        // In quadratic time this would take minutes.
        for part in ["://", "a:b@", "x://a:b@", "k=;", "://x "] {
            assert!(hidden("DB", &part.repeat(40_000), None).len() <= 3 * MAX_PASSWORDS, "{part}");
        }
    }

    #[test]
    fn keys_of_a_service_account_are_hidden_as_their_users_print_them() {
        let value = r#"{"type": "service_account", "project_id": "blue-lake", "private_key_id": "9f8e7d6c5b4a",
            "private_key": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\n-----END PRIVATE KEY-----\n",
            "token_uri": "https://oauth2.example/token", "more": [{"clientSecret": "orchid-morning"}]}"#;
        let key = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADAN\n-----END PRIVATE KEY-----\n";
        assert_eq!(hidden("ACCOUNT", value, None), ["orchid-morning", key, "9f8e7d6c5b4a"]);
        assert_eq!(hidden("GOOGLE_CREDENTIALS", value, None), [value, "orchid-morning", key, "9f8e7d6c5b4a"]);
        assert!(hidden("ACCOUNT", value, Some(false)).is_empty());
        let file = r"-----BEGIN RSA PRIVATE KEY-----\nMIIEvQIBADAN\n";
        assert_eq!(hidden("PEM", file, None), [file]);
        assert!(hidden("CONFIG", r#"{"model": "gpt-4o", "max_tokens": 5}"#, None).is_empty());
    }

    #[test]
    fn plain_words_of_a_json_value_are_hidden_under_a_password_alone() {
        let chain = r#"{"model": "gpt-4o", "input_key": "question", "memory_key": "chat_history", "auth_type": "bearer-token"}"#;
        assert!(hidden("CHAIN", chain, None).is_empty());
        let given = r#"{"password": "violet-harbor", "apiKey": "Zx-91-quartz", "client_secret": "plum"}"#;
        assert_eq!(hidden("DB", given, None), ["Zx-91-quartz", "violet-harbor"]);
        let config = r#"{"model": "gpt-4o-mini-2024-07-18", "github": "ghp_16C7e42F292c6912E7710c838347Ae178B4a"}"#;
        assert_eq!(hidden("CONFIG", config, None), ["ghp_16C7e42F292c6912E7710c838347Ae178B4a"]);
    }

    #[test]
    fn what_the_user_says_of_a_value_decides() {
        assert_eq!(hidden("ZONE", "tiger", Some(true)), ["tiger"]);
        let url = "postgres://app:correcthorse@h";
        assert_eq!(hidden("ZONE", url, Some(true)), [url, "correcthorse"]);
        for (name, value) in [("API_KEY", "plum-harvest-moon"), ("REF", "9f8e7d6c5b4a39281706f5e4"), ("URL", url)] {
            assert!(hidden(name, value, Some(false)).is_empty(), "{name}");
        }
    }

    #[test]
    fn plain_words_and_numbers_under_a_secrets_name_stay_readable() {
        for value in ["true", "basic", "8080", "abc"] {
            assert!(hidden("USE_AUTH", value, None).is_empty(), "{value}");
        }
        assert_eq!(hidden("USE_AUTH", "abcd5", None), ["abcd5"]);
    }
}
